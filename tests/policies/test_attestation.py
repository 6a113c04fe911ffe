"""Attestations: every way in which one must be refused, each with its code; then what comes back of a good one."""

from __future__ import annotations

import base64
import json
import random
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from licet.ledger.note import SigningKey
from licet.ledger.records import Licence, LicenceKind, Recall
from licet.policies import attestation as a
from licet.policies import dsse, times
from licet.policies.provenance import Custody, Labels, Provenance
from licet.policies.reasons import Reason, Refused
from tests.policies import signed

SCHEMA = json.loads((Path(a.__file__).parent / "schemas" / "attestation-v1.json").read_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
SOURCES = [signed.registration("ada"), signed.registration("bob")]
ENVELOPE = signed.envelope()
RICH = signed.statement(
    kind=LicenceKind.SYNTHETIC,
    spdx="MIT OR Apache-2.0",
    terms_uri="https://example.org/terms",
    valid_from_ms=signed.NOW_MS - 1,
    valid_until_ms=signed.NOW_MS + 123,
    jurisdictions=("EU", "US-CA"),
    bands=("surface",),
    skills=("law",),
    upstream=(signed.digest("up"),),
)


def document(said=None) -> dict:
    return json.loads(a.statement_bytes(said or signed.statement()))


def raw(value) -> bytes:
    return json.dumps(value).encode()


def sign(payload: bytes, key: SigningKey | None = None, payload_type: str = a.PAYLOAD_TYPE) -> bytes:
    return dsse.sign(payload, payload_type, key or signed.key())


def refusal(call, *arguments) -> Refused:
    with pytest.raises(Refused) as caught:
        call(*arguments)
    assert caught.value.message
    return caught.value


def why(envelope: bytes, sources=SOURCES) -> Reason:
    return refusal(a.open_envelope, envelope, sources).reason


def changed(**fields) -> bytes:
    """The envelope with other fields, in the one spelling."""
    return json.dumps({**json.loads(ENVELOPE), **fields}, sort_keys=True, separators=(",", ":")).encode()


# -- the envelope


@pytest.mark.parametrize(
    "bad", [b"", b"{}", b"[]", b"null", b"\xff", b"{", b'{"payload":1}', b"\xef\xbb\xbf{}", b'"x"']
)
def test_what_is_no_envelope(bad):
    assert why(bad) is Reason.ATTESTATION_MALFORMED


def test_a_bare_statement_is_no_envelope():
    assert why(a.statement_bytes(signed.statement())) is Reason.ATTESTATION_MALFORMED


@pytest.mark.parametrize("signatures", [[], [{"keyid": "ada+00000000", "sig": ""}]], ids=["none", "empty"])
def test_unsigned(signatures):
    assert why(changed(signatures=signatures)) is Reason.ATTESTATION_UNSIGNED


def test_signatures_left_out():
    fields = json.loads(ENVELOPE)
    del fields["signatures"]
    assert why(raw(fields)) is Reason.ATTESTATION_UNSIGNED


def test_another_payload_type():
    assert why(changed(payloadType="text/plain")) is Reason.ATTESTATION_MALFORMED
    rightly_signed = sign(a.statement_bytes(signed.statement()), payload_type="text/plain")
    assert why(rightly_signed) is Reason.ATTESTATION_MALFORMED


def test_a_key_that_is_not_registered():
    assert why(signed.envelope(by=signed.key("mallory"))) is Reason.ATTESTATION_WRONG_KEY


def test_a_source_that_is_not_registered():
    assert why(signed.envelope(source="mallory")) is Reason.SOURCE_UNREGISTERED
    assert why(ENVELOPE, []) is Reason.SOURCE_UNREGISTERED
    assert a.claimed_source(signed.envelope(source="mallory")) == "mallory"


def test_the_registered_key_of_another_source():
    refused = refusal(a.open_envelope, signed.envelope(by=signed.key("bob")), SOURCES)
    assert refused.reason is Reason.ATTESTATION_WRONG_KEY
    assert "ada" in str(refused)
    assert "bob" in str(refused)


def test_an_impostor_with_the_key_name_of_another():
    impostor = SigningKey("ada", signed.key("bob").private)
    assert why(signed.envelope(by=impostor)) is Reason.ATTESTATION_WRONG_KEY


def test_a_second_registration_brings_in_no_key():
    behind = [*SOURCES, signed.registration("ada", keys=(signed.key("mallory"),))]
    assert why(signed.envelope(by=signed.key("mallory")), behind) is Reason.ATTESTATION_WRONG_KEY


def test_keys_before_a_rotation_still_count_and_witness_keys_never_do():
    old, new = signed.key("ada/1"), signed.key("ada/2")
    both = [signed.registration("ada", keys=(new, old))]
    for key in (old, new):
        assert a.open_envelope(signed.envelope(by=key), both).statement.source == "ada"
    witness = str(signed.key().witness_verifier)
    only_witness = [a.Registration("ada", (witness,), "publisher", signed.SourceState.ACTIVE)]
    assert why(ENVELOPE, only_witness) is Reason.ATTESTATION_WRONG_KEY


def test_a_key_under_two_names_gives_one_id():
    first, second = signed.key("ada"), SigningKey("ada.two", signed.key("ada").private)
    twice = [signed.registration("ada", keys=(first, second))]
    assert a.open_envelope(signed.envelope(by=first), twice)
    assert why(signed.envelope(by=second), twice) is Reason.ATTESTATION_WRONG_KEY


@pytest.mark.parametrize("text", ["", "+", "ada+", "ada+1b7b11ef+", "\ud800+1+1", "x" * 5000, "ada+1b7b11ef+é"])
def test_registered_keys_that_are_none(text):
    odd = [a.Registration("ada", (text,), "publisher", signed.SourceState.ACTIVE)]
    assert why(ENVELOPE, odd) is Reason.ATTESTATION_WRONG_KEY
    behind = [a.Registration("ada", (text, *SOURCES[0].verifier_keys), "publisher", signed.SourceState.ACTIVE)]
    assert a.open_envelope(ENVELOPE, behind)


def test_a_tampered_payload():
    fields = document()
    fields["predicate"]["terms"]["skills"] = ["law"]
    assert why(changed(payload=base64.b64encode(raw(fields)).decode())) is Reason.ATTESTATION_TAMPERED


def test_a_tampered_digest():
    fields = document()
    fields["subject"][0]["digest"]["sha256"] = "0" * 64
    assert why(changed(payload=base64.b64encode(raw(fields)).decode())) is Reason.ATTESTATION_TAMPERED


def test_a_tampered_signature():
    signature = json.loads(ENVELOPE)["signatures"][0]
    for sig in (b"\0" * 64, b"\0" * 63, base64.b64decode(signature["sig"]) + b"\0"):
        spelled = base64.b64encode(sig).decode()
        assert why(changed(signatures=[{**signature, "sig": spelled}])) is Reason.ATTESTATION_TAMPERED


def test_the_signature_of_another_statement():
    other = json.loads(signed.envelope(content="other"))["signatures"]
    assert why(changed(signatures=other)) is Reason.ATTESTATION_TAMPERED


def test_a_document_of_ten_megabytes():
    big = b'{"payload":"' + b"A" * 10_000_000 + b'"}'
    assert why(big) is Reason.ATTESTATION_TOO_LARGE
    assert a.claimed_source(big) is None
    many = tuple(a.Subject(f"file {i}", signed.digest(str(i))) for i in range(600))
    assert refusal(signed.envelope, signed.statement(subjects=many)).reason is Reason.ATTESTATION_TOO_LARGE


@pytest.mark.parametrize("open_", ["[", '{"a":'], ids=["lists", "objects"])
def test_deep_nesting(open_):
    deep = (open_ * (a.ENVELOPE_BYTES_MAX // len(open_))).encode()
    assert why(deep) is Reason.ATTESTATION_MALFORMED
    assert refusal(a.parse_statement, deep).reason is Reason.ATTESTATION_MALFORMED
    closed = b"[" * 20_000 + b"]" * 20_000
    assert why(sign(closed)) is Reason.ATTESTATION_MALFORMED


def test_a_key_twice():
    twice = ENVELOPE.replace(b'"payloadType"', b'"payload":"e30=","payloadType"')
    assert why(twice) is Reason.ATTESTATION_MALFORMED
    payload = a.statement_bytes(signed.statement()).replace(b'"kind":', b'"kind":"exclusion","kind":')
    assert refusal(a.parse_statement, payload).reason is Reason.ATTESTATION_MALFORMED
    assert why(sign(payload)) is Reason.ATTESTATION_MALFORMED


def test_too_many_signatures():
    one = json.loads(ENVELOPE)["signatures"][0]
    assert why(changed(signatures=[one] * 17)) is Reason.ATTESTATION_MALFORMED


@pytest.mark.parametrize(
    "respell",
    [
        lambda e: e + b"\n",
        lambda e: b" " + e,
        lambda e: json.dumps(json.loads(e)).encode(),
        lambda e: json.dumps(dict(reversed(json.loads(e).items())), separators=(",", ":")).encode(),
        lambda e: e.replace(b"}]}", b'}],"extra":1}'),
        lambda e: e.replace(b"application/vnd", b"application\\/vnd"),
        lambda e: e.replace(b'"}]', b'","cert":"x"}]'),
    ],
    ids=["newline", "space", "spaces", "order", "field", "escape", "signature-field"],
)
def test_what_is_not_signed_cannot_give_a_second_id(respell):
    other = respell(ENVELOPE)
    assert other != ENVELOPE
    assert why(other) is Reason.ATTESTATION_MALFORMED
    assert a.adopt_envelope(other, SOURCES) == ENVELOPE


def test_a_second_signature_cannot_give_a_second_id():
    both = changed(
        signatures=json.loads(ENVELOPE)["signatures"] + json.loads(signed.envelope(source="bob"))["signatures"]
    )
    assert why(both) is Reason.ATTESTATION_MALFORMED
    assert a.adopt_envelope(both, SOURCES) == ENVELOPE


def test_adopting_refuses_what_opening_would():
    assert refusal(a.adopt_envelope, changed(signatures=[]), SOURCES).reason is Reason.ATTESTATION_UNSIGNED
    by_bob = signed.envelope(by=signed.key("bob"))
    assert refusal(a.adopt_envelope, by_bob, SOURCES).reason is Reason.ATTESTATION_WRONG_KEY
    assert refusal(a.adopt_envelope, ENVELOPE, []).reason is Reason.SOURCE_UNREGISTERED
    assert refusal(a.adopt_envelope, sign(b"{}"), SOURCES).reason is Reason.ATTESTATION_WRONG_KEY
    bad = document()
    bad["predicate"]["kind"] = "free"
    assert refusal(a.adopt_envelope, sign(raw(bad)), SOURCES).reason is Reason.ATTESTATION_MALFORMED


def test_every_flipped_bit_of_a_sample():
    for bit in random.Random(1).sample(range(len(ENVELOPE) * 8), 2500):
        flipped = bytearray(ENVELOPE)
        flipped[bit // 8] ^= 1 << bit % 8
        refusal(a.open_envelope, bytes(flipped), SOURCES)


def test_a_flipped_bit_is_refused_or_mended_when_adopted():
    for bit in random.Random(2).sample(range(len(ENVELOPE) * 8), 500):
        flipped = bytearray(ENVELOPE)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            adopted = a.adopt_envelope(bytes(flipped), SOURCES)
        except Refused:
            continue
        assert adopted == ENVELOPE


@given(st.binary(max_size=300))
def test_random_bytes_are_refused(data):
    refusal(a.open_envelope, data, SOURCES)
    refusal(a.open_envelope, sign(data), SOURCES)
    refusal(a.parse_statement, data)
    assert a.claimed_source(data) is None


# -- the statement

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def places(value, path=()) -> list[tuple]:
    """Every place in a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, part in inner for place in places(part, (*path, key)))]


def replaced(value, path, new):
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = replaced(copy[path[0]], path[1:], new)
    return copy


def required(value, path=()) -> list[tuple]:
    optional = {"provenance", "generator", "upstream", "issued", "spdx", "termsUri", "validFrom", "validUntil"}
    optional |= {"jurisdictions", "bands", "skills", "custody", "labels", "time", "consensus", "quality"}
    return [
        place
        for place in places(value)
        if place and isinstance(place[-1], str) and place[-1] not in optional and place[-2:] != ("generator", "version")
    ]


@pytest.mark.parametrize("place", required(document(RICH)), ids=lambda place: ".".join(map(str, place)))
def test_each_required_field(place):
    fields = document(RICH)
    inner = fields
    for key in place[:-1]:
        inner = inner[key]
    del inner[place[-1]]
    refused = refusal(a.parse_statement, raw(fields))
    assert refused.reason is Reason.ATTESTATION_MALFORMED
    assert not VALIDATOR.is_valid(fields)
    if place[-1] != "sha256":
        assert str(place[-1]) in refused.message


def at(value, path):
    for key in path:
        value = value[key]
    return value


OBJECTS = [place for place in places(document(RICH)) if isinstance(at(document(RICH), place), dict)]


@pytest.mark.parametrize("place", OBJECTS, ids=lambda place: ".".join(map(str, place)) or "whole")
def test_an_unknown_field(place):
    inner = fields = document(RICH)
    for key in place:
        inner = inner[key]
    inner["surprise"] = 1
    refused = refusal(a.parse_statement, raw(fields))
    assert refused.reason is Reason.ATTESTATION_MALFORMED
    assert "surprise" in refused.message
    assert not VALIDATOR.is_valid(fields)


PREDICATE = ("predicate",)
TERMS = ("predicate", "terms")
WRONG = [
    ((), []),
    (("_type",), "https://in-toto.io/Statement/v0.1"),
    (("predicateType",), "urn:licet:attestation:v2"),
    (("subject",), []),
    (("subject",), {}),
    (("subject", 0, "name"), ""),
    (("subject", 0, "name"), "a\nb"),
    (("subject", 0, "name"), "x" * 1025),
    (("subject", 0, "digest"), {}),
    (("subject", 0, "digest"), {"sha512": "0" * 64}),
    (("subject", 0, "digest"), {"sha256": "0" * 63}),
    (("subject", 0, "digest"), {"sha256": "A" * 64}),
    (("subject", 0, "digest"), {"licetManifest1": "0" * 64}),
    ((*PREDICATE, "version"), 2),
    ((*PREDICATE, "version"), True),
    ((*PREDICATE, "version"), "1"),
    ((*PREDICATE, "source"), None),
    ((*PREDICATE, "source"), "x" * 257),
    ((*PREDICATE, "source"), "\u001b[2J"),
    ((*PREDICATE, "kind"), "free"),
    ((*PREDICATE, "kind"), ["open-licence"]),
    ((*PREDICATE, "kind"), "exclusion"),
    ((*PREDICATE, "issued"), 1),
    ((*PREDICATE, "issued"), "2026-13-01T00:00:00Z"),
    ((*PREDICATE, "issued"), "1969-12-31T23:59:59Z"),
    ((*PREDICATE, "issued"), "2026-01-01T00:00:60Z"),
    ((*PREDICATE, "issued"), "2026-01-01T00:00:00+01:00"),
    ((*PREDICATE, "issued"), "2026-01-01T00:00:00.0001Z"),
    ((*PREDICATE, "issued"), "2026-01-01 00:00:00Z"),
    ((*PREDICATE, "issued"), "2026-01-01"),
    ((*PREDICATE, "issued"), "２026-01-01T00:00:00Z"),
    ((*PREDICATE, "upstream"), ["0" * 64, "0" * 64]),
    ((*PREDICATE, "upstream"), ["0" * 62]),
    ((*PREDICATE, "upstream"), [f"{i:064x}" for i in range(257)]),
    ((*PREDICATE, "upstream"), "0" * 64),
    ((*PREDICATE, "generator"), {"name": ""}),
    ((*PREDICATE, "generator"), "a model"),
    ((*TERMS, "recall"), "none"),
    ((*TERMS, "spdx"), ""),
    ((*TERMS, "spdx"), "M" * 4097),
    ((*TERMS, "spdx"), None),
    ((*TERMS, "termsUri"), "example.org"),
    ((*TERMS, "termsUri"), "https://example.org/a b"),
    ((*TERMS, "termsUri"), "https:" + "x" * 2048),
    ((*TERMS, "jurisdictions"), ["Europe"]),
    ((*TERMS, "jurisdictions"), ["EU", "EU"]),
    ((*TERMS, "jurisdictions"), "EU"),
    ((*TERMS, "bands"), [1]),
    ((*TERMS, "skills"), ["x" * 257]),
    ((*TERMS, "skills"), [str(i) for i in range(1025)]),
    (("predicate", "provenance", "labels", "quality"), 1.01),
    (("predicate", "provenance", "labels", "quality"), -0.01),
    (("predicate", "provenance", "labels", "quality"), True),
    (("predicate", "provenance", "labels", "consensus"), "1"),
    (("predicate", "provenance", "custody"), [{"holder": "ada"}]),
    (("predicate", "provenance", "custody"), ["ada"]),
]


@pytest.mark.parametrize(
    ("place", "value"), WRONG, ids=[f"{i}-{'.'.join(map(str, p))}" for i, (p, _) in enumerate(WRONG)]
)
def test_wrong_values(place, value):
    fields = replaced(document(RICH), place, value)
    assert refusal(a.parse_statement, raw(fields)).reason is Reason.ATTESTATION_MALFORMED
    assert why(sign(raw(fields))) in (Reason.ATTESTATION_MALFORMED, Reason.ATTESTATION_TOO_LARGE)
    assert not VALIDATOR.is_valid(fields)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ((*TERMS, "validUntil"), "2026-02-30T00:00:00Z"),
        ((*TERMS, "validUntil"), "2001-01-01T00:00:00Z"),
        ((*PREDICATE, "version"), 1.0),
        ((*PREDICATE, "source"), "\ud800"),
    ],
    ids=["no-such-day", "ends-before-it-begins", "spelled-with-a-point", "half-a-character"],
)
def test_what_the_schema_leaves_to_its_description(place, value):
    fields = replaced(document(RICH), place, value)
    assert refusal(a.parse_statement, raw(fields)).reason is Reason.ATTESTATION_MALFORMED
    assert VALIDATOR.is_valid(fields)


@pytest.mark.parametrize("text", [b"NaN", b"Infinity", b"-Infinity", b"1e999", b"9" * 5000, b"1.5"])
def test_numbers_that_are_none(text):
    payload = a.statement_bytes(RICH).replace(b'"quality":0.95', b'"quality":' + text)
    assert payload != a.statement_bytes(RICH)
    assert refusal(a.parse_statement, payload).reason is Reason.ATTESTATION_MALFORMED


@pytest.mark.parametrize(
    "said",
    [
        signed.statement(kind="time-limited", valid_until_ms=None),
        signed.statement(kind="synthetic", generator=None),
        signed.statement(kind="exclusion", skills=("law",)),
        signed.statement(kind="exclusion", valid_until_ms=signed.NOW_MS),
        signed.statement(valid_from_ms=5, valid_until_ms=5),
        signed.statement(valid_from_ms=-1),
        signed.statement(issued_ms=times.MS_MAX + 1),
        signed.statement(jurisdictions=("Mars",)),
        signed.statement(spdx=""),
        signed.statement(subjects=()),
        signed.statement(subjects=(a.Subject("x", signed.digest("x")),) * 2),
        signed.statement(manifest=a.ManifestRoot(signed.digest("x"), 0)),
        signed.statement(
            manifest=a.ManifestRoot(signed.digest("x"), 1), subjects=(a.Subject("x", signed.digest("x")),)
        ),
        signed.statement(provenance=Provenance((), Labels("ada", float("nan")))),
        signed.statement(source="\ud800"),
    ],
    ids=range(15),
)
def test_nobody_signs_what_cannot_be_opened(said):
    assert refusal(a.sign_statement, said, signed.key()).reason is Reason.ATTESTATION_MALFORMED


@given(VALUES)
def test_random_json_is_refused(value):
    refusal(a.parse_statement, raw(value))
    refusal(a.open_envelope, raw(value), SOURCES)


@settings(max_examples=300)
@given(st.sampled_from(places(document(RICH))), VALUES)
def test_random_values_in_a_good_statement(place, value):
    fields = replaced(document(RICH), place, value)
    try:
        a.parse_statement(raw(fields))
    except Refused as refused:
        assert refused.reason in (Reason.ATTESTATION_MALFORMED, Reason.ATTESTATION_TOO_LARGE)
        return
    assert VALIDATOR.is_valid(fields)


@settings(max_examples=100)
@given(st.sampled_from(places(json.loads(ENVELOPE))), VALUES)
def test_random_values_in_a_good_envelope(place, value):
    fields = replaced(json.loads(ENVELOPE), place, value)
    if fields != json.loads(ENVELOPE):
        refusal(a.open_envelope, raw(fields), SOURCES)


# -- what is accepted

NAMES = st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), min_size=1, max_size=12)
MOMENTS = st.integers(0, times.MS_MAX)
DIGESTS = st.binary(min_size=32, max_size=32)
SHARES = st.none() | st.floats(0, 1)


@st.composite
def statements(draw):
    kind = draw(st.sampled_from(LicenceKind))
    start, end = sorted(draw(st.sets(MOMENTS, min_size=2, max_size=2)))
    names = st.lists(NAMES, max_size=3, unique=True).map(tuple)
    grants = kind is not LicenceKind.EXCLUSION
    licence = Licence(
        kind,
        draw(st.none() | NAMES),
        draw(st.none() | st.just("https://example.org/é?x=1#y")),
        start if grants and draw(st.booleans()) else None,
        end if kind is LicenceKind.TIME_LIMITED or (grants and draw(st.booleans())) else None,
        draw(st.lists(st.sampled_from(["EU", "DE", "US-CA", "WORLD"]), unique=True).map(tuple)),
        draw(names) if grants else (),
        draw(st.sampled_from(Recall)),
        draw(names) if grants else (),
    )
    listed = st.lists(st.builds(a.Subject, NAMES, DIGESTS), min_size=1, max_size=3, unique=True).map(tuple)
    whole = draw(st.booleans())
    return a.Statement(
        source=draw(NAMES),
        licence=licence,
        subjects=() if whole else draw(listed),
        manifest=draw(st.builds(a.ManifestRoot, DIGESTS, st.integers(1, a.MANIFEST_ENTRIES_MAX))) if whole else None,
        provenance=Provenance(
            draw(st.lists(st.builds(Custody, NAMES, NAMES, st.none() | MOMENTS), max_size=2).map(tuple)),
            draw(st.none() | st.builds(Labels, NAMES, SHARES, SHARES)),
        ),
        generator=a.Generator(draw(NAMES), draw(st.just("") | NAMES))
        if kind is LicenceKind.SYNTHETIC or draw(st.booleans())
        else None,
        upstream=draw(st.lists(DIGESTS, max_size=3, unique=True).map(tuple)),
        issued_ms=draw(st.none() | MOMENTS),
    )


@given(statements())
def test_a_statement_is_read_as_it_was_written(said):
    payload = a.statement_bytes(said)
    assert a.parse_statement(payload) == said
    fields = json.loads(payload)
    VALIDATOR.validate(fields)
    assert json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode() == payload
    assert a.parse_statement(json.dumps(fields, indent=1).encode()) == said


@settings(max_examples=30)
@given(statements())
def test_an_envelope_is_opened_as_it_was_signed(said):
    key = signed.key("ada")
    envelope = a.sign_statement(said, key)
    opened = a.open_envelope(envelope, [signed.registration("bob"), signed.registration(said.source, keys=(key,))])
    assert opened == a.Attestation(a.attestation_id(envelope), said, envelope)
    assert a.sign_statement(said, key) == envelope
    assert a.claimed_source(envelope) == said.source
    assert a.adopt_envelope(envelope, [signed.registration(said.source, keys=(key,))]) == envelope


def test_signed_bytes_never_change():
    """A change of the spelling would give every attestation that is signed anew another id."""
    expected = "06540507e84ca884f52efb09a42f145a2a462961060370902b2580dda6a3d175"
    assert a.attestation_id(signed.envelope(RICH)).hex() == expected


def test_the_schema_is_one():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@given(MOMENTS)
def test_moments(ms):
    assert times.from_rfc3339(times.to_rfc3339(ms)) == ms


def test_moments_have_short_spellings():
    assert times.to_rfc3339(0) == "1970-01-01T00:00:00Z"
    assert times.from_rfc3339("1970-01-01T00:00:00.5Z") == 500
    assert times.from_rfc3339("9999-12-31T23:59:59.999Z") == times.MS_MAX
