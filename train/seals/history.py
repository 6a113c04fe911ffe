"""Which blocks the training log says were written to between two seals: the authority for what changed."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from licet.ledger.errors import NotFoundError
from licet.ledger.reader import LogReader
from licet.ledger.records import RunStarted
from licet.train.seals.statement import LedgerPoint, RunPlace, Seal


class WriteHistory(Protocol):
    """What knows of events: a log, or what stands for one in a test."""

    def holds(self, point: LedgerPoint) -> bool | None:
        """Whether the log had this root at this size; None if it is another log."""
        ...

    def blocks_written(self, child: Seal, parent: Seal) -> frozenset[str] | None:
        """The blocks that events between the two reached; None if another log knows."""
        ...

    def began_elsewhere(self, seal: Seal) -> bool:
        """Whether a seal without a parent is of a run that began from one."""
        ...


class LogHistory:
    """The history that a training log tells."""

    def __init__(self, log: LogReader) -> None:
        self._log = log

    def holds(self, point: LedgerPoint) -> bool | None:
        if point.origin != self._log.origin:
            return None
        return point.size <= self._log.size and self._log.root_at(point.size) == point.root

    def blocks_written(self, child: Seal, parent: Seal) -> frozenset[str] | None:
        """By entries, not by step numbers: what stands between the two checkpoints in the log, in the child's run.

        A child of another run counts only if that run says it began from this parent.
        """
        point, place = child.claims.ledger, child.claims.run
        if point is None or not self.holds(point):
            return None
        if place is None:
            return frozenset()
        started = self._started(place, point)
        if started is None:
            return frozenset()
        start: int = place.entry
        if parent.claims.run == place and parent.claims.ledger is not None:
            start = max(start, parent.claims.ledger.size)
        elif started.parent_seal != parent.id:
            return frozenset()
        return self._reached(start, self._end_of(place.entry, point.size), [block.name for block in started.blocks])

    def began_elsewhere(self, seal: Seal) -> bool:
        point, place = seal.claims.ledger, seal.claims.run
        if point is None or place is None or not self.holds(point):
            return False
        started = self._started(place, point)
        return started is None or started.parent_seal is not None

    def _started(self, place: RunPlace, point: LedgerPoint) -> RunStarted | None:
        """How a run began, as the log has it."""
        if place.entry >= point.size:
            return None
        started = self._log.record(place.entry)
        return started if isinstance(started, RunStarted) and started.run == place.name else None

    def _end_of(self, run: int, size: int) -> int:
        """Where the entries of a run end, within the first `size` of the log."""
        return min((index for index, _ in self._log.all_of(RunStarted) if run < index < size), default=size)

    def _reached(self, start: int, end: int, blocks: list[str]) -> frozenset[str]:
        """The blocks in which some event among these entries has a weight."""
        reached = np.zeros(len(blocks), bool)
        for _, profiles, _ in self._log.exposure.events_between(start, end):
            levels = profiles.levels[np.unique(profiles.rows)]
            if levels.shape[1] != len(blocks):
                raise NotFoundError(f"Events after entry {start} do not fit the blocks of their run.")
            reached |= (levels != 0).any(axis=0)
            if reached.all():
                break
        return frozenset(name for name, was in zip(blocks, reached.tolist(), strict=True) if was)


__all__ = ["LogHistory", "WriteHistory"]
