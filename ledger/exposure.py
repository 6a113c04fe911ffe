"""The exposure index: how much gradient of which source reached which block, and where each example's events stand.

It is a pure function of the entries, kept in step with them, and exact: sums are integers, so a replay gives the same
bits. What it says is *recorded exposure*; it never says that a source caused a behaviour.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from licet.ledger import events as event_columns
from licet.ledger import norms, segments
from licet.ledger.cells import Cells, merged, total
from licet.ledger.chunks import Chunk
from licet.ledger.errors import CorruptError, FormatError, NotFoundError
from licet.ledger.events import Events, Ints, ProfileTable
from licet.ledger.records import AttestationMentioned, CheckpointSealed, ExampleAdmitted, ProfileDeclared, RunStarted
from licet.ledger.segments import Extent, Segment
from licet.ledger.store import Table
from licet.ledger.view import View

SEGMENT_EVENTS_MIN = 1 << 14
SEGMENT_EVENTS_MAX = 1 << 20
_NEVER = 1 << 62
_FOLD_EVENTS = 1 << 14
"""Events are summed in batches of this size, sorted by attestation so that each one's row is touched once."""


class Sink(Protocol):
    """Where the index is written to: a batch of the database, or somebody who compares."""

    def put(self, table: Table, key: bytes, value: bytes) -> None: ...


@dataclass(frozen=True, slots=True)
class BlockExposure:
    """What was recorded in one block: Σ |weight| · norm, exactly (`total`) and as a number, and in which steps."""

    block: str
    total: int
    events: int
    first_step: int | None
    last_step: int | None

    @property
    def magnitude(self) -> float:
        return norms.magnitude(self.total)


@dataclass(frozen=True, slots=True)
class SourceShare:
    """One line of the ranking of who shaped some blocks."""

    source: str
    total: int
    share: float

    @property
    def magnitude(self) -> float:
        return norms.magnitude(self.total)


class RunExposure:
    """The exposure of one training run: closed segments, and the open one at its end."""

    def __init__(self, index: Exposure, run: int, started: RunStarted) -> None:
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


class Exposure:
    """The index of one log: its runs, and the questions that can be asked of them."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.position = 0
        """Entries before this one are in the index."""
        self.current: RunExposure | None = None
        self._runs: dict[int, RunExposure] = {}
        self._levels: dict[int, NDArray[np.int16]] = {}
        self._attestations: dict[int, str] = {}
        self._known = np.empty(0, np.int64)
        self._groups: dict[str, int] = {}
        self._sources: list[str] = []

    # -- keeping in step with the log

    def load(self) -> None:
        """Open the index of the view's log as it stands."""
        started = [index for index, _ in self.view.all_of(RunStarted)]
        if started:
            self.current = self.run(max(started))
            self.position = self.current.open_from
        else:
            self.position = self.view.size
        self.catch_up()

    def catch_up(self) -> None:
        """Add the entries that were committed since."""
        start, self.position = self.position, self.view.size
        for chunk in self.view.chunks(start, self.view.size):
            self._add_chunk(chunk)

    def _add_chunk(self, chunk: Chunk) -> None:
        kinds = np.frombuffer(chunk.data, np.uint8)[chunk.offsets[:-1]]
        starts = [chunk.first + int(i) for i in np.flatnonzero(kinds == RunStarted.KIND)]
        for run in starts:
            self._add_events(chunk.cut(chunk.first, run))
            chunk = chunk.cut(run, chunk.end)
            self._pass_to(run)
        self._add_events(chunk)

    def _pass_to(self, run: int) -> None:
        """Go on with the run that starts at this entry.

        One that is met here is added up from its entries: the segments that its writer has closed meanwhile would
        count them twice.
        """
        if run not in self._runs:
            started = self.view.record(run)
            if not isinstance(started, RunStarted):
                raise FormatError(f"Entry {run} starts a run in a form of another release.", remedy="Use a newer one.")
            self.start_run(run, started)
            if self.current is not None:
                self.current.end = run
        self.current = self._runs[run]

    def _add_events(self, chunk: Chunk) -> None:
        if len(chunk.offsets) > 1 and self.current is not None:
            which = event_columns.find(chunk)
            if len(which):
                events, profiles = event_columns.decode(chunk, which, self.levels)
                self.current.add(events, profiles, chunk.first + which)

    def run(self, run: int) -> RunExposure:
        if run not in self._runs:
            started = self.view.record(run)
            if not isinstance(started, RunStarted):
                raise NotFoundError(f"Entry {run} does not start a run.")
            self.start_run(run, started).load()
        return self._runs[run]

    def start_run(self, run: int, started: RunStarted) -> RunExposure:
        self._runs[run] = RunExposure(self, run, started)
        return self._runs[run]

    def levels(self, profile: int) -> NDArray[np.int16]:
        """The levels of a declared profile."""
        if profile not in self._levels:
            declared = self.view.record(profile)
            if not isinstance(declared, ProfileDeclared):
                raise FormatError(f"Entry {profile} does not declare a profile.")
            self.declare_profile(profile, declared)
        return self._levels[profile]

    def declare_profile(self, profile: int, declared: ProfileDeclared) -> None:
        self._levels[profile] = np.array(declared.levels, np.int16)

    def source_of(self, attestation: int) -> str:
        """The source of an interned attestation."""
        if attestation not in self._attestations:
            mentioned = self.view.record(attestation)
            if not isinstance(mentioned, AttestationMentioned):
                raise FormatError(f"Entry {attestation} does not mention an attestation.")
            self.mention_attestation(attestation, mentioned)
        return self._attestations[attestation]

    def check_attestations(self, refs: Ints) -> None:
        """Raise unless each of these entries mentions an attestation."""
        if len(self._known) != len(self._attestations):
            self._known = np.sort(np.fromiter(self._attestations, np.int64, len(self._attestations)))
        places = np.searchsorted(self._known, refs)
        places[places == len(self._known)] = 0
        if not len(self._known) or (self._known[places] != refs).any():
            for ref in set(refs.tolist()):
                self.source_of(ref)

    def mention_attestation(self, attestation: int, mentioned: AttestationMentioned) -> None:
        self._attestations[attestation] = mentioned.source

    def forget(self, first: int) -> None:
        """Unlearn profiles and attestations of entries that were not appended after all."""
        for known in (self._levels, self._attestations):
            for ref in [ref for ref in known if ref >= first]:
                del known[ref]
        self._known = np.empty(0, np.int64)

    def group_of(self, attestation: int) -> int:
        """The number of an attestation's source, by which rankings add up."""
        source = self.source_of(attestation)
        if source not in self._groups:
            self._groups[source] = len(self._sources)
            self._sources.append(source)
        return self._groups[source]

    # -- questions

    def lineage(self, run: int | None = None) -> list[RunExposure]:
        """A run (the latest if none is named) and those its parent seals grew from."""
        at = run if run is not None else (self.current.run if self.current else None)
        chain: list[RunExposure] = []
        while at is not None and all(known.run != at for known in chain):
            chain.append(self.run(at))
            parent = chain[-1].started.parent_seal
            seals = self.view.find(CheckpointSealed, parent) if parent is not None else []
            at = seals[0][1].run if seals else None
        if not chain:
            raise NotFoundError("This log holds no training run yet.", remedy="Train first, or name another log.")
        return chain

    def forward(
        self,
        *,
        source: str | None = None,
        attestation: bytes | None = None,
        run: int | None = None,
        steps: tuple[int, int] | None = None,
    ) -> list[BlockExposure]:
        """Which blocks a source or an attestation shaped, how much, and when."""
        refs = [] if attestation is None else [ref for ref, _ in self.view.find(AttestationMentioned, attestation)]
        layers = []
        for part, cells in self._layers(run, steps):
            rows = cells.rows_of(refs) if source is None else cells.rows_in(self._groups.get(source, -1))
            layers.append(_block_exposures(part.blocks, cells.cells[rows], cells.steps[rows]))
        exposures = _combined(layers)
        if not refs and not any(row.events for row in exposures) and not self._has_mentioned(source):
            name = source if source is not None else (attestation or b"").hex()
            raise NotFoundError(
                f"{name} has not contributed to this log.", remedy="`licet ledger reverse` lists who has."
            )
        return exposures

    def _has_mentioned(self, source: str | None) -> bool:
        return any(mentioned.source == source for _, mentioned in self.view.all_of(AttestationMentioned))

    def forward_example(self, example: bytes, *, run: int | None = None) -> list[BlockExposure]:
        """Which blocks one example shaped: the sum of its events."""
        layers = []
        for part in self.lineage(run):
            cells = Cells(len(part.blocks), self.group_of)
            for index in self._places_of(part, example):
                for events, profiles, _ in self.events_between(index, index + 1):
                    cells.fold(events, profiles)
            layers.append(_block_exposures(part.blocks, cells.cells, cells.steps))
        return _combined(layers)

    def reverse(
        self,
        blocks: Sequence[str],
        *,
        top: int | None = 20,
        run: int | None = None,
        steps: tuple[int, int] | None = None,
    ) -> list[SourceShare]:
        """Who shaped these blocks, ranked by recorded exposure, with each source's share."""
        wanted = set(blocks)
        layers = self._layers(run, steps)
        known = {block for part, _ in layers for block in part.blocks}
        if not wanted or not wanted <= known:
            unknown = ", ".join(sorted(wanted - known)) or "nothing"
            raise NotFoundError(
                f"There is no block {unknown} in this run.", remedy=f"Its blocks are: {', '.join(sorted(known))}."
            )
        hi, lo = np.zeros((2, len(self._sources)), np.int64)
        for part, cells in layers:
            selected = np.array([b for b, block in enumerate(part.blocks) if block in wanted], np.int64)
            cells.add_up(selected, hi, lo)
            hi += lo >> norms.LIMB_BITS
            lo &= norms.LIMB_MASK
        return _ranked(self._sources, hi, lo, top)

    def events_of(self, example: bytes, *, run: int | None = None) -> list[int]:
        """The entries that applied one example's gradient, in order."""
        return sorted(index for part in self.lineage(run) for index in self._places_of(part, example))

    def _places_of(self, part: RunExposure, example: bytes) -> Iterator[int]:
        admissions = self.view.find(ExampleAdmitted, example)
        if not admissions:
            raise NotFoundError(f"Example {example.hex()} was never put to the gate in this log.")
        for ref, _ in admissions:
            # Only of the segments counted as closed here: a writer may have closed more since.
            start, stop = (segments.posting_key(ref, part.run, number) for number in (0, len(part.extents)))
            for _, value in self.view.scan(Table.POSTINGS, start, stop):
                yield from segments.unpack_posting(value, ref).tolist()
            yield from part.open_events_of(ref)

    def events_between(self, start: int, end: int) -> Iterator[tuple[Events, ProfileTable, Ints]]:
        """The events among the entries [start, end), with the entries that they are."""
        for chunk in self.view.chunks(start, end):
            which = event_columns.find(chunk)
            if len(which):
                events, profiles = event_columns.decode(chunk, which, self.levels)
                yield events, profiles, chunk.first + which

    def _layers(self, run: int | None, steps: tuple[int, int] | None) -> list[tuple[RunExposure, Cells]]:
        """What has to be summed. A step range means the steps of the one run."""
        if steps is not None:
            part = self.lineage(run)[0]
            return [(part, part.between(*steps))]
        layers = []
        for part in self.lineage(run):
            part.settle()
            layers += [(part, part.closed), (part, part.open)]
        return layers


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


def _block_exposures(blocks: list[str], cells: Ints, steps: Ints) -> list[BlockExposure]:
    """The sums of some rows [rows, blocks, …], block by block."""
    sums = cells.sum(axis=0).tolist()
    firsts = np.where(cells[:, :, 2] > 0, steps[:, :, 0], _NEVER).min(axis=0, initial=_NEVER).tolist()
    lasts = steps[:, :, 1].max(axis=0, initial=-1).tolist()
    return [
        BlockExposure(block, total(hi, lo), count, first if count else None, last if count else None)
        for block, (hi, lo, count), first, last in zip(blocks, sums, firsts, lasts, strict=True)
    ]


def _combined(layers: Sequence[list[BlockExposure]]) -> list[BlockExposure]:
    """The sums of several layers, block by block."""
    sums: dict[str, BlockExposure] = {}
    for row in (row for layer in layers for row in layer):
        before = sums.get(row.block)
        if before is None or not before.events:
            sums[row.block] = row
        elif row.events and row.first_step is not None and before.first_step is not None:
            sums[row.block] = BlockExposure(
                row.block,
                before.total + row.total,
                before.events + row.events,
                min(before.first_step, row.first_step),
                max(before.last_step or 0, row.last_step or 0),
            )
    return list(sums.values())


def _ranked(sources: list[str], hi: Ints, lo: Ints, top: int | None) -> list[SourceShare]:
    whole = total(hi.sum(), lo.sum())
    size = hi * 2.0**norms.LIMB_BITS + lo
    bar = 0.0
    if top is not None and 0 < top < len(size):
        # Floats only preselect; the margin keeps whatever they could confuse with the last place.
        bar = float(np.partition(size, -top)[-top]) * (1 - 2**-50)
    candidates = np.flatnonzero((size >= bar) if bar > 0 else (size > 0))
    rows = [(total(hi[g], lo[g]), sources[g]) for g in candidates.tolist()]
    rows.sort(key=lambda row: (-row[0], row[1]))
    return [SourceShare(source, amount, amount / whole) for amount, source in rows[:top]]
