"""What a source says of some content: frozen types, and the names that they have on the wire."""

from __future__ import annotations

from dataclasses import dataclass

from licet.ledger.records import Digest, Licence
from licet.policies.provenance import Provenance

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "urn:licet:attestation:v1"
MANIFEST_ENTRIES_MAX = 10_000_000
"""How many files one manifest may name."""
MANIFEST_NAME = "manifest"
MANIFEST_DIGEST = "licetManifest1"

_NOTHING_SAID = Provenance()


@dataclass(frozen=True, slots=True)
class Subject:
    """One piece of content, by its digest."""

    name: str
    digest: Digest


@dataclass(frozen=True, slots=True)
class ManifestRoot:
    """Any number of files at once: the Merkle root over a manifest of them, and how many there are."""

    root: Digest
    entries: int


@dataclass(frozen=True, slots=True)
class Generator:
    """What made synthetic content."""

    name: str
    version: str = ""


@dataclass(frozen=True, slots=True)
class Statement:
    """What a source says. Either `subjects` or `manifest` says which content it speaks of."""

    source: str
    licence: Licence
    subjects: tuple[Subject, ...] = ()
    manifest: ManifestRoot | None = None
    provenance: Provenance = _NOTHING_SAID
    generator: Generator | None = None
    upstream: tuple[Digest, ...] = ()
    """The attestations of the content that this content was derived from."""
    issued_ms: int | None = None
