"""Manifests: any number of files under one attestation, each provable by itself.

A manifest is a list of files sorted by name; a source signs the Merkle root over it (RFC 6962) and its length. Whoever
has one file and its inclusion proof can show that the source attested it, and learns nothing of the others.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

from licet.ledger import merkle, tree
from licet.ledger.errors import FormatError, LicetError, LimitError, NotFoundError, ProofError
from licet.ledger.records import Digest
from licet.policies import strict_json
from licet.policies.example import Membership
from licet.policies.statement import MANIFEST_ENTRIES_MAX, ManifestRoot

NAME_BYTES_MAX = 1024
LINE_BYTES_MAX = 8192
CONTENT_BYTES_MAX = (1 << 63) - 1
_PURPOSE = b"licet/manifest/v1\x00"
_SIZE = struct.Struct(">Q")


@dataclass(frozen=True, slots=True)
class ManifestEntry:
    """One file: its name within the set, the digest of its content and how long that is."""

    name: str
    digest: Digest
    bytes: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """A set of files, sorted by name. `of` makes it from any order, `parse` from its file."""

    entries: tuple[ManifestEntry, ...]
    _nodes: _Nodes = field(repr=False, compare=False)
    _root: Digest = field(repr=False, compare=False)
    _places: Mapping[str, int] = field(repr=False, compare=False)

    @classmethod
    def of(cls, entries: Iterable[ManifestEntry]) -> Manifest:
        """The manifest of these files; each name stands once."""
        ordered = tuple(sorted(entries, key=lambda entry: entry.name))
        if not 0 < len(ordered) <= MANIFEST_ENTRIES_MAX:
            raise LimitError(f"A manifest names 1 to {MANIFEST_ENTRIES_MAX} files, and this one {len(ordered)}.")
        for before, after in pairwise(ordered):
            if before.name == after.name:
                raise FormatError(f"The manifest names {before.name!a} twice.", remedy="Give each file its own name.")
        spelled = [_spelled(entry.name, entry.digest, entry.bytes) for entry in ordered]
        leaves = tree.leaf_hashes(b"".join(spelled), list(accumulate(map(len, spelled), initial=0)))
        edge, finished = tree.Edge().extended(leaves)
        nodes = _Nodes({0: leaves, **{level: hashes for level, _, hashes in finished}})
        return cls(ordered, nodes, Digest(edge.root()), {entry.name: i for i, entry in enumerate(ordered)})

    @property
    def root(self) -> ManifestRoot:
        """What a source signs."""
        return ManifestRoot(self._root, len(self.entries))

    def index_of(self, name: str) -> int:
        """Where a file stands."""
        try:
            return self._places[name]
        except KeyError as error:
            raise NotFoundError(f"The manifest names no file {name[:200]!a}.") from error

    def membership(self, index: int) -> Membership:
        """The proof that a file is in the manifest."""
        hashes = tree.prove_inclusion(index, len(self.entries), self._nodes)
        return Membership(self.entries[index].name, index, tuple(hashes))

    def to_lines(self) -> bytes:
        """The manifest as a file: one JSON object on each line."""
        return b"".join(
            strict_json.spell({"bytes": entry.bytes, "name": entry.name, "sha256": entry.digest.hex()}) + b"\n"
            for entry in self.entries
        )

    @classmethod
    def parse(cls, data: bytes) -> Manifest:
        """Read such a file: sorted by name, every line whole."""
        lines = data.split(b"\n", MANIFEST_ENTRIES_MAX + 1)
        if lines.pop():
            raise FormatError(
                f"The manifest does not end with a line end, or has more than {MANIFEST_ENTRIES_MAX} lines.",
                remedy="Write it anew: it may have been cut off.",
            )
        entries: list[ManifestEntry] = []
        for number, line in enumerate(lines, start=1):
            entry = _entry(line, number)
            if entries and entries[-1].name >= entry.name:
                raise FormatError(
                    f"Line {number} of the manifest is out of order.",
                    remedy="Lines are sorted by name, and each name stands once.",
                )
            entries.append(entry)
        return cls.of(entries)


def holds(membership: Membership, manifest: ManifestRoot, content: Digest, content_bytes: int) -> bool:
    """Whether the proof shows that this content is the file of that name in the attested manifest."""
    try:
        leaf = merkle.leaf_hash(_spelled(membership.name, content, content_bytes))
        merkle.verify_inclusion(membership.index, manifest.entries, leaf, membership.hashes, manifest.root)
    except (FormatError, ProofError):
        return False
    return True


def _spelled(name: str, digest: Digest, size: int) -> bytes:
    """One file as the tree hashes it: fixed widths first, so that no two files are spelled alike."""
    check_name(name)
    if len(digest) != 32:
        raise FormatError(f"The digest of {name!a} is not SHA-256.")
    if not 0 <= size <= CONTENT_BYTES_MAX:
        raise FormatError(f"{name!a} cannot have {size} bytes.")
    return _PURPOSE + digest + _SIZE.pack(size) + name.encode()


def check_name(name: str) -> str:
    """A name is a relative path with `/`, that stays below where it starts."""
    plain = 0 < len(name) <= NAME_BYTES_MAX and strict_json.is_plain(name) and len(name.encode()) <= NAME_BYTES_MAX
    if not plain or "\\" in name or not {"", ".", ".."}.isdisjoint(name.split("/")):
        raise FormatError(
            f"{name[:200]!a} cannot name a file of a manifest.",
            remedy=f"Take a relative path with /, without . and .., of at most {NAME_BYTES_MAX} bytes.",
        )
    return name


def _entry(line: bytes, number: int) -> ManifestEntry:
    where = f"Line {number} of the manifest"
    fields = strict_json.Fields(strict_json.parse(line, bytes_max=LINE_BYTES_MAX, what=where), where)
    name, digest = fields.required_text("name", chars_max=NAME_BYTES_MAX), fields.required_text("sha256", chars_max=64)
    size = fields.required_whole("bytes", low=0, high=CONTENT_BYTES_MAX)
    fields.end()
    try:
        return ManifestEntry(check_name(name), strict_json.sha256_of(digest, fields.named("sha256")), size)
    except LicetError as error:
        raise FormatError(f"{where}: {error.message}", remedy=error.remedy) from error


@dataclass(frozen=True, slots=True)
class _Nodes:
    """The finished nodes of a tree that does not grow, by tile level."""

    levels: Mapping[int, tree.Hashes]

    def hashes(self, level: int, start: int, count: int) -> tree.Hashes:
        rows: tree.Hashes = self.levels.get(level, self.levels[0][:0])[start : start + count]
        return rows
