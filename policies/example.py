"""An example on the wire: everything that is needed to judge it, and nothing that has to be asked for.

A data owner, a trainer and an auditor who hold the same bytes and the same policy therefore get the same admission.
What it says of the registry (`Standing`) is a claim as of a size of that log; `registry.py` tells whether it is true.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from licet.ledger.records import Digest, SourceState
from licet.policies.provenance import Provenance
from licet.policies.rights import Revocation

BITS_PER_BYTE_MAX = 64.0
"""A byte has 8 bits; a measurement under a model that expects something else may be higher."""
_PURPOSE = b"licet/example/v1\x00"


@dataclass(frozen=True, slots=True)
class Registration:
    """What the registry says of a source: the key it signs with now and those before, each a C2SP verifier key."""

    source: str
    verifier_keys: tuple[str, ...]
    authority: str
    state: SourceState


@dataclass(frozen=True, slots=True)
class Standing:
    """What the registry said when the example was put to the gate, of everything that the example rests on."""

    registry: str
    size: int
    at_ms: int
    sources: tuple[Registration, ...] = ()
    revocations: tuple[Revocation, ...] = ()
    upstream: tuple[bytes, ...] = ()
    """Envelopes of the attestations that the example's own derives from, all the way back."""
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        known = (self.registry, self.size, self.at_ms, self.sources, self.revocations, self.upstream)
        object.__setattr__(self, "_hash", hash(known))

    def __hash__(self) -> int:
        """Made once: a million examples share a standing, and each is looked up by it."""
        return self._hash

    def registration(self, source: str) -> Registration | None:
        return next((known for known in self.sources if known.source == source), None)


@dataclass(frozen=True, slots=True)
class Membership:
    """That the content is entry `index` of the attested manifest: name of the file, and RFC 6962 inclusion proof."""

    name: str
    index: int
    hashes: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Example:
    """A proposed change to the model, as it comes to the gate. What may be None is what may be missing."""

    content: Digest
    content_bytes: int
    envelope: bytes | None
    membership: Membership | None
    standing: Standing
    entropy_band: str | None
    bits_per_byte: float | None
    slope: int | None
    scope: tuple[str, ...]
    provenance: Provenance | None
    skills: tuple[str, ...] = ()
    fields: tuple[tuple[str, str], ...] = ()
    """Further metadata, sorted by name: whatever a policy asks for, as domain or consent."""


def example_id(content: Digest, attestation: Digest | None, policies: Sequence[Digest]) -> Digest:
    """What an example is called in the log: it changes with its content, its attestation and the policies."""
    parts = (content, attestation or bytes(32), *policies)
    return Digest(hashlib.sha256(_PURPOSE + b"".join(parts)).digest())
