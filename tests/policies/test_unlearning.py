"""Unlearning orders: who may not give one, what is none, and that one that holds says what was signed."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from licet.ledger.errors import FormatError, LicetError, LimitError, NotFoundError
from licet.ledger.log import Ledger
from licet.ledger.note import SigningKey
from licet.ledger.records import (
    AttestationRecorded,
    ClaimedMs,
    Digest,
    PolicyAdopted,
    SourceRegistered,
    SourceState,
    SourceStateChanged,
)
from licet.policies import dsse
from licet.policies.acts import NotEntitledError, revoke, rotate_source
from licet.policies.attestation import attestation_id
from licet.policies.reasons import Refused
from licet.policies.registry import Registry
from licet.policies.unlearning import (
    ORDER_BYTES_MAX,
    PAYLOAD_TYPE,
    OrderTerms,
    Scope,
    UnlearningRefused,
    open_order,
    sign_order,
)
from tests.policies import signed

ORIGIN = "example.org/registry"
OPERATOR = SigningKey(ORIGIN, signed.key("registry").private)
NOW, DAY = ClaimedMs(signed.NOW_MS), signed.DAY_MS
CLASSES = "".join(
    f'[authority.{name}]\nceiling = {{ "*" = 0.0 }}\nrights = {rights}\nskills = []\n'
    for name, rights in (("court", '["revoke"]'), ("editor", '["review"]'), ("aligner", '["align"]'))
)
POLICY = signed.policy_text(tail=CLASSES)
WHO = {"ada": "publisher", "bob": "publisher", "judge": "court", "ed": "editor", "al": "aligner"}
HELD, OTHER, LATER = (signed.envelope(content=text) for text in ("revoked", "not revoked", "revoked tomorrow"))
ID = attestation_id(HELD)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("registry") / "log"


@pytest.fixture(scope="module")
def registry(path):
    """Five sources; of ada's three attestations one is revoked, and one will be."""
    with Ledger.create(path, OPERATOR) as log:
        log.append(PolicyAdopted(signed.digest(POLICY), POLICY, "operator", NOW))
        for name, authority in WHO.items():
            log.append(SourceRegistered(name, name, str(signed.key(name).verifier), authority, NOW))
        for envelope in (HELD, OTHER, LATER):
            log.append(AttestationRecorded(attestation_id(envelope), "ada", signed.licence(), envelope, NOW))
        for envelope, effective in ((HELD, NOW), (LATER, NOW + DAY)):
            log.append(revoked(envelope, effective))
        log.commit()
        yield Registry.read(log)


def revoked(envelope, effective=NOW):
    digest = attestation_id(envelope)
    return revoke(ORIGIN, digest, effective_ms=effective, reason="gone", by=ORIGIN, key=OPERATOR, at_ms=NOW)


def terms(by="ada", **changes):
    usual = OrderTerms(
        *(ORIGIN, ID, by, Scope.BANDS, (("*", -0.5), ("surface", -1.0)), 0.05, "It was recited.\nOften."),
        *(NOW, ClaimedMs(NOW + DAY)),
    )
    return replace(usual, **changes)


def order(by="ada", key=None, **changes):
    return sign_order(terms(by, **changes), key or (OPERATOR if by == ORIGIN else signed.key(by)))


def opened(registry, envelope, at_ms=NOW, **more):
    return open_order(envelope, registry, at_ms=at_ms, **more)


# -- who may not


@pytest.mark.parametrize("by", ["bob", "al"])
def test_others_may_not_order_it(registry, by):
    with pytest.raises(NotEntitledError, match="may not order") as refused:
        opened(registry, order(by))
    assert "revoke or review" in refused.value.remedy


@pytest.mark.parametrize(("by", "key"), [("ada", "bob"), ("judge", "ada"), (ORIGIN, "ada"), ("ada", "registry")])
def test_another_key_signs_for_nobody(registry, by, key):
    with pytest.raises(UnlearningRefused, match="not signed with its key"):
        opened(registry, order(by, signed.key(key)))


def test_nobody_signed(registry):
    bare = dsse.spell(dsse.Envelope(terms().statement, PAYLOAD_TYPE, ()))
    with pytest.raises(UnlearningRefused, match="not signed"):
        opened(registry, bare)


def test_a_source_that_is_not_registered(registry):
    with pytest.raises(Refused):
        opened(registry, order("mallory"))


def test_who_is_suspended_or_signs_with_an_old_key(tmp_path):
    new = SigningKey("ada", signed.key("ada2").private)
    with Ledger.create(tmp_path / "log", OPERATOR) as log:
        for name in ("ada", "judge"):
            log.append(SourceRegistered(name, name, str(signed.key(name).verifier), WHO[name], NOW))
        log.append(AttestationRecorded(ID, "ada", signed.licence(), HELD, NOW))
        log.append(revoked(HELD))
        log.commit()
        assert opened(Registry.read(log), order("ada")).rights == frozenset()
        with pytest.raises(NotEntitledError):  # no policy gives anybody a right
            opened(Registry.read(log), order("judge"))
        log.append(PolicyAdopted(signed.digest(POLICY), POLICY, "operator", NOW))
        old = signed.key()
        log.append(rotate_source(ORIGIN, "ada", old=str(old.verifier), new=new.verifier, by="ada", key=old, at_ms=NOW))
        log.append(SourceStateChanged("judge", SourceState.SUSPENDED, "why", ORIGIN, NOW))
        log.commit()
        registry = Registry.read(log)
        with pytest.raises(UnlearningRefused, match="not signed with its key"):
            opened(registry, order("ada"))
        assert opened(registry, order("ada", new))
        with pytest.raises(NotEntitledError, match="suspended"):
            opened(registry, order("judge"))


# -- what it is about


@pytest.mark.parametrize(
    ("envelope", "at_ms", "said"),
    [(OTHER, NOW, "is active"), (LATER, NOW, "is active"), (LATER, NOW + DAY - 1, "is active")],
    ids=["never revoked", "not yet revoked", "nearly revoked"],
)
def test_only_what_is_revoked_is_unlearned(registry, envelope, at_ms, said):
    asked = order(attestation=attestation_id(envelope), valid_until_ms=ClaimedMs(NOW + 2 * DAY))
    with pytest.raises(UnlearningRefused, match=said):
        opened(registry, asked, at_ms)


def test_it_may_be_unlearned_from_when_it_is_revoked(registry):
    asked = order(attestation=attestation_id(LATER), valid_until_ms=ClaimedMs(NOW + 2 * DAY))
    assert opened(registry, asked, NOW + DAY).terms.attestation == attestation_id(LATER)


def test_an_attestation_that_is_not_recorded(registry):
    with pytest.raises(NotFoundError):
        opened(registry, order(attestation=Digest(bytes(32))))


def test_an_order_about_another_attestation(registry):
    with pytest.raises(UnlearningRefused, match="about the attestation"):
        opened(registry, order(), attestation=attestation_id(OTHER))
    assert opened(registry, order(), attestation=ID)


@pytest.mark.parametrize("at_ms", [NOW - 1, NOW + DAY, 0], ids=str)
def test_an_order_holds_for_its_time_only(registry, at_ms):
    with pytest.raises(UnlearningRefused, match="holds from"):
        opened(registry, order(), at_ms)


def test_an_order_for_another_registry(registry):
    with pytest.raises(UnlearningRefused, match="registry"):
        opened(registry, order(registry="example.org/other"))


# -- what is none


@pytest.mark.parametrize(
    "changes",
    [
        {"weights": (("surface", 0.5),)},
        {"weights": (("surface", -1.0), ("behavioral", 1e-9))},
        {"weights": (("surface", -1.01),)},
        {"weights": (("surface", float("nan")),)},
        {"weights": (("surface", float("-inf")),)},
        {"weights": (("surface", True),)},
        {"weights": (("surface", -1.0), ("surface", -0.5))},
        {"weights": (("surface", 0.0),)},
        {"weights": (("", -1.0),)},
        {"weights": (("a\nb", -1.0),)},
        {"weights": ()},
        {"weights": tuple((str(n), -1.0) for n in range(5_000))},
        {"damage_max": -0.01},
        {"damage_max": 1.5},
        {"damage_max": float("nan")},
        {"reason": ""},
        {"reason": "\x1b[2J"},
        {"reason": "x" * 5_000},
        {"attestation": Digest(b"short")},
        {"valid_until_ms": NOW},
        {"valid_until_ms": ClaimedMs(-5)},
    ],
    ids=lambda changes: " ".join(f"{name} {str(value)[:30]}" for name, value in changes.items()),
)
def test_terms_that_are_none(changes):
    with pytest.raises(FormatError) as refused:
        terms(**changes)
    assert refused.value.message


def test_what_would_not_be_read_back_is_not_signed():
    with pytest.raises(FormatError, match="read back"):
        order(weights=(("surface", -1.0), ("*", -0.5)))
    with pytest.raises(LicetError):
        order(valid_until_ms=ClaimedMs(10**18))


def signed_anyway(payload, payload_type=PAYLOAD_TYPE):
    return dsse.sign(payload, payload_type, signed.key())


def spelled(**changes):
    fields = {**json.loads(terms().statement), **changes}
    held = {name: value for name, value in fields.items() if value is not ...}
    return json.dumps(held, sort_keys=True, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    "changes",
    [
        *({name: ...} for name in json.loads(terms().statement)),
        *({name: None} for name in json.loads(terms().statement)),
        {"more": 1},
        {"order": 2},
        {"order": True},
        {"scope": "layers"},
        {"weights": [-1]},
        {"weights": {"surface": "-1"}},
        {"weights": {"surface": 1.0}},
        {"weights": {"surface": -1}},
        {"weights": {"surface": -(10**400)}},
        {"damageMax": "0.05"},
        {"damageMax": 2},
        {"reason": 7},
        {"attestation": ID.hex().upper()},
        {"by": ""},
        {"validFrom": "yesterday"},
        {"validUntil": "2027-01-15T08:00:00.0Z"},
    ],
    ids=lambda changes: " ".join(f"{name}-{ascii(value)[:24]}" for name, value in changes.items()),
)
def test_payloads_that_are_no_order(registry, changes):
    assert opened(registry, signed_anyway(spelled()))
    with pytest.raises(FormatError):
        opened(registry, signed_anyway(spelled(**changes)))


@pytest.mark.parametrize("payload", [b"", b"null", b"[]", b"\xff", b"[" * 60_000, b'{"by":"ada","by":"bob"}'])
def test_bytes_that_are_no_order(registry, payload):
    with pytest.raises(FormatError):
        opened(registry, signed_anyway(payload))
    with pytest.raises(FormatError):
        opened(registry, payload)


def test_something_else_in_an_envelope(registry):
    with pytest.raises(FormatError, match="no unlearning order"):
        opened(registry, HELD)
    with pytest.raises(FormatError, match="no unlearning order"):
        opened(registry, signed_anyway(terms().statement, "application/json"))
    with pytest.raises(LimitError):
        opened(registry, b" " * (ORDER_BYTES_MAX + 1))


@given(st.integers(0, 10_000), st.integers(0, 255))
def test_what_is_altered_is_refused_or_means_the_same(registry, place, byte):
    """Only what DSSE leaves unsigned may differ, and that changes neither the order nor its name."""
    whole = bytearray(order())
    whole[place % len(whole)] = byte
    try:
        found = opened(registry, bytes(whole))
    except LicetError:
        return
    assert (found.terms, found.id) == (terms(), opened(registry, order()).id)


# -- what holds


@pytest.mark.parametrize(
    ("by", "rights"),
    [("ada", set()), (ORIGIN, set()), ("judge", {"revoke"}), ("ed", {"review"})],
    ids=["its source", "the operator", "a class that revokes", "a class that reviews"],
)
def test_an_order_that_holds(registry, by, rights):
    found = opened(registry, order(by))
    assert (found.terms, found.rights) == (terms(by), rights)
    assert (found.registry_size, found.at_ms) == (registry.size, NOW)
    assert found.rule == f"unlearning.{found.id.hex()}"


weights = st.dictionaries(
    st.text("abc.*-é", min_size=1, max_size=12), st.floats(-1, -0.001), min_size=1, max_size=6
).map(lambda found: tuple(sorted(found.items())))


@given(weights, st.sampled_from(Scope), st.floats(0, 1), st.integers(1, DAY))
def test_an_order_is_read_as_it_was_given(registry, held, scope, damage, lasts):
    changes = {"weights": held, "scope": scope, "damage_max": damage, "valid_until_ms": ClaimedMs(NOW + lasts)}
    assert opened(registry, order(**changes)).terms == terms(**changes)


def test_an_order_has_one_name_however_its_envelope_is_spelled(registry):
    other = json.dumps(json.loads(order()), indent=1).encode()
    assert opened(registry, other).id == opened(registry, order()).id
