"""How entries lie in the database: those of one commit end to end in one value, found by the index of the first."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from licet.ledger.codec import ENTRY_BYTES_MAX
from licet.ledger.errors import CorruptError

ENTRIES_MAX = 1024
BYTES_MAX = 1 << 20
"""A commit larger than this is laid down as several chunks, so that reading one entry never unpacks much."""


class Chunk(NamedTuple):
    """Consecutive entries: entry `first + i` is data[offsets[i] : offsets[i + 1]]."""

    first: int
    data: bytes
    offsets: NDArray[np.int64]

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
        return Chunk(start, self.data[offsets[0] : offsets[-1]], offsets - offsets[0])


def key(index: int) -> bytes:
    """Sorts as the index does."""
    return index.to_bytes(8, "big")


def pack(data: bytes, lengths: NDArray[np.int64]) -> bytes:
    return struct.pack("<I", len(lengths)) + lengths.astype("<u2").tobytes() + data


def unpack(raw_key: bytes, value: bytes) -> Chunk:
    """The chunk in a database value; its own lengths must account for every byte."""
    first = int.from_bytes(raw_key, "big")
    damaged = CorruptError(f"The chunk of entries at {first} is damaged.", remedy="Run `licet ledger verify`.")
    if len(raw_key) != 8 or len(value) < 4:
        raise damaged
    (count,) = struct.unpack_from("<I", value)
    data = value[4 + 2 * count :]
    if not 0 < count <= ENTRIES_MAX or len(value) < 4 + 2 * count:
        raise damaged
    offsets = np.zeros(count + 1, np.int64)
    np.cumsum(np.frombuffer(value, "<u2", count, 4), out=offsets[1:])
    if offsets[-1] != len(data):
        raise damaged
    return Chunk(first, data, offsets)


def split(first: int, data: bytes, lengths: NDArray[np.int64]) -> list[tuple[bytes, bytes]]:
    """Keys and values that hold these entries."""
    assert not len(lengths) or lengths.max() <= ENTRY_BYTES_MAX
    if len(lengths) <= ENTRIES_MAX and len(data) <= BYTES_MAX:
        return [(key(first), pack(data, lengths))] if len(lengths) else []
    ends = np.cumsum(lengths)
    values: list[tuple[bytes, bytes]] = []
    start = at = 0
    while start < len(lengths):
        stop = int(np.searchsorted(ends, at + BYTES_MAX, side="right"))
        stop = min(max(stop, start + 1), start + ENTRIES_MAX)
        end = int(ends[stop - 1])
        values.append((key(first + start), pack(data[at:end], lengths[start:stop])))
        start, at = stop, end
    return values


def join(entries: Sequence[bytes]) -> tuple[bytes, NDArray[np.int64]]:
    """Entries laid end to end, and their lengths."""
    return b"".join(entries), np.fromiter((len(entry) for entry in entries), np.int64, len(entries))


def concatenated(held: Sequence[Chunk]) -> Chunk:
    """Neighbouring chunks as one."""
    if len(held) == 1:
        return held[0]
    offsets = np.zeros(sum(len(chunk.offsets) - 1 for chunk in held) + 1, np.int64)
    np.cumsum(np.concatenate([np.diff(chunk.offsets) for chunk in held]), out=offsets[1:])
    return Chunk(held[0].first, b"".join(chunk.data for chunk in held), offsets)
