"""The wire format: one spelling, strict reading, and the schema that stands in the repository."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from licet.ledger.records import Digest
from licet.policies import wire
from licet.policies.example import Membership
from licet.policies.provenance import Custody, Labels, Provenance
from licet.policies.reasons import Reason, Refused
from tests.policies import signed

SCHEMA = Path(wire.__file__).resolve().parent / "schemas" / "example-v1.json"

full = signed.example(
    membership=Membership("a/b.txt", 3, (bytes(32), b"\xff" * 32)),
    standing=signed.standing(
        "ada", "bob", revocations=(signed.revocation(b"x"),), upstream=(b"\x00\xff", signed.envelope())
    ),
    provenance=Provenance((Custody("ada", "wrote", 5), Custody("bob", "sold")), Labels("eve", 0.5, 1.0)),
    skills=("coding", "médecine"),
    fields=(("consent", "explicit"), ("domain", "a\u2028b")),
)
bare = signed.example(
    envelope=None,
    entropy_band=None,
    bits_per_byte=None,
    slope=None,
    scope=(),
    provenance=None,
)


def changed(path: tuple[str | int, ...], value: object) -> bytes:
    """The full example with one place of its JSON replaced, or removed if the value is `...`."""
    values = json.loads(wire.to_json(full))
    at = values
    for part in path[:-1]:
        at = at[part]
    if value is ...:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return json.dumps(values).encode()


@pytest.mark.parametrize("example", [full, bare], ids=["full", "bare"])
def test_both_forms_bring_back_the_example(example):
    raw = wire.to_json(example)
    assert wire.parse(raw) == example
    assert wire.to_json(wire.parse(raw)) == raw
    batch = wire.to_arrow([example, full, example])
    assert list(wire.from_arrow(batch)) == [example, full, example]


def test_the_schema_is_the_one_in_the_repository():
    assert json.loads(SCHEMA.read_text()) == wire.json_schema(), "run `python -m tests.policies.test_wire`"
    for example in (full, bare):
        jsonschema.validate(json.loads(wire.to_json(example)), json.loads(SCHEMA.read_text()))


def test_what_repeats_stands_once_in_arrow():
    batch = wire.to_arrow([replace(full, content=Digest(bytes([i]) * 32)) for i in range(100)])
    assert len(batch.column("attestation").dictionary) == len(batch.column("standing").dictionary) == 1
    assert len({id(example.standing) for example in wire.from_arrow(batch)}) == 1


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("licet",), "example/2"),
        (("licet",), ...),
        (("content",), ...),
        (("content", "sha256"), "ab"),
        (("content", "sha256"), "G" * 64),
        (("content", "bytes"), -1),
        (("content", "bytes"), "7"),
        (("content", "bytes"), 1.0),
        (("content", "bytes"), True),
        (("metadata",), ...),
        (("metadata", "slope"), -1),
        (("metadata", "slope"), 10**30),
        (("metadata", "bitsPerByte"), 1e9),
        (("metadata", "bitsPerByte"), "3"),
        (("metadata", "scope"), "general"),
        (("metadata", "scope"), ["x"] * 5000),
        (("metadata", "fields"), {"a": 1}),
        (("metadata", "surprise"), 1),
        (("standing",), ...),
        (("standing", "atMs"), ...),
        (("standing", "sources", 0, "state"), "asleep"),
        (("standing", "upstream"), ["not base64!"]),
        (("standing", "upstream"), ["QQ=A"]),
        (("attestation",), "====="),
        (("membership", "hashes"), ["00" * 32] * 65),
    ],
    ids=lambda value: None,
)
def test_what_is_not_the_format_is_refused(path, value):
    with pytest.raises(Refused) as refused:
        wire.parse(changed(path, value))
    assert refused.value.reason is Reason.METADATA_MALFORMED
    assert refused.value.remedy


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"licet":"example/1","licet":"example/1"}',
        b'{"a":{"b":1,"b":2}}',
        wire.to_json(full).replace(b"1.5", b"NaN"),
        wire.to_json(full).replace(b"1.5", b"1e999"),
        b" " * (wire.EXAMPLE_BYTES_MAX + 1),
    ],
    ids=lambda value: None,
)
def test_what_is_no_json_object_is_refused(raw):
    with pytest.raises(Refused) as refused:
        wire.parse(raw)
    assert refused.value.reason is Reason.METADATA_MALFORMED


@given(st.data())
def test_a_changed_byte_gives_an_example_or_a_refusal(data):
    raw = bytearray(wire.to_json(full))
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        wire.parse(bytes(raw))
    except Refused as refused:
        assert refused.reason is Reason.METADATA_MALFORMED


def test_a_table_of_another_shape_is_refused():
    batch = wire.to_arrow([full])
    for other in (
        batch.drop_columns(["scope"]),
        batch.rename_columns([f"{name}x" for name in batch.schema.names]),
        pa.RecordBatch.from_pydict({"content": [b"x"]}),
    ):
        with pytest.raises(Refused):
            list(wire.from_arrow(other))


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("content_bytes", -1),
        ("slope", -1),
        ("bits_per_byte", float("nan")),
        ("standing", "{}"),
        ("standing", "[" * 10_000),
        ("provenance", '{"custody":[],"custody":[]}'),
        ("fields", [("a", "1"), ("a", "2")]),
        ("membership", {"name": None, "index": 1, "hashes": []}),
    ],
    ids=lambda value: None,
)
def test_a_row_is_read_as_strictly_as_an_object(column, value):
    batch = wire.to_arrow([full])
    place = batch.schema.get_field_index(column)
    batch = batch.set_column(place, wire.ARROW_SCHEMA.field(column), pa.array([value], batch.schema.field(column).type))
    with pytest.raises(Refused) as refused:
        list(wire.from_arrow(batch))
    assert refused.value.reason is Reason.METADATA_MALFORMED


if __name__ == "__main__":
    SCHEMA.write_text(json.dumps(wire.json_schema(), indent=2, ensure_ascii=False) + "\n")
