"""The exposure of one training run, as it grows: sums in memory, closed off segment by segment in the database."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np

from licet.ledger import segments
from licet.ledger.cells import Cells, merged
from licet.ledger.errors import CorruptError
from licet.ledger.events import Events, Ints, ProfileTable
from licet.ledger.records import RunStarted
from licet.ledger.segments import Extent, Segment
from licet.ledger.store import Table
from licet.ledger.view import View

SEGMENT_EVENTS_MIN = 1 << 14
SEGMENT_EVENTS_MAX = 1 << 20
_FOLD_EVENTS = 1 << 14
"""Events are summed in batches of this size, sorted by attestation so that each one's row is touched once."""


class Sink(Protocol):
    """Where the index is written to: a batch of the database, or somebody who compares."""

    def put(self, table: Table, key: bytes, value: bytes) -> None: ...


class Surroundings(Protocol):
    """What a run needs of the index that it belongs to."""

    view: View
    position: int

    def group_of(self, attestation: int) -> int: ...
    def events_between(self, start: int, end: int) -> Iterator[tuple[Events, ProfileTable, Ints]]: ...


class RunExposure:
    """The exposure of one training run: closed segments, and the open one at its end."""

    def __init__(self, index: Surroundings, run: int, started: RunStarted) -> None:
        self._index = index
        self.run = run
        self.started = started
        self.blocks = [block.name for block in started.blocks]
        self.closed = Cells(len(self.blocks), index.group_of)
        self.open = Cells(len(self.blocks), index.group_of)
        self.extents: list[Extent] = []
        self.end: int | None = None
        """Where the next run starts, if events were still in the open segment then."""
        self._first_open_step = 0
        self.last_step = 0
        self._open_events = 0
        self._open_places: list[tuple[Ints, Ints]] = []
        self._waiting: list[tuple[Events, ProfileTable]] = []
        self._waiting_events = 0

    @property
    def open_from(self) -> int:
        """The first entry that no closed segment covers."""
        return self.extents[-1].end if self.extents else self.run

    def load(self) -> None:
        """Take over the closed segments; what follows `open_from` is then to be added from the entries."""
        self.extents = self.stored_extents()
        for level, number in segments.cover(0, len(self.extents)):
            self.closed.merge(self.read_segment(level, number))
        if self.extents:
            self.last_step = self.extents[-1].last_step

    def stored_extents(self) -> list[Extent]:
        """Where the closed segments lie."""
        stop = segments.run_prefix(self.run + 1)
        stored = self._index.view.scan(Table.EXPOSURE, segments.extent_key(self.run, 0), stop)
        return [Extent.unpack(value) for _, value in stored]

    def read_segment(self, level: int, number: int) -> Segment:
        value = self._index.view.get(Table.EXPOSURE, segments.segment_key(self.run, level, number))
        if value is None:
            raise CorruptError(
                f"Segment {number} of level {level} is missing from the exposure index.",
                remedy="Run `licet ledger fsck --repair` to rebuild the index from the entries.",
            )
        return Segment.unpack(value)

    def add(self, events: Events, profiles: ProfileTable, indices: Ints) -> None:
        """Add committed events; `indices` says which entries they are."""
        if not self._open_events:
            self._first_open_step = int(events.step[0])
        self.last_step = int(events.step[-1])
        self._open_events += len(events)
        self._open_places.append((events.example, indices))
        self._waiting.append((events, profiles))
        self._waiting_events += len(events)
        if self._waiting_events >= _FOLD_EVENTS:
            self.settle()

    def settle(self) -> None:
        """Sum what waits."""
        if self._waiting:
            waiting, self._waiting, self._waiting_events = self._waiting, [], 0
            self.open.fold(*_joined(waiting))

    @property
    def is_full(self) -> bool:
        """Whether the open segment has enough events to be worth its size in the index."""
        size = len(self.open) * len(self.blocks)
        return self._open_events >= min(max(SEGMENT_EVENTS_MIN, size), SEGMENT_EVENTS_MAX)

    def close_segment(self, end: int, batch: Sink) -> None:
        """Write the open segment up to entry `end`, the ones it completes on higher levels, and its postings."""
        if not self._open_events:
            return
        self.settle()
        extent = Extent(self.open_from, end, self._first_open_step, self.last_step, self._open_events)
        segment = self.open.as_segment(extent)
        number = len(self.extents)
        batch.put(Table.EXPOSURE, segments.extent_key(self.run, number), extent.pack())
        for key, value in segments.postings(self.run, number, extent.start, *self._places()):
            batch.put(Table.POSTINGS, key, value)
        self.closed.merge(segment)
        self.extents.append(extent)
        self.open.clear()
        self._open_events, self._open_places = 0, []
        for level, n, whole in self._completed(number, segment):
            batch.put(Table.EXPOSURE, segments.segment_key(self.run, level, n), whole.pack())

    def _completed(self, number: int, segment: Segment) -> Iterator[tuple[int, int, Segment]]:
        """The new segment of level 0, and each on a higher level that it is the last part of."""
        level, parts = 0, 1 << segments.FANOUT_BITS
        yield level, number, segment
        while (number + 1) % parts == 0:
            before = [self.read_segment(level, n) for n in range(number + 1 - parts, number)]
            segment = merged([*before, segment])
            number, level = number // parts, level + 1
            yield level, number, segment

    def _places(self) -> tuple[Ints, Ints]:
        """The examples of the open segment's events, and which entries those are."""
        examples = [examples for examples, _ in self._open_places]
        return np.concatenate(examples), np.concatenate([indices for _, indices in self._open_places])

    def open_events_of(self, example: int) -> Iterator[int]:
        for examples, indices in self._open_places:
            yield from indices[examples == example].tolist()

    def between(self, first_step: int, last_step: int) -> Cells:
        """The sums of the steps from `first_step` to `last_step`, both included."""
        self.settle()
        sums = Cells(len(self.blocks), self._index.group_of)
        inside = [
            n
            for n, extent in enumerate(self.extents)
            if extent.first_step >= first_step and extent.last_step <= last_step
        ]
        if inside:
            for level, number in segments.cover(inside[0], inside[-1] + 1):
                sums.merge(self.read_segment(level, number))
        for n, extent in enumerate(self.extents):
            touches = extent.first_step <= last_step and extent.last_step >= first_step
            if touches and not (inside and inside[0] <= n <= inside[-1]):
                self._replay(sums, extent.start, extent.end, first_step, last_step)
        if self._open_events and self._first_open_step <= last_step and self.last_step >= first_step:
            end = self._index.position if self.end is None else self.end
            self._replay(sums, self.open_from, end, first_step, last_step)
        return sums

    def _replay(self, sums: Cells, start: int, end: int, first_step: int, last_step: int) -> None:
        for events, profiles, _ in self._index.events_between(start, end):
            a, b = np.searchsorted(events.step, [first_step, last_step + 1])
            if a < b:
                part = Events(events.columns[a:b], events.refs[a:b], events.codes[a:b])
                sums.fold(part, ProfileTable(profiles.rows[a:b], profiles.levels))


def _joined(waiting: list[tuple[Events, ProfileTable]]) -> tuple[Events, ProfileTable]:
    """Batches of one run as one batch."""
    starts = np.cumsum([0, *(len(profiles.levels) for _, profiles in waiting[:-1])])
    rows = [profiles.rows + start for (_, profiles), start in zip(waiting, starts, strict=True)]
    return (
        Events(
            np.concatenate([events.columns for events, _ in waiting]),
            np.concatenate([events.refs for events, _ in waiting]),
            np.concatenate([events.codes for events, _ in waiting]),
        ),
        ProfileTable(np.concatenate(rows), np.concatenate([profiles.levels for _, profiles in waiting])),
    )
