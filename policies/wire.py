"""An example on the wire: one JSON object, or a row of an Arrow table in which what repeats stands once.

Reading is strict: an unknown field, a doubled key or a number that is none is refused, so that two readers never see
two examples in the same bytes. Writing has one spelling.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Annotated, Any, Literal, TypeVar

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from licet.ledger.errors import LicetError
from licet.ledger.records import Digest, SourceState
from licet.policies import strict_json
from licet.policies.example import BITS_PER_BYTE_MAX, Example, Membership, Registration, Standing
from licet.policies.provenance import Custody, Labels, Provenance
from licet.policies.reasons import Reason, Refused
from licet.policies.rights import Revocation

EXAMPLE_BYTES_MAX = 4 << 20
LIST_ITEMS_MAX = 4096
TEXT_CHARS_MAX = 65_536
FORMAT = "example/1"

_Hex32 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Text = Annotated[str, Field(max_length=TEXT_CHARS_MAX)]
_Base64 = Annotated[str, Field(max_length=100_000, pattern=r"^[A-Za-z0-9+/]*={0,2}$")]
_Whole = Annotated[int, Field(ge=0, lt=1 << 53)]
_Part = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
_T = TypeVar("_T")
_Items = Annotated[tuple[_T, ...], Field(max_length=LIST_ITEMS_MAX)]


class _Wire(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Content(_Wire):
    sha256: _Hex32
    bytes: _Whole


class _Membership(_Wire):
    name: _Text
    index: _Whole
    hashes: Annotated[tuple[_Hex32, ...], Field(max_length=64)]


class _Custody(_Wire):
    holder: _Text
    action: _Text
    claimedMs: _Whole | None = None


class _Labels(_Wire):
    annotator: _Text
    consensus: _Part | None = None
    quality: _Part | None = None


class _Provenance(_Wire):
    custody: _Items[_Custody] = ()
    labels: _Labels | None = None


class _Metadata(_Wire):
    entropyBand: _Text | None = None
    bitsPerByte: Annotated[float, Field(ge=0, le=BITS_PER_BYTE_MAX, allow_inf_nan=False)] | None = None
    slope: Annotated[int, Field(ge=0, le=1 << 16)] | None = None
    scope: _Items[_Text] = ()
    provenance: _Provenance | None = None
    skills: _Items[_Text] = ()
    fields: dict[_Text, _Text] = {}


class _Registration(_Wire):
    source: _Text
    verifierKeys: Annotated[tuple[_Text, ...], Field(max_length=256)]
    authority: _Text
    state: Literal["active", "suspended"]


class _Revocation(_Wire):
    attestation: _Hex32
    effectiveMs: _Whole
    reason: _Text


class _Standing(_Wire):
    registry: _Text
    size: _Whole
    atMs: _Whole
    sources: _Items[_Registration] = ()
    revocations: _Items[_Revocation] = ()
    upstream: _Items[_Base64] = ()


class WireExample(_Wire):
    """An example, as JSON has it. `attestation` is the DSSE envelope, base64 of its exact bytes."""

    licet: Literal["example/1"]
    content: _Content
    attestation: _Base64 | None = None
    membership: _Membership | None = None
    metadata: _Metadata
    standing: _Standing


# -- JSON


def to_json(example: Example) -> bytes:
    """An example in its one spelling."""
    membership, provenance = example.membership, example.provenance
    return strict_json.spell(
        {
            "licet": FORMAT,
            "content": {"sha256": example.content.hex(), "bytes": example.content_bytes},
            "attestation": None if example.envelope is None else _encoded(example.envelope),
            "membership": None
            if membership is None
            else {
                "name": membership.name,
                "index": membership.index,
                "hashes": [digest.hex() for digest in membership.hashes],
            },
            "metadata": {
                "entropyBand": example.entropy_band,
                "bitsPerByte": example.bits_per_byte,
                "slope": example.slope,
                "scope": example.scope,
                "provenance": None if provenance is None else _plain_provenance(provenance),
                "skills": example.skills,
                "fields": dict(example.fields),
            },
            "standing": _plain_standing(example.standing),
        }
    )


def parse(raw: bytes) -> Example:
    """The example in some bytes; `Refused` says what is wrong with them."""
    return _example(_validated(WireExample, raw))


def json_schema() -> dict[str, Any]:
    """The JSON schema of an example; `schemas/example-v1.json` is a copy of it."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **WireExample.model_json_schema()}


def digest_of(provenance: Provenance) -> Digest:
    """What a log says of a provenance record."""
    return Digest(hashlib.sha256(strict_json.spell(_plain_provenance(provenance))).digest())


# -- Arrow


ARROW_SCHEMA = pa.schema(
    [
        pa.field("content", pa.binary(32), nullable=False),
        pa.field("content_bytes", pa.int64(), nullable=False),
        pa.field("attestation", pa.dictionary(pa.int32(), pa.binary())),
        pa.field(
            "membership",
            pa.struct([("name", pa.string()), ("index", pa.int64()), ("hashes", pa.list_(pa.binary(32)))]),
        ),
        pa.field("standing", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("entropy_band", pa.dictionary(pa.int32(), pa.string())),
        pa.field("bits_per_byte", pa.float64()),
        pa.field("slope", pa.int32()),
        pa.field("scope", pa.list_(pa.string())),
        pa.field("provenance", pa.dictionary(pa.int32(), pa.string())),
        pa.field("skills", pa.list_(pa.string())),
        pa.field("fields", pa.map_(pa.string(), pa.string())),
    ],
    metadata={"licet": FORMAT},
)
"""`standing` and `provenance` hold the JSON of those parts; dictionaries keep each value once."""


def to_arrow(examples: Iterable[Example]) -> pa.RecordBatch:
    """Examples as a batch of rows."""
    columns: dict[str, list[Any]] = {name: [] for name in ARROW_SCHEMA.names}
    for example in examples:
        membership, provenance = example.membership, example.provenance
        row = (
            example.content,
            example.content_bytes,
            example.envelope,
            None
            if membership is None
            else {"name": membership.name, "index": membership.index, "hashes": list(membership.hashes)},
            _standing_text(example.standing),
            example.entropy_band,
            example.bits_per_byte,
            example.slope,
            list(example.scope),
            None if provenance is None else strict_json.spell(_plain_provenance(provenance)).decode(),
            list(example.skills),
            list(example.fields),
        )
        for column, value in zip(columns.values(), row, strict=True):
            column.append(value)
    arrays = [pa.array(columns[field.name], field.type) for field in ARROW_SCHEMA]
    return pa.RecordBatch.from_arrays(arrays, schema=ARROW_SCHEMA)


def from_arrow(batch: pa.RecordBatch) -> Iterator[Example]:
    """The examples in a batch of rows, each as strictly read as from JSON."""
    if not batch.schema.equals(ARROW_SCHEMA):
        raise _malformed("the table has other columns than the schema of an example")
    try:
        batch.validate(full=True)
    except pa.ArrowInvalid as error:
        raise _malformed(f"the table contradicts itself: {error}") from error
    for row in batch.to_pylist():
        yield _from_row(row)


def _from_row(row: dict[str, Any]) -> Example:
    membership = row["membership"]
    if row["standing"] is None or row["content"] is None or row["content_bytes"] is None or row["content_bytes"] < 0:
        raise _malformed("a row lacks its content, its length or its standing")
    checked = _checked(
        _Metadata,
        {
            "entropyBand": row["entropy_band"],
            "bitsPerByte": row["bits_per_byte"],
            "slope": row["slope"],
            "scope": tuple(row["scope"] or ()),
            "skills": tuple(row["skills"] or ()),
            "fields": _once(row["fields"] or []),
        },
    )
    if membership is not None and (membership["name"] is None or membership["index"] is None):
        raise _malformed("a membership lacks its name or its index")
    return Example(
        Digest(row["content"]),
        row["content_bytes"],
        row["attestation"],
        None
        if membership is None
        else Membership(membership["name"], membership["index"], tuple(membership["hashes"] or ())),
        _standing_of(row["standing"]),
        checked.entropyBand,
        checked.bitsPerByte,
        checked.slope,
        checked.scope,
        None if row["provenance"] is None else _provenance_of(row["provenance"]),
        checked.skills,
        tuple(sorted(checked.fields.items())),
    )


# -- parts


@lru_cache(maxsize=1024)
def _standing_text(standing: Standing) -> str:
    return strict_json.spell(_plain_standing(standing)).decode()


@lru_cache(maxsize=1024)
def _standing_of(text: str) -> Standing:
    return _standing(_validated(_Standing, text.encode()))


@lru_cache(maxsize=1024)
def _provenance_of(text: str) -> Provenance:
    return _provenance(_validated(_Provenance, text.encode()))


def _plain_standing(standing: Standing) -> dict[str, Any]:
    return {
        "registry": standing.registry,
        "size": standing.size,
        "atMs": standing.at_ms,
        "sources": [
            {
                "source": known.source,
                "verifierKeys": known.verifier_keys,
                "authority": known.authority,
                "state": known.state.value,
            }
            for known in standing.sources
        ],
        "revocations": [
            {"attestation": r.attestation.hex(), "effectiveMs": r.effective_ms, "reason": r.reason}
            for r in standing.revocations
        ],
        "upstream": [_encoded(envelope) for envelope in standing.upstream],
    }


def _plain_provenance(provenance: Provenance) -> dict[str, Any]:
    labels = provenance.labels
    return {
        "custody": [
            {"holder": step.holder, "action": step.action, "claimedMs": step.claimed_ms} for step in provenance.custody
        ],
        "labels": None
        if labels is None
        else {"annotator": labels.annotator, "consensus": labels.consensus, "quality": labels.quality},
    }


def _example(wire: WireExample) -> Example:
    metadata, membership = wire.metadata, wire.membership
    return Example(
        Digest(bytes.fromhex(wire.content.sha256)),
        wire.content.bytes,
        None if wire.attestation is None else _decoded(wire.attestation),
        None
        if membership is None
        else Membership(membership.name, membership.index, tuple(bytes.fromhex(h) for h in membership.hashes)),
        _standing(wire.standing),
        metadata.entropyBand,
        metadata.bitsPerByte,
        metadata.slope,
        metadata.scope,
        None if metadata.provenance is None else _provenance(metadata.provenance),
        metadata.skills,
        tuple(sorted(metadata.fields.items())),
    )


def _standing(wire: _Standing) -> Standing:
    return Standing(
        wire.registry,
        wire.size,
        wire.atMs,
        tuple(Registration(s.source, s.verifierKeys, s.authority, SourceState(s.state)) for s in wire.sources),
        tuple(Revocation(Digest(bytes.fromhex(r.attestation)), r.effectiveMs, r.reason) for r in wire.revocations),
        tuple(_decoded(envelope) for envelope in wire.upstream),
    )


def _provenance(wire: _Provenance) -> Provenance:
    custody = tuple(Custody(step.holder, step.action, step.claimedMs) for step in wire.custody)
    labels = wire.labels
    return Provenance(custody, None if labels is None else Labels(labels.annotator, labels.consensus, labels.quality))


# -- spelling


_Model = TypeVar("_Model", bound=BaseModel)


def _validated(model: type[_Model], raw: bytes) -> _Model:
    try:
        strict_json.parse(raw, bytes_max=EXAMPLE_BYTES_MAX, what="it")
        return model.model_validate_json(raw)
    except ValidationError as error:
        raise _malformed(_first(error)) from error
    except LicetError as error:
        raise _malformed(error.message.rstrip(".")) from error


def _checked(model: type[_Model], values: dict[str, Any]) -> _Model:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise _malformed(_first(error)) from error


def _first(error: ValidationError) -> str:
    found = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, found['loc'])) or 'the whole'}: {found['msg']}"


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise _malformed("a key stands in it twice")
    return values


def _encoded(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise _malformed("an envelope is not base64") from error


def _malformed(why: str) -> Refused:
    return Refused(
        Reason.METADATA_MALFORMED,
        f"This is no example on the wire: {why[:500]}.",
        remedy="policies/schemas/example-v1.json describes the format.",
    )
