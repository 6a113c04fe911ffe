"""Finding the entries that are not events: by kind, and by the id that a record is about.

One key for each such entry, `kind ‖ 16 bytes of id ‖ index`, with nothing behind it. Ids are cut and texts hashed, so a
find yields candidates: the caller reads the entry and compares.
"""

from __future__ import annotations

import hashlib

from licet.ledger import records
from licet.ledger.records import Opaque, Record

ID_BYTES = 16
INDEX_BYTES = 5

ABOUT: dict[type[Record], str] = {
    records.Anchored: "origin",
    records.ContentErased: "commitment",
    records.SourceRegistered: "source",
    records.SourceKeyRotated: "source",
    records.SourceStateChanged: "source",
    records.AttestationRecorded: "attestation",
    records.LicenceRevoked: "attestation",
    records.PolicyAdopted: "policy",
    records.PolicyMentioned: "policy",
    records.AttestationMentioned: "attestation",
    records.RunStarted: "run",
    records.ExampleAdmitted: "example",
    records.CheckpointSealed: "seal",
    records.VerdictGiven: "completion",
    records.CorrectionReceived: "correction",
    records.ProposalMade: "proposal",
    records.ProposalReviewed: "proposal",
}
"""The field by which records of a kind are looked up; kinds that are not here are only listed."""


def key(record: Record | Opaque, index: int) -> bytes | None:
    """The lookup key of a record; events, of whatever version, have none: there are too many."""
    kind = record.kind if isinstance(record, Opaque) else record.KIND
    if kind == records.GradientApplied.KIND:
        return None
    return bytes([kind]) + _id_of(record) + index.to_bytes(INDEX_BYTES, "big")


def prefix(cls: type[Record], about: bytes | str | None = None) -> bytes:
    """What the keys of a kind, or of a kind and id, begin with."""
    return bytes([cls.KIND]) + (b"" if about is None else _short(about))


def index_of(raw_key: bytes) -> int:
    return int.from_bytes(raw_key[-INDEX_BYTES:], "big")


def _id_of(record: Record | Opaque) -> bytes:
    field = ABOUT.get(type(record)) if isinstance(record, Record) else None
    return _short(getattr(record, field)) if field else bytes(ID_BYTES)


def _short(about: bytes | str) -> bytes:
    return about[:ID_BYTES] if isinstance(about, bytes) else hashlib.sha256(about.encode()).digest()[:ID_BYTES]
