"""The registry against real logs: what counts, what does not, and what is claimed of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from licet.ledger.errors import ConfigError, LicetError, NotFoundError, OrderError, SignatureError, VerificationError
from licet.ledger.log import Ledger
from licet.ledger.note import SigningKey
from licet.ledger.reader import LogReader
from licet.ledger.records import (
    AttestationRecorded,
    ClaimedMs,
    LicenceKind,
    LicenceRevoked,
    Opaque,
    PolicyAdopted,
    SourceRegistered,
    SourceState,
    SourceStateChanged,
)
from licet.policies.acts import (
    NotEntitledError,
    check_source_id,
    revocation_statement,
    revoke,
    rotate_source,
)
from licet.policies.attestation import attestation_id, open_envelope
from licet.policies.bands import Architecture
from licet.policies.evaluate import evaluate
from licet.policies.policy import Policy
from licet.policies.reasons import Reason, Refused
from licet.policies.registry import Registry
from licet.policies.rights import LicenceState
from tests.policies import signed

ORIGIN = "example.org/registry"
MODEL = Architecture.uniform(12, embedding=10, layer=10, head=10)
NOW = ClaimedMs(signed.NOW_MS)
POLICY = signed.policy_text(tail='[authority.court]\nceiling = { "*" = 0.0 }\nrights = ["revoke"]\nskills = []\n')


def registered(source, authority="publisher", key=None):
    return SourceRegistered(source, source.title(), str((key or signed.key(source)).verifier), authority, NOW)


def recorded(envelope, said=None):
    known = [signed.registration("ada", keys=(ADA2, signed.key("ada"))), signed.registration("bob")]
    said = said or open_envelope(envelope, known).statement
    return AttestationRecorded(attestation_id(envelope), said.source, said.licence, envelope, NOW)


def adopted(text=POLICY, digest=None):
    return PolicyAdopted(digest or signed.digest(text), text, "operator", NOW)


def revoked(envelope, by=ORIGIN, key=None, effective_ms=NOW, reason="withdrawn"):
    key = key or signed.key("registry")
    digest = attestation_id(envelope)
    return revoke(ORIGIN, digest, effective_ms=effective_ms, reason=reason, by=by, key=key, at_ms=NOW)


def rotated(source, old, new, by=None, key=None):
    return rotate_source(
        ORIGIN, source, old=str(old.verifier), new=new.verifier, by=by or source, key=key or old, at_ms=NOW
    )


def state(source, to=SourceState.SUSPENDED, by=ORIGIN):
    return SourceStateChanged(source, to, "a reason", by, NOW)


OPERATOR = SigningKey(ORIGIN, signed.key("registry").private)
ADA2 = SigningKey("ada", signed.key("ada2").private)


@pytest.fixture
def log(tmp_path):
    with Ledger.create(tmp_path / "registry", OPERATOR) as ledger:
        yield ledger


def read(log, *records):
    for record in records:
        log.append(record)
    log.commit()
    return Registry.read(log)


def only_problem(registry):
    ((index, message),) = [(p.index, p.message) for p in registry.audit()]
    return index, message


# -- what does not count


def test_an_empty_registry_knows_nobody(log):
    registry = Registry.read(log)
    assert registry.sources == () and registry.adopted is None and registry.audit() == ()
    with pytest.raises(Refused) as refused:
        registry.source("ada")
    assert refused.value.reason is Reason.SOURCE_UNREGISTERED
    with pytest.raises(NotFoundError, match="policy adopt"):
        registry.policy()


def test_another_operator_is_refused(log):
    assert Registry.read(log, OPERATOR.verifier).operator_key == OPERATOR.verifier
    with pytest.raises(VerificationError):
        Registry.read(log, signed.key("mallory").verifier)


@pytest.mark.parametrize(
    ("second", "said"),
    [
        pytest.param(registered("ada", key=signed.key("other")), "already", id="an id twice"),
        pytest.param(registered("bob", key=signed.key("ada")), "is or was", id="another's key"),
        pytest.param(registered("bob", key=OPERATOR), "is or was", id="the operator's key"),
        pytest.param(replace(registered("bob"), source="../bob"), "cannot be the id", id="a path"),
        pytest.param(replace(registered("bob"), source="b\nob"), "cannot be the id", id="two lines"),
        pytest.param(replace(registered("bob"), display_name="\x1b[2J"), "plain text", id="terminal tricks"),
        pytest.param(replace(registered("bob"), display_name=" "), "plain text", id="no name"),
        pytest.param(replace(registered("bob"), verifier_key="nonsense"), "not a verifier key", id="no key"),
        pytest.param(
            replace(registered("bob"), verifier_key=str(signed.key("bob").witness_verifier)),
            "witness",
            id="a witness's key",
        ),
        pytest.param(state("nobody"), "not registered", id="state of nobody"),
        pytest.param(state("ada", SourceState.ACTIVE), "already", id="active already"),
        pytest.param(state("ada", by="ada"), "Only the operator", id="suspends itself"),
        pytest.param(rotated("nobody", signed.key(), ADA2), "not registered", id="rotation of nobody"),
        pytest.param(rotated("ada", ADA2, signed.key("b")), "does not sign", id="rotation of a wrong key"),
        pytest.param(rotated("ada", signed.key(), ADA2, key=ADA2), "does not match", id="rotation by the new key"),
        pytest.param(rotated("ada", signed.key(), ADA2, by=ORIGIN), "does not match", id="rotation as the operator"),
        pytest.param(rotated("ada", signed.key(), ADA2, by="bob"), "Only ada", id="rotation by another"),
        pytest.param(rotated("ada", signed.key(), signed.key()), "is or was", id="rotation to the same"),
        pytest.param(adopted(digest=signed.digest("other")), "digest", id="a policy under another digest"),
    ],
)
def test_a_record_without_the_right_changes_nothing_and_is_named(log, second, said):
    before = read(log, registered("ada"))
    registry = read(log, second)
    index, message = only_problem(registry)
    assert index == 2 and said in message
    assert registry.sources == before.sources and registry.adopted is None
    with pytest.raises(LicetError, match=said):
        before.check(second)


def test_an_entry_of_a_newer_release_refuses_the_whole(log):
    with pytest.raises(LicetError, match="newer release"):
        read(log, registered("ada"), Opaque(LicenceRevoked.KIND, 9, b""))


def test_attestations_that_do_not_hold_do_not_count(log):
    good, early, foreign = signed.envelope(), signed.envelope(content="early"), signed.envelope(source="bob")
    forged = signed.envelope(content="forged", by=SigningKey("ada", signed.key("mallory").private))
    lie = replace(recorded(signed.envelope(content="lie")), licence=signed.licence(LicenceKind.PUBLIC_DOMAIN))
    suspended = signed.envelope(content="suspended")
    registry = read(
        log,
        recorded(early),  # 1: not registered yet
        registered("ada"),
        recorded(good),  # 3
        recorded(foreign),  # 4: nobody knows bob
        recorded(forged, said=signed.statement()),  # 5
        lie,  # 6
        replace(recorded(signed.envelope(content="misnamed")), attestation=signed.digest("x")),  # 7
        state("ada"),
        recorded(suspended),  # 9
        recorded(good),  # 10
    )
    assert registry.problems == ()  # nothing was asked for yet
    assert [p.index for p in registry.audit()] == [1, 4, 5, 6, 7, 9, 10]
    assert [one.index for one in registry.attestations()] == [3]
    assert registry.attestation(attestation_id(good)).attestation.envelope == good
    for envelope in (early, foreign, forged, suspended):
        with pytest.raises(NotFoundError):
            registry.attestation(attestation_id(envelope))


def test_a_suspended_source_cannot_record(log):
    registry = read(log, registered("ada"), state("ada"))
    with pytest.raises(Refused) as refused:
        registry.check(recorded(signed.envelope()))
    assert refused.value.reason is Reason.SOURCE_SUSPENDED
    read(log, state("ada", SourceState.ACTIVE)).check(recorded(signed.envelope()))


# -- keys


def test_what_was_recorded_outlives_its_key_and_nothing_new_does(log):
    old, late, new = signed.envelope(), signed.envelope(content="late"), signed.envelope(content="new", by=ADA2)
    registry = read(
        log, registered("ada"), recorded(old), rotated("ada", signed.key(), ADA2), recorded(late), recorded(new)
    )
    assert registry.source("ada").registration.verifier_keys == (str(ADA2.verifier), str(signed.key().verifier))
    assert registry.source_with_key(ADA2.verifier) and registry.source_with_key(signed.key().verifier) is None
    assert [one.index for one in registry.attestations()] == [2, 5]
    assert only_problem(registry)[0] == 4


def test_an_unrecorded_envelope_needs_the_current_key(log):
    late = signed.envelope(content="late")
    policy = Policy.parse(signed.policy_text())
    before = read(log, registered("ada")).standing(late, NOW)
    after = read(log, rotated("ada", signed.key(), ADA2)).standing(late, NOW)
    example = signed.example(envelope=late, content=signed.digest("late"), content_bytes=4)
    assert not evaluate(replace(example, standing=before), [policy], MODEL).reasons
    rejected = evaluate(replace(example, standing=after), [policy], MODEL)
    assert Reason.ATTESTATION_WRONG_KEY in rejected.reasons


def test_the_operator_replaces_a_lost_key(log):
    registry = read(log, registered("ada"), rotated("ada", signed.key(), ADA2, by=ORIGIN, key=OPERATOR))
    assert registry.source("ada").key == str(ADA2.verifier) and not registry.problems


def test_after_the_registry_changed_its_key_only_the_new_one_acts(log):
    envelope, new = signed.envelope(), SigningKey(ORIGIN, signed.key("new-registry").private)
    read(log, registered("ada"), recorded(envelope))
    log.rotate_key(new, reason="yearly")
    registry = read(log, revoked(envelope))
    assert "does not match" in only_problem(registry)[1] and not registry.revocations(attestation_id(envelope))
    assert registry.operator_key == new.verifier
    registry = read(log, revoked(envelope, key=new))
    assert len(registry.revocations(attestation_id(envelope))) == 1


# -- revocations


@pytest.mark.parametrize(
    ("by", "key", "holds"),
    [
        pytest.param(ORIGIN, "registry", True, id="the operator"),
        pytest.param("ada", "ada", True, id="the source"),
        pytest.param("judge", "judge", True, id="a class with the right"),
        pytest.param("bob", "bob", False, id="another source"),
        pytest.param("ada", "bob", False, id="another in the source's name"),
        pytest.param(ORIGIN, "ada", False, id="the source in the operator's name"),
        pytest.param("nobody", "nobody", False, id="nobody"),
    ],
)
def test_who_may_revoke(log, by, key, holds):
    envelope = signed.envelope()
    registry = read(
        log, registered("ada"), registered("bob"), registered("judge", "court"), adopted(), recorded(envelope)
    )
    record = revoked(envelope, by, signed.key(key))
    if holds:
        registry.check(record)
    else:
        with pytest.raises((NotEntitledError, SignatureError)):
            registry.check(record)
    after = read(log, record)
    assert bool(after.revocations(attestation_id(envelope))) is holds
    assert bool(after.problems) is not holds
    assert after.licence_state(attestation_id(envelope), NOW) is (
        LicenceState.REVOKED if holds else LicenceState.ACTIVE
    )
    assert after.licence_state(attestation_id(envelope), NOW - 1) is LicenceState.ACTIVE


def test_the_right_to_revoke_ends_with_suspension_and_with_the_policy(log):
    envelope = signed.envelope()
    judge = revoked(envelope, "judge", signed.key("judge"))
    registry = read(log, registered("ada"), registered("judge", "court"), recorded(envelope))
    with pytest.raises(NotEntitledError):
        registry.check(judge)  # no policy yet
    read(log, adopted()).check(judge)
    with pytest.raises(NotEntitledError):
        read(log, state("judge")).check(judge)
    with pytest.raises(NotEntitledError):
        read(log, state("judge", SourceState.ACTIVE), adopted(signed.policy_text())).check(judge)
    unreadable = read(log, adopted("licet = 99"))
    with pytest.raises(NotEntitledError):
        unreadable.check(judge)
    with pytest.raises(ConfigError):
        unreadable.policy()


def test_a_suspended_source_may_still_withdraw_what_is_its_own(log):
    envelope = signed.envelope()
    registry = read(log, registered("ada"), recorded(envelope), state("ada"))
    registry.check(revoked(envelope, "ada", signed.key()))


@pytest.mark.parametrize("field", ["reason", "effective_ms", "attestation", "by"])
def test_a_revocation_is_signed_whole(log, field):
    envelope, other = signed.envelope(), signed.envelope(content="other")
    registry = read(log, registered("ada"), recorded(envelope), recorded(other))
    changed = {"reason": "x", "effective_ms": ClaimedMs(NOW - 9), "attestation": attestation_id(other), "by": "ada"}
    with pytest.raises((SignatureError, NotEntitledError)):
        registry.check(replace(revoked(envelope), **{field: changed[field]}))


def test_a_revocation_for_another_registry_counts_nowhere_else(log):
    envelope = signed.envelope()
    registry = read(log, registered("ada"), recorded(envelope))
    digest = attestation_id(envelope)
    foreign = revoke("other.org/r", digest, effective_ms=NOW, reason="x", by="ada", key=signed.key(), at_ms=NOW)
    with pytest.raises(SignatureError):
        registry.check(foreign)


_LINES = st.text(st.sampled_from("ab\n1"), max_size=6)


@settings(max_examples=200)
@given(st.tuples(st.integers(0, 20), _LINES), st.tuples(st.integers(0, 20), _LINES))
def test_two_revocations_are_never_signed_alike(a, b):
    digest = signed.digest("x")
    spelled = [revocation_statement(ORIGIN, digest, effective, "ada", reason) for effective, reason in (a, b)]
    assert (spelled[0] == spelled[1]) is (a == b)


@given(st.text(max_size=200))
def test_an_id_of_a_source_is_plain_or_refused(text):
    try:
        check_source_id(text)
    except LicetError:
        return
    assert text.isascii() and not set(text) & set("/\\\n +") and not text.startswith(".")


# -- standings


def chain(log):
    """first ← middle ← last, of two sources."""
    first = signed.envelope(content="first")
    middle = signed.envelope(source="bob", content="middle", upstream=(attestation_id(first),))
    last = signed.envelope(upstream=(attestation_id(middle),))
    records = [registered(name) for name in ("ada", "bob", "cid")]
    return read(log, *records, *(recorded(one) for one in (first, middle, last))), first, middle, last


def test_a_standing_has_what_an_example_rests_on_and_nothing_else(log):
    registry, first, middle, last = chain(log)
    registry = read(log, revoked(first), revoked(signed.envelope(content="unrelated")))
    standing = registry.standing(attestation_id(last), NOW)
    assert [one.source for one in standing.sources] == ["ada", "bob"]
    assert standing.upstream == (middle, first)
    assert [one.attestation for one in standing.revocations] == [attestation_id(first)]
    assert (standing.registry, standing.size, standing.at_ms) == (ORIGIN, registry.size, NOW)
    assert registry.standing(last, NOW) == standing and registry.standing(attestation_id(last), NOW) is not None
    assert registry.standing(attestation_id(first), NOW).upstream == ()
    assert registry.standing(None, NOW).sources == ()


def test_the_gate_takes_what_the_registry_says(log):
    registry, _, middle, last = chain(log)
    policy = Policy.parse(signed.policy_text())
    example = signed.example(envelope=last, standing=registry.standing(last, NOW), slope=2)
    assert evaluate(example, [policy], MODEL).determination.value.startswith("admitted")
    after = read(log, revoked(middle))
    rejected = evaluate(replace(example, standing=after.standing(last, NOW)), [policy], MODEL)
    assert rejected.reasons == (Reason.SLOPE_UPSTREAM_INVALID,)


def test_unknown_and_hostile_envelopes_have_an_empty_standing(log):
    registry = read(log, registered("ada"))
    for envelope in (b"", b"{", b"\xff" * 100, b"[" * 50_000, signed.envelope(source="bob"), b"x" * 100_000):
        assert registry.standing(envelope, NOW).sources == ()
    forged = signed.envelope(by=SigningKey("ada", signed.key("mallory").private))
    assert [one.source for one in registry.standing(forged, NOW).sources] == ["ada"]
    with pytest.raises(NotFoundError):
        registry.standing(signed.digest("nothing"), NOW)


def test_a_standing_is_confirmed_as_of_its_size(log):
    registry, _, _, last = chain(log)
    standing = registry.standing(last, NOW)
    digest = attestation_id(last)
    registry.confirm(standing, last)
    later = read(log, revoked(last), state("bob"), rotated("ada", signed.key(), ADA2))
    later.confirm(standing, digest)
    assert later.standing(digest, NOW) != standing
    later.confirm(later.standing(digest, NOW), last)
    with pytest.raises(VerificationError, match="Catch up"):
        registry.confirm(later.standing(digest, NOW), last)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda s: replace(s, registry="other"), id="another registry"),
        pytest.param(lambda s: replace(s, size=0), id="no size"),
        pytest.param(lambda s: replace(s, size=99), id="a size to come"),
        pytest.param(lambda s: replace(s, size=s.size - 1), id="before the revocation"),
        pytest.param(lambda s: replace(s, sources=s.sources[1:]), id="a source left out"),
        pytest.param(lambda s: replace(s, sources=(*s.sources, s.sources[0])), id="a source twice"),
        pytest.param(
            lambda s: replace(s, sources=(replace(s.sources[0], authority="court"), *s.sources[1:])), id="another class"
        ),
        pytest.param(
            lambda s: replace(s, sources=(*s.sources[:1], replace(s.sources[1], verifier_keys=("x",)))),
            id="another key",
        ),
        pytest.param(lambda s: replace(s, revocations=()), id="a revocation left out"),
        pytest.param(
            lambda s: replace(s, revocations=(replace(s.revocations[0], effective_ms=NOW + 9),)),
            id="a later revocation",
        ),
        pytest.param(lambda s: replace(s, upstream=s.upstream[1:]), id="an attestation left out"),
        pytest.param(lambda s: replace(s, upstream=(*s.upstream[1:], b"x")), id="another attestation"),
    ],
)
def test_a_false_standing_is_refused(log, change):
    _, _, _, last = chain(log)
    registry = read(log, revoked(last))
    with pytest.raises(VerificationError):
        registry.confirm(change(registry.standing(last, NOW)), last)


def test_without_a_size_limit_a_chain_would_not_end(log):
    """A chain of more attestations than any policy allows is cut, so that the gate refuses it."""
    records, behind = [registered("ada")], ()
    for i in range(260):
        envelope = signed.envelope(content=str(i), upstream=behind)
        records.append(recorded(envelope))
        behind = (attestation_id(envelope),)
    registry = read(log, *records)
    standing = registry.standing(behind[0], NOW)
    assert len(standing.upstream) == 256
    example = signed.example(envelope=envelope, standing=standing, content=signed.digest("259"), slope=9)
    assert evaluate(example, [Policy.parse(signed.policy_text())], MODEL).reasons[0] is Reason.SLOPE_TOO_LONG


# -- finding, and readers beside the writer


def test_an_attestation_is_found_by_the_first_digits_of_its_id(log):
    envelope = signed.envelope()
    registry = read(log, registered("ada"), recorded(envelope))
    digits = attestation_id(envelope).hex()
    for length in (8, 9, 33, 64):
        assert registry.find(digits[:length].upper()).index == 2
    for wrong in ("", digits[:7], digits + "0", "zz" * 8, "−" * 8):
        with pytest.raises(ConfigError):
            registry.find(wrong)
    with pytest.raises(NotFoundError):
        registry.find("00000000" if not digits.startswith("00000000") else "11111111")


def test_a_reader_sees_its_moment(log, tmp_path):
    envelope = signed.envelope()
    log.append(registered("ada"))
    log.commit()
    with LogReader.open(tmp_path / "registry") as reader:
        before = Registry.read(reader)
        log.append(recorded(envelope))
        log.commit()
        reader.refresh()
        assert not before.has_attestation(attestation_id(envelope))
        assert Registry.read(reader).has_attestation(attestation_id(envelope))


def test_taking_in_what_is_appended_gives_what_reading_gives(log):
    registry, envelope = Registry.read(log), signed.envelope()
    for record in (registered("ada"), adopted(), recorded(envelope), revoked(envelope), state("ada")):
        registry.check(record)
        registry.take_in(log.append(record), record)
    log.commit()
    again = Registry.read(log)
    assert registry.size == again.size and registry.sources == again.sources
    assert registry.standing(envelope, NOW) == again.standing(envelope, NOW)
    with pytest.raises(OrderError):
        registry.take_in(99, state("ada"))
