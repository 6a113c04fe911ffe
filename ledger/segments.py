"""How exposure lies in the database: immutable sums over stretches of a run, and where each example's events are.

The log is cut into *segments*. Each holds the exact sums of the events in it; eight segments make one of the next
level. Any stretch of whole segments is thereby a handful of values, which is what opening a log and asking about a
range of steps cost. *Postings* hold, for each segment and each bucket of 1024 example references, where in the
segment the events of those examples stand.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from licet.ledger.errors import CorruptError

FANOUT_BITS = 3
BUCKET_BITS = 10
_EXTENT = struct.Struct("<QQQQQ")
_SHAPE = struct.Struct("<II")
_POSTING = struct.Struct("<QI")
_CELLS_MAX = 1 << 27
_BLOCKS_MAX = 1 << 15
"""More than a `RunStarted` has room for in an entry."""
_EXTENT_LEVEL = 0xFF

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Extent:
    """Where a segment lies: the entries [start, end), their first and last step, how many events are among them."""

    start: int
    end: int
    first_step: int
    last_step: int
    events: int

    def pack(self) -> bytes:
        return _EXTENT.pack(self.start, self.end, self.first_step, self.last_step, self.events)

    @classmethod
    def unpack(cls, value: bytes) -> Extent:
        try:
            return cls(*_EXTENT.unpack(value))
        except struct.error as error:
            raise _damaged("extent", error) from error


@dataclass(frozen=True, slots=True)
class Segment(Extent):
    """Sums of the events among the entries [start, end): a row for each attestation that has any.

    `cells` [rows, blocks, 3] holds hi, lo, count; `steps` [rows, blocks, 2] the first and last step, -1 if none.
    """

    refs: Ints
    cells: Ints
    steps: Ints

    @property
    def extent(self) -> Extent:
        return Extent(self.start, self.end, self.first_step, self.last_step, self.events)

    def pack(self) -> bytes:
        rows, blocks = self.cells.shape[:2]
        header = self.extent.pack() + _SHAPE.pack(rows, blocks)
        # Column by column and byte by byte, so that what repeats lies together for the compressor.
        columns = [self.refs, *np.moveaxis(self.cells, 2, 0), *(np.moveaxis(self.steps, 2, 0) + 1)]
        return header + b"".join(_planes(np.ascontiguousarray(c.T)) for c in columns)

    @classmethod
    def unpack(cls, value: bytes) -> Segment:
        try:
            start, end, first_step, last_step, events = _EXTENT.unpack_from(value)
            rows, blocks = _SHAPE.unpack_from(value, _EXTENT.size)
            # Columns of zeros take no bytes, so the length of a value alone does not bound what it unpacks to.
            if rows > len(value) or blocks > _BLOCKS_MAX or rows * blocks > _CELLS_MAX:
                raise ValueError("impossible size")
            at = _EXTENT.size + _SHAPE.size
            refs, at = _unplanes(value, at, rows)
            columns = []
            for _ in range(5):
                column, at = _unplanes(value, at, rows * blocks)
                columns.append(column.reshape(blocks, rows).T)
            if at != len(value):
                raise ValueError("bytes left over")
        except (struct.error, ValueError) as error:
            raise _damaged("segment", error) from error
        return cls(
            start,
            end,
            first_step,
            last_step,
            events,
            refs,
            np.stack(columns[:3], axis=2),
            np.stack(columns[3:], axis=2) - 1,
        )


def segment_key(run: int, level: int, number: int) -> bytes:
    return run.to_bytes(5, "big") + bytes([level]) + number.to_bytes(4, "big")


def extent_key(run: int, number: int) -> bytes:
    """Extents stand apart from the sums, so that finding a step does not read them."""
    return segment_key(run, _EXTENT_LEVEL, number)


def run_prefix(run: int) -> bytes:
    return run.to_bytes(5, "big")


def cover(first: int, last: int) -> Iterator[tuple[int, int]]:
    """The fewest (level, number) that make up the whole segments [first, last) of level 0.

    A segment of a level exists once all its parts do, so whatever lies below `last` exists.
    """
    while first < last:
        level = 0
        while first % (1 << FANOUT_BITS * (level + 1)) == 0 and first + (1 << FANOUT_BITS * (level + 1)) <= last:
            level += 1
        yield level, first >> FANOUT_BITS * level
        first += 1 << FANOUT_BITS * level


def postings(run: int, number: int, start: int, examples: Ints, indices: Ints) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values that say where the events of a segment stand, one for each bucket of examples."""
    order = np.lexsort((indices, examples))
    examples, offsets = examples[order], indices[order] - start
    buckets = examples >> BUCKET_BITS
    starts = np.flatnonzero(np.diff(buckets, prepend=-1))
    for a, b in zip(starts, np.append(starts[1:], len(buckets)), strict=True):
        low = examples[a:b] & ((1 << BUCKET_BITS) - 1)
        value = _POSTING.pack(start, b - a) + _planes(low) + _planes(offsets[a:b])
        yield posting_key(int(examples[a]), run, number), value


def posting_key(example: int, run: int, number: int) -> bytes:
    return (example >> BUCKET_BITS).to_bytes(5, "big") + run_prefix(run) + number.to_bytes(4, "big")


def unpack_posting(value: bytes, example: int) -> Ints:
    """The entry indices of one example's events in one posting."""
    try:
        start, count = _POSTING.unpack_from(value)
        if count > len(value) or start >= 1 << 40:
            raise ValueError("impossible size")
        low, at = _unplanes(value, _POSTING.size, count)
        offsets, at = _unplanes(value, at, count)
    except (struct.error, ValueError) as error:
        raise _damaged("posting", error) from error
    wanted = example & ((1 << BUCKET_BITS) - 1)
    found: Ints = start + offsets[np.searchsorted(low, wanted) : np.searchsorted(low, wanted, side="right")]
    return found


def _damaged(what: str, error: Exception) -> CorruptError:
    return CorruptError(
        f"A {what} of the exposure index is damaged: {error}.",
        remedy="Run `licet ledger fsck --repair` to rebuild the index from the entries.",
    )


def _planes(values: Ints) -> bytes:
    """The byte planes of some non-negative numbers, without those above the highest that is not all zero."""
    flat = values.reshape(-1)
    width = (int(flat.max(initial=0)).bit_length() + 7) // 8
    planes = flat.astype("<u8").view(np.uint8).reshape(-1, 8).T[:width]
    return bytes([width]) + planes.tobytes()


def _unplanes(value: bytes, at: int, count: int) -> tuple[Ints, int]:
    if at >= len(value) or value[at] > 8 or at + 1 + value[at] * count > len(value):
        raise ValueError("cut short")
    width, at = value[at], at + 1
    wide = np.zeros((count, 8), np.uint8)
    if width:
        wide[:, :width] = np.frombuffer(value, np.uint8, width * count, at).reshape(width, count).T
    return wide.view("<i8").reshape(-1).astype(np.int64), at + width * count
