"""Exact sums by attestation and block, in memory: the rows that the exposure index is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from licet.ledger.events import Events, Ints, ProfileTable
from licet.ledger.norms import LIMB_BITS
from licet.ledger.segments import Segment

_ROWS_MIN = 64


class Cells:
    """A row for each attestation, a column for each block.

    `group_of` gives each attestation's group (its source), so that a ranking needs no lookups.
    """

    def __init__(self, blocks: int, group_of: Callable[[int], int]) -> None:
        self._group_of = group_of
        self._row_of: dict[int, int] = {}
        self._groups = np.zeros(_ROWS_MIN, np.int64)
        self._cells = np.zeros((_ROWS_MIN, blocks, 3), np.int64)
        self._steps = np.full((_ROWS_MIN, blocks, 2), -1, np.int64)

    def __len__(self) -> int:
        return len(self._row_of)

    @property
    def refs(self) -> Ints:
        """The attestation of each row."""
        return np.fromiter(self._row_of, np.int64, len(self))

    @property
    def cells(self) -> Ints:
        """[rows, blocks, 3]: hi, lo, count."""
        return self._cells[: len(self)]

    @property
    def steps(self) -> Ints:
        """[rows, blocks, 2]: first and last step, -1 if none."""
        return self._steps[: len(self)]

    def rows_of(self, refs: Sequence[int]) -> Ints:
        return np.array([row for ref in refs if (row := self._row_of.get(ref)) is not None], np.int64)

    def rows_in(self, group: int) -> Ints:
        return np.flatnonzero(self._groups[: len(self)] == group)

    def fold(self, events: Events, profiles: ProfileTable) -> None:
        """Add some events."""
        from licet.ledger import kernels  # noqa: PLC0415

        distinct, inverse = np.unique(events.attestation, return_inverse=True)
        rows = self._rows(distinct)[inverse]
        kernels.fold(
            self._cells, self._steps, rows, events.step, profiles.rows, profiles.levels, events.codes
        )

    def merge(self, segment: Segment) -> None:
        """Add the sums of a segment."""
        from licet.ledger import kernels  # noqa: PLC0415

        rows = self._rows(segment.refs)
        kernels.merge(self._cells, self._steps, rows, segment.cells, segment.steps)

    def add_up(self, blocks: NDArray[np.int64], hi: Ints, lo: Ints) -> None:
        """Add each group's sum over some blocks to its limbs."""
        from licet.ledger import kernels  # noqa: PLC0415

        kernels.add_selected(self._cells, blocks, self._groups[: len(self)], hi, lo)

    def clear(self) -> None:
        self._cells[: len(self)] = 0
        self._steps[: len(self)] = -1
        self._row_of.clear()

    def _rows(self, refs: Ints) -> Ints:
        """The rows of some attestations, new ones included."""
        known, before = self._row_of, len(self)
        rows = np.fromiter((known.setdefault(ref, len(known)) for ref in refs.tolist()), np.int64, len(refs))
        if len(known) > before:
            self._grow(len(known))
            new = list(known)[before:]
            self._groups[before : len(known)] = [self._group_of(ref) for ref in new]
        return rows

    def _grow(self, rows: int) -> None:
        more = max(rows, 2 * len(self._cells)) - len(self._cells)
        if rows > len(self._cells):
            blocks = self._cells.shape[1]
            self._groups = np.concatenate([self._groups, np.zeros(more, np.int64)])
            self._cells = np.concatenate([self._cells, np.zeros((more, blocks, 3), np.int64)])
            self._steps = np.concatenate([self._steps, np.full((more, blocks, 2), -1, np.int64)])


def total(hi: int, lo: int) -> int:
    """The exact sum that two limbs hold."""
    return (int(hi) << LIMB_BITS) + int(lo)


def merged(parts: Sequence[Segment]) -> Segment:
    """Consecutive segments as one."""
    sums = Cells(parts[0].cells.shape[1], lambda _: 0)
    for part in parts:
        sums.merge(part)
    return Segment(
        parts[0].start,
        parts[-1].end,
        parts[0].first_step,
        parts[-1].last_step,
        sum(part.events for part in parts),
        sums.refs,
        sums.cells,
        sums.steps,
    )
