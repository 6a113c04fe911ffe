"""From a row to the example that the gate judges: the attestation it names, the proof of membership, the standing.

Whatever cannot be found is left out, so that the gate rejects the example with its reason; `problems` remembers why.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from licet.ledger.errors import LicetError, VerificationError
from licet.ledger.files import read_whole
from licet.ledger.records import Digest
from licet.policies.attestation import Attestation, attestation_id, open_envelope
from licet.policies.example import Example, Membership, Standing
from licet.policies.manifest import LINE_BYTES_MAX, Manifest
from licet.policies.reasons import Refused
from licet.policies.registry import Registry
from licet.policies.statement import ManifestRoot
from licet.train.data.rows import Claims, Row

__all__ = ["Examples"]

KEPT_ENTRIES_MAX = 20_000_000
"""Of manifests, in memory at once."""
PROBLEMS_MAX = 4096
_FOUND_MAX = 65_536


@dataclass(frozen=True, slots=True)
class _Found:
    """What is known of an attestation that rows name."""

    envelope: bytes | None
    standing: Standing
    root: ManifestRoot | None
    subjects: frozenset[bytes]


@dataclass(frozen=True, slots=True)
class _Contents:
    """A manifest, and where in it each content stands."""

    manifest: Manifest
    index: Mapping[Digest, int]


class Examples:
    """Makes examples of rows as a registry has it at one moment. `manifests` is the home's folder of them."""

    def __init__(self, registry: Registry, manifests: Path, at_ms: int) -> None:
        self.problems: dict[Digest, str] = {}
        """Of attestations, by their id: why an example under them was left without something."""
        self._registry = registry
        self._manifests = manifests
        self._at_ms = at_ms
        self._found: OrderedDict[bytes, _Found] = OrderedDict()
        self._contents: OrderedDict[Digest, _Contents | None] = OrderedDict()
        self._entries = 0

    def example(self, row: Row, bits_per_byte: float, entropy_band: str) -> Example:
        """The example that a row makes, with the information in it as it was measured here; what the row itself says of
        that is not believed."""
        claims, content = row.claims, Digest(hashlib.sha256(row.content).digest())
        found = self._attestation(claims.attestation)
        return Example(
            content,
            len(row.content),
            found.envelope,
            self._membership(claims, found, content, len(row.content)),
            found.standing,
            entropy_band,
            bits_per_byte,
            claims.slope,
            claims.scope,
            claims.provenance,
            claims.skills,
            claims.fields,
        )

    # -- attestations

    def _attestation(self, named: bytes | None) -> _Found:
        if named is None:
            return _Found(None, self._registry.standing(None, self._at_ms), None, frozenset())
        found = self._found.get(named)
        if found is None:
            found = self._found[named] = self._look_up(named)
            if len(self._found) > _FOUND_MAX:
                self._found.popitem(last=False)
        return found

    def _look_up(self, named: bytes) -> _Found:
        own = Digest(named) if len(named) == 32 else attestation_id(named)
        try:
            attestation: Attestation | None = self._registry.attestation(own).attestation
        except LicetError as error:
            if len(named) == 32:
                self._note(own, error)
                return _Found(None, self._registry.standing(None, self._at_ms), None, frozenset())
            attestation = None
        standing = self._registry.standing(own if attestation is not None else named, self._at_ms)
        if attestation is None:
            attestation = self._opened(own, named, standing)
        envelope = attestation.envelope if attestation is not None else named
        statement = attestation.statement if attestation is not None else None
        return _Found(
            envelope,
            standing,
            statement.manifest if statement is not None else None,
            frozenset(s.digest for s in statement.subjects) if statement is not None else frozenset(),
        )

    def _opened(self, own: Digest, envelope: bytes, standing: Standing) -> Attestation | None:
        """What an envelope that is not recorded says, if it is signed; the gate opens it again and says why not."""
        try:
            return open_envelope(envelope, standing.sources)
        except Refused as refused:
            self._note(own, refused)
            return None

    # -- membership

    def _membership(self, claims: Claims, found: _Found, content: Digest, size: int) -> Membership | None:
        """The row's own proof; else one from the manifest that the home keeps, if it names this content."""
        if claims.membership is not None or found.root is None or content in found.subjects:
            return claims.membership
        assert found.envelope is not None, "the root was read from it"
        contents = self._manifest(found.root, attestation_id(found.envelope))
        index = contents.index.get(content) if contents is not None else None
        if contents is None or index is None or contents.manifest.entries[index].bytes != size:
            return None
        return contents.manifest.membership(index)

    def _manifest(self, root: ManifestRoot, attestation: Digest) -> _Contents | None:
        if root.root not in self._contents:
            contents = None
            try:
                contents = _read(self._manifests / f"{root.root.hex()}.jsonl", root)
            except LicetError as error:
                self._note(attestation, error)
            self._contents[root.root] = contents
            self._entries += len(contents.index) if contents is not None else 0
            while self._entries > KEPT_ENTRIES_MAX and len(self._contents) > 1:
                _, dropped = self._contents.popitem(last=False)
                self._entries -= len(dropped.index) if dropped is not None else 0
        self._contents.move_to_end(root.root)
        return self._contents[root.root]

    def _note(self, attestation: Digest, error: LicetError) -> None:
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.setdefault(attestation, str(error))


def _read(file: Path, root: ManifestRoot) -> _Contents:
    """A manifest as `licet attest` kept it, which is the one that was signed."""
    manifest = Manifest.parse(read_whole(file, bytes_max=root.entries * LINE_BYTES_MAX))
    if manifest.root != root:
        raise VerificationError(
            f"{file} is not the manifest that was signed.", remedy="Put the one back that `licet attest` wrote."
        )
    index: dict[Digest, int] = {}
    for place, entry in enumerate(manifest.entries):
        index.setdefault(entry.digest, place)
    return _Contents(manifest, index)
