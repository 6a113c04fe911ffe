"""How entries lie in the database: those of one commit end to end in one value, found by the index of the first.

Beside each entry stands a *mark*, the first bytes of its leaf hash. The tree proves the entries, 256 at a time; the
mark only lets a check say which of the 256 was altered.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from licet.ledger.codec import ENTRY_BYTES_MAX
from licet.ledger.errors import CorruptError

ENTRIES_MAX = 1024
MARK_BYTES = 4
BYTES_MAX = 1 << 20
"""A commit larger than this is laid down as several chunks, so that reading one entry never unpacks much."""


class Chunk(NamedTuple):
    """Consecutive entries: entry `first + i` is data[offsets[i] : offsets[i + 1]]; marks [n, 4] where there are any."""

    first: int
    data: bytes
    offsets: NDArray[np.int64]
    marks: NDArray[np.uint8] | None = None

    @property
    def end(self) -> int:
        return self.first + len(self.offsets) - 1

    def entry(self, index: int) -> bytes:
        i = index - self.first
        return self.data[self.offsets[i] : self.offsets[i + 1]]

    def cut(self, start: int, stop: int) -> Chunk:
        """Only the entries of this chunk that lie in [start, stop)."""
        start, stop = max(start, self.first), min(stop, self.end)
        if (start, stop) == (self.first, self.end):
            return self
        offsets = self.offsets[start - self.first : stop - self.first + 1]
        marks = None if self.marks is None else self.marks[start - self.first : stop - self.first]
        return Chunk(start, self.data[offsets[0] : offsets[-1]], offsets - offsets[0], marks)


def key(index: int) -> bytes:
    """Sorts as the index does."""
    return index.to_bytes(8, "big")


def pack(data: bytes, lengths: NDArray[np.int64], leaves: NDArray[np.uint8]) -> bytes:
    """A database value; `leaves` are the leaf hashes, or what is left of them."""
    marks = leaves[:, :MARK_BYTES].tobytes()
    return struct.pack("<I", len(lengths)) + lengths.astype("<u2").tobytes() + marks + data


def unpack(raw_key: bytes, value: bytes) -> Chunk:
    """The chunk in a database value; its own lengths must account for every byte."""
    first = int.from_bytes(raw_key, "big")
    damaged = CorruptError(f"The chunk of entries at {first} is damaged.", remedy="Run `licet ledger verify`.")
    if len(raw_key) != 8 or len(value) < 4:
        raise damaged
    (count,) = struct.unpack_from("<I", value)
    data = value[4 + (2 + MARK_BYTES) * count :]
    if not 0 < count <= ENTRIES_MAX or len(value) < 4 + (2 + MARK_BYTES) * count:
        raise damaged
    offsets = np.zeros(count + 1, np.int64)
    np.cumsum(np.frombuffer(value, "<u2", count, 4), out=offsets[1:])
    if offsets[-1] != len(data):
        raise damaged
    marks = np.frombuffer(value, np.uint8, MARK_BYTES * count, 4 + 2 * count).reshape(count, MARK_BYTES)
    return Chunk(first, data, offsets, marks)


def split(first: int, data: bytes, lengths: NDArray[np.int64], leaves: NDArray[np.uint8]) -> list[tuple[bytes, bytes]]:
    """Keys and values that hold these entries."""
    assert not len(lengths) or lengths.max() <= ENTRY_BYTES_MAX
    if len(lengths) <= ENTRIES_MAX and len(data) <= BYTES_MAX:
        return [(key(first), pack(data, lengths, leaves))] if len(lengths) else []
    ends = np.cumsum(lengths)
    values: list[tuple[bytes, bytes]] = []
    start = at = 0
    while start < len(lengths):
        stop = int(np.searchsorted(ends, at + BYTES_MAX, side="right"))
        stop = min(max(stop, start + 1), start + ENTRIES_MAX)
        end = int(ends[stop - 1])
        values.append((key(first + start), pack(data[at:end], lengths[start:stop], leaves[start:stop])))
        start, at = stop, end
    return values


def concatenated(held: Sequence[Chunk]) -> Chunk:
    """Neighbouring chunks as one."""
    if len(held) == 1:
        return held[0]
    offsets = np.zeros(sum(len(chunk.offsets) - 1 for chunk in held) + 1, np.int64)
    np.cumsum(np.concatenate([np.diff(chunk.offsets) for chunk in held]), out=offsets[1:])
    marks = [chunk.marks for chunk in held if chunk.marks is not None]
    together = np.concatenate(marks) if len(marks) == len(held) else None
    return Chunk(held[0].first, b"".join(chunk.data for chunk in held), offsets, together)
