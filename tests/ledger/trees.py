"""Trees to test with: one that grows in memory through `tree.Edge`, and the definitions of RFC 6962 taken literally."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass, field

import numpy as np

from licet.ledger import tree
from licet.ledger.tree import Edge, Hashes


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def entry_of(index: int) -> bytes:
    return b"entry %d" % index


def no_hashes() -> Hashes:
    return np.empty((0, 32), np.uint8)


@dataclass
class Grown:
    """A log's tree with every finished node in memory: what `tree.py` asks a database for."""

    edge: Edge = field(default_factory=Edge)
    levels: dict[int, Hashes] = field(default_factory=lambda: {0: no_hashes()})
    roots: dict[int, bytes] = field(default_factory=lambda: {0: tree.EMPTY_ROOT})

    @property
    def size(self) -> int:
        return self.edge.size

    def grow(self, leaves: Hashes) -> bytes:
        self.levels[0] = np.concatenate([self.levels[0], leaves])
        self.edge, finished = self.edge.extended(leaves)
        for level, first, hashes in finished:
            row = self.levels.setdefault(level, no_hashes())
            assert first == len(row), "finished nodes come in order and once"
            self.levels[level] = np.concatenate([row, hashes])
        self.roots[self.size] = self.edge.root()
        return self.roots[self.size]

    def hashes(self, level: int, start: int, count: int) -> Hashes:
        row = self.levels.get(level, no_hashes())[start : start + count]
        assert len(row) == count, "only finished nodes are asked for"
        return row

    def leaf(self, index: int) -> bytes:
        return self.levels[0][index].tobytes()


def leaves_of(start: int, stop: int) -> Hashes:
    """The leaf hashes of `entry_of(start)` to `entry_of(stop - 1)`."""
    entries = [entry_of(i) for i in range(start, stop)]
    offsets = np.cumsum([0, *map(len, entries)])
    return tree.leaf_hashes(b"".join(entries), offsets)


class Literal:
    """RFC 6962 section 2.1, word for word: recursion over the list of leaves."""

    def __init__(self, leaves: list[bytes]) -> None:
        self.leaves = leaves
        self.mth = functools.cache(self._mth)

    def root(self, size: int) -> bytes:
        return self.mth(0, size)

    def _mth(self, start: int, end: int) -> bytes:
        if end == start:
            return sha256(b"")
        if end - start == 1:
            return self.leaves[start]
        k = _split(end - start)
        return sha256(b"\x01" + self.mth(start, start + k) + self.mth(start + k, end))

    def path(self, m: int, start: int, end: int) -> list[bytes]:
        n = end - start
        if n == 1:
            return []
        k = _split(n)
        if m < k:
            return [*self.path(m, start, start + k), self.mth(start + k, end)]
        return [*self.path(m - k, start + k, end), self.mth(start, start + k)]

    def inclusion(self, index: int, size: int) -> list[bytes]:
        return self.path(index, 0, size)

    def consistency(self, size1: int, size2: int) -> list[bytes]:
        return self._subproof(size1, 0, size2, whole=True)

    def _subproof(self, m: int, start: int, end: int, *, whole: bool) -> list[bytes]:
        n = end - start
        if m == n:
            return [] if whole else [self.mth(start, end)]
        k = _split(n)
        if m <= k:
            return [*self._subproof(m, start, start + k, whole=whole), self.mth(start + k, end)]
        return [*self._subproof(m - k, start + k, end, whole=False), self.mth(start, start + k)]


def _split(n: int) -> int:
    """The largest power of two smaller than n."""
    return 1 << (n - 1).bit_length() - 1
