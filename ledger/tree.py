"""The growing tree of a log: its right edge in memory, its finished nodes wherever the log keeps them.

Nodes are kept at every eighth level only (a leaf, a tile of 256, a tile of tiles…), as C2SP tiles do; everything
between is recomputed from at most 256 hashes. `merkle.py` checks what this file proves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from licet.ledger.errors import ProofError

TILE_BITS = 8
TILE = 1 << TILE_BITS
EMPTY_ROOT = hashlib.sha256().digest()
_COMPILED_MIN = 48
"""From this many hashes on, the compiled loops are faster than hashlib, imports aside."""

Hashes = NDArray[np.uint8]
"""Some hashes as rows of 32 bytes."""


class NodeSource(Protocol):
    """Where finished nodes are read from."""

    def hashes(self, level: int, start: int, count: int) -> Hashes:
        """`count` consecutive nodes of tile level `level` (0 = leaf hashes), all of them finished."""
        ...


def leaf_hashes(data: bytes | memoryview, offsets: Sequence[int] | NDArray[np.int64]) -> Hashes:
    """The leaf hashes of entries laid end to end."""
    count = len(offsets) - 1
    if count >= _COMPILED_MIN:
        from licet.ledger import kernels  # noqa: PLC0415  half a second of import, worth it for a batch only

        rows: Hashes = kernels.leaf_hashes(np.frombuffer(data, np.uint8), np.asarray(offsets, np.int64))
        return rows
    view = memoryview(data)
    joined = b"".join(hashlib.sha256(b"\x00" + view[offsets[i] : offsets[i + 1]]).digest() for i in range(count))
    return np.frombuffer(joined, np.uint8).reshape(-1, 32)


def root_of(hashes: Hashes) -> bytes:
    """The root over one or more nodes of one level, of which only the last may be incomplete."""
    if len(hashes) >= _COMPILED_MIN:
        from licet.ledger import kernels  # noqa: PLC0415

        root: bytes = kernels.tree_root(hashes).tobytes()
        return root
    nodes: list[bytes] = [row.tobytes() for row in hashes]
    while len(nodes) > 1:
        nodes = _parents(nodes)
    return nodes[0]


def _parents(nodes: list[bytes]) -> list[bytes]:
    """One level up; a last node without a sibling rises as it is."""
    odd = nodes[len(nodes) & ~1 :]
    return [_parent(a, b) for a, b in zip(nodes[::2], nodes[1::2], strict=False)] + odd


def _parent(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


class Edge:
    """The unfinished right edge: at each tile level, the nodes that have no parent yet.

    Beside them stand the *peaks*, the roots of the largest whole subtrees above the tiles, from left to right with
    their heights. A new tile touches one or two of them, and the root follows from all in a few hashes.
    """

    def __init__(
        self, size: int = 0, tails: list[Hashes] | None = None, peaks: tuple[tuple[int, bytes], ...] | None = None
    ) -> None:
        self.size = size
        self._tails = tails if tails is not None else [_none()]
        if peaks is None:
            peaks = ()
            for level in range(len(self._tails) - 1, 0, -1):
                peaks = _raised(peaks, TILE_BITS * level, self._tails[level])
        self._peaks = peaks

    @classmethod
    def load(cls, size: int, nodes: NodeSource) -> Edge:
        """Rebuild the edge of a log of this size, hashing its last entries anew."""
        tails = []
        level = 0
        while True:
            finished = size >> TILE_BITS * level
            tails.append(nodes.hashes(level, finished & ~(TILE - 1), finished & (TILE - 1)))
            if finished < TILE:
                return cls(size, tails)
            level += 1

    def extended(self, leaves: Hashes) -> tuple[Edge, list[tuple[int, int, Hashes]]]:
        """The edge after these leaves, and the nodes that were finished: (level, first index, hashes)."""
        tails: list[Hashes] = []
        finished: list[tuple[int, int, Hashes]] = []
        new, level = leaves, 0
        first = self.size
        while True:
            old = self._tails[level] if level < len(self._tails) else _none()
            if level:
                finished.append((level, first, new))
            row = np.concatenate([old, new]) if len(new) else old
            whole = len(row) & ~(TILE - 1)
            tails.append(row[whole:].copy())
            level += 1
            if not whole and level >= len(self._tails):
                break
            first = (first - len(old)) >> TILE_BITS
            new = np.frombuffer(b"".join(root_of(row[i : i + TILE]) for i in range(0, whole, TILE)), np.uint8).reshape(
                -1, 32
            )
        peaks = self._peaks
        for level_of, _, nodes in finished:
            if level_of == 1:
                peaks = _raised(peaks, TILE_BITS, nodes)
        return Edge(self.size + len(leaves), tails, peaks), [run for run in finished if len(run[2])]

    def root(self) -> bytes:
        if not self.size:
            return EMPTY_ROOT
        root = root_of(self._tails[0]) if len(self._tails[0]) else b""
        for _, peak in reversed(self._peaks):
            root = _parent(peak, root) if root else peak
        return root


def _raised(peaks: tuple[tuple[int, bytes], ...], height: int, nodes: Hashes) -> tuple[tuple[int, bytes], ...]:
    """The peaks after more nodes of one height: two of a height become one of the next."""
    row = list(peaks)
    for node in nodes:
        row.append((height, node.tobytes()))
        while len(row) > 1 and row[-1][0] == row[-2][0]:
            (at, right), (_, left) = row.pop(), row.pop()
            row.append((at + 1, _parent(left, right)))
    return tuple(row)


def root_at(size: int, nodes: NodeSource) -> bytes:
    """The root of the first `size` entries."""
    return _range_root(0, size, nodes) if size else EMPTY_ROOT


def prove_inclusion(index: int, size: int, nodes: NodeSource) -> list[bytes]:
    """The audit path of entry `index` in the first `size` entries."""
    if not 0 <= index < size:
        raise ProofError(f"Entry {index} is not among the first {size} entries of this log.")
    path: list[bytes] = []
    partial = _none()
    level = 0
    while True:
        finished, at = size >> TILE_BITS * level, index >> TILE_BITS * level
        last = finished & ~(TILE - 1)
        tail = np.concatenate([nodes.hashes(level, last, finished - last), partial])
        tile = at & ~(TILE - 1)
        row = tail if tile == last else nodes.hashes(level, tile, TILE)
        path += siblings_of(row, at - tile)
        if last == 0:
            return path
        partial = np.frombuffer(root_of(tail), np.uint8).reshape(1, 32) if len(tail) else _none()
        level += 1


def siblings_of(row: Hashes, at: int) -> list[bytes]:
    """The hashes beside the way from row[at] to the root over a row, of which only the last may be incomplete."""
    if len(row) >= _COMPILED_MIN:
        from licet.ledger import kernels  # noqa: PLC0415

        return [sibling.tobytes() for sibling in kernels.siblings(row, at)]
    nodes = [node.tobytes() for node in row]
    path = []
    while len(nodes) > 1:
        if at ^ 1 < len(nodes):
            path.append(nodes[at ^ 1])
        nodes, at = _parents(nodes), at >> 1
    return path


def prove_consistency(size1: int, size2: int, nodes: NodeSource) -> list[bytes]:
    """The proof that the first `size1` entries begin the first `size2`."""
    if not 0 < size1 <= size2:
        raise ProofError(f"A log of {size2} entries cannot be shown to grow from one of {size1}.")
    path: list[bytes] = []
    start, end, whole = 0, size2, True
    while size1 != end:
        middle = start + (1 << (end - start - 1).bit_length() - 1)
        if size1 <= middle:
            path.append(_range_root(middle, end, nodes))
            end = middle
        else:
            path.append(_range_root(start, middle, nodes))
            start, whole = middle, False
    if not whole:
        path.append(_range_root(start, end, nodes))
    return path[::-1]


def _range_root(start: int, end: int, nodes: NodeSource) -> bytes:
    """The root over the entries [start, end), where start is a multiple of a power of two that spans them."""
    partial = _none()
    level = 0
    top = (end - start - 1).bit_length() // TILE_BITS
    while True:
        finished = end >> TILE_BITS * level
        first = start >> TILE_BITS * level
        if level < top:
            first = max(first, finished & ~(TILE - 1))
        row = np.concatenate([nodes.hashes(level, first, finished - first), partial])
        if len(row):
            partial = np.frombuffer(root_of(row), np.uint8).reshape(1, 32)
        if level == top:
            return partial.tobytes()
        level += 1


def _none() -> Hashes:
    return np.empty((0, 32), np.uint8)
