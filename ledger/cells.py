"""Exact sums by attestation and block, in memory: the rows that the exposure index is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from licet.ledger.events import Events, Ints, ProfileTable
from licet.ledger.norms import LIMB_BITS
from licet.ledger.segments import Extent, Segment

_ROWS_MIN = 64


class Cells:
    """A row for each attestation, a column for each block.

    `group_of` gives each attestation's group (its source), so that a ranking needs no lookups.
    """

    def __init__(self, blocks: int, group_of: Callable[[int], int]) -> None:
        self._group_of = group_of
        self._refs = np.empty(0, np.int64)
        self._table = np.full((2 * _ROWS_MIN, 2), -1, np.int64)
        self._groups = np.zeros(_ROWS_MIN, np.int64)
        self._cells = np.zeros((_ROWS_MIN, blocks, 3), np.int64)
        self._steps = np.full((_ROWS_MIN, blocks, 2), -1, np.int64)
        self._columns: Ints | None = None

    def __len__(self) -> int:
        return len(self._refs)

    @property
    def refs(self) -> Ints:
        """The attestation of each row."""
        return self._refs

    @property
    def cells(self) -> Ints:
        """[rows, blocks, 3]: hi, lo, count."""
        return self._cells[: len(self)]

    @property
    def steps(self) -> Ints:
        """[rows, blocks, 2]: first and last step, -1 if none."""
        return self._steps[: len(self)]

    def rows_of(self, refs: Sequence[int]) -> Ints:
        return np.flatnonzero(np.isin(self._refs, refs))

    def rows_in(self, group: int) -> Ints:
        return np.flatnonzero(self._groups[: len(self)] == group)

    def fold(self, events: Events, profiles: ProfileTable) -> None:
        """Add some events."""
        from licet.ledger import kernels  # noqa: PLC0415

        self._columns = None
        rows = self._rows(events.attestation)
        order = np.argsort(rows)  # one row after another, so that each is fetched into the processor's cache once
        kernels.fold(self._cells, self._steps, order, rows, events.step, profiles.rows, profiles.levels, events.codes)

    def merge(self, segment: Segment) -> None:
        """Add the sums of a segment."""
        from licet.ledger import kernels  # noqa: PLC0415

        self._columns = None
        rows = self._rows(segment.refs)
        kernels.merge(self._cells, self._steps, rows, segment.cells, segment.steps)

    def add_up(self, blocks: NDArray[np.int64], hi: Ints, lo: Ints) -> None:
        """Add each group's sum over some blocks to its limbs."""
        from licet.ledger import kernels  # noqa: PLC0415

        if self._columns is None:  # block after block, as a ranking reads them
            self._columns = np.ascontiguousarray(self.cells[:, :, :2].transpose(2, 1, 0))
        kernels.add_selected(self._columns, blocks, self._groups[: len(self)], hi, lo)

    def as_segment(self, extent: Extent) -> Segment:
        """These sums as a segment. Its rows are in the order of their references, however they were added."""
        refs = self.refs
        order = np.argsort(refs)
        return Segment(
            extent.start,
            extent.end,
            extent.first_step,
            extent.last_step,
            extent.events,
            refs[order],
            self.cells[order],
            self.steps[order],
        )

    def clear(self) -> None:
        self._columns = None
        self._cells[: len(self)] = 0
        self._steps[: len(self)] = -1
        self._refs = np.empty(0, np.int64)
        self._table[:] = -1

    def _rows(self, refs: Ints) -> Ints:
        """The rows of some attestations, new ones included."""
        from licet.ledger import kernels  # noqa: PLC0415

        rows: Ints = kernels.find_rows(self._table, refs)
        missing = rows < 0
        if missing.any():
            new = np.unique(refs[missing])
            self._grow(len(self) + len(new))
            self._groups[len(self) : len(self) + len(new)] = [self._group_of(ref) for ref in new.tolist()]
            kernels.insert_rows(self._table, new, len(self))
            self._refs = np.concatenate([self._refs, new])
            rows = kernels.find_rows(self._table, refs)
        return rows

    def _grow(self, rows: int) -> None:
        """Make room for this many rows; the table of references stays at most half full."""
        from licet.ledger import kernels  # noqa: PLC0415

        more = max(rows, 2 * len(self._cells)) - len(self._cells)
        if rows > len(self._cells):
            blocks = self._cells.shape[1]
            self._groups = np.concatenate([self._groups, np.zeros(more, np.int64)])
            self._cells = np.concatenate([self._cells, np.zeros((more, blocks, 3), np.int64)])
            self._steps = np.concatenate([self._steps, np.full((more, blocks, 2), -1, np.int64)])
        if 2 * rows > len(self._table):
            self._table = np.full((1 << (4 * rows).bit_length(), 2), -1, np.int64)
            kernels.insert_rows(self._table, self._refs, 0)


def total(hi: int, lo: int) -> int:
    """The exact sum that two limbs hold."""
    return (int(hi) << LIMB_BITS) + int(lo)


def merged(parts: Sequence[Segment]) -> Segment:
    """Consecutive segments as one."""
    sums = Cells(parts[0].cells.shape[1], lambda _: 0)
    for part in parts:
        sums.merge(part)
    events = sum(part.events for part in parts)
    first, last = parts[0], parts[-1]
    return sums.as_segment(Extent(first.start, last.end, first.first_step, last.last_step, events))
