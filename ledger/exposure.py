"""The exposure index: how much gradient of which source reached which block, and where each example's events stand.

It is a pure function of the entries, kept in step with them, and exact: sums are integers, so a replay gives the same
bits. What it says is *recorded exposure*; it never says that a source caused a behaviour.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from licet.ledger import events as event_columns
from licet.ledger import norms, segments
from licet.ledger.ancestry import Ancestry, ancestry_of_run
from licet.ledger.cells import Cells, total
from licet.ledger.chunks import Chunk
from licet.ledger.errors import FormatError, NotFoundError
from licet.ledger.events import Events, Ints, ProfileTable
from licet.ledger.records import AttestationMentioned, CheckpointSealed, ExampleAdmitted, ProfileDeclared, RunStarted
from licet.ledger.run_exposure import RunExposure
from licet.ledger.store import Table
from licet.ledger.view import View

_NEVER = 1 << 62


@dataclass(frozen=True, slots=True)
class BlockExposure:
    """What was recorded in one block: Σ |weight| · norm, exactly (`total`) and as a number, and in which steps."""

    block: str
    total: int
    events: int
    first_step: int | None
    last_step: int | None
    past_unknown: bool = False
    """Whether this is of the recorded part only: the block came from elsewhere (`ancestry.py`)."""

    @property
    def magnitude(self) -> float:
        return norms.magnitude(self.total)


@dataclass(frozen=True, slots=True)
class SourceShare:
    """One line of the ranking of who shaped some blocks."""

    source: str
    total: int
    share: float
    past_unknown: bool = False
    """Whether the share is one of the recorded part only: some of the blocks came from elsewhere."""

    @property
    def magnitude(self) -> float:
        return norms.magnitude(self.total)


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
        self._ancestries: dict[int, Ancestry] = {}
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

    def ancestry(self, run: int | None = None) -> Ancestry:
        """What a run (the latest if none is named) grew from. All of it stands before the run, so it never changes."""
        if run is None:
            run = self.current.run if self.current is not None else self.lineage()[0].run
        if run not in self._ancestries:
            self._ancestries[run] = ancestry_of_run(self.view, run)
        return self._ancestries[run]

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
        exposures = self._with_past(_combined(layers), run)
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
        return self._with_past(_combined(layers), run)

    def _with_past(self, rows: list[BlockExposure], run: int | None) -> list[BlockExposure]:
        """The rows, those marked whose past is unknown. A block of the base that no run has named has no row."""
        unknown = self.ancestry(run).unknown_blocks
        return [replace(row, past_unknown=True) if row.block in unknown else row for row in rows]

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
        past = self.ancestry(run)
        known = {block for part, _ in layers for block in part.blocks} | past.unknown_blocks
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
        ranking = _ranked(self._sources, hi, lo, top)
        if past.unknown_blocks.isdisjoint(wanted):
            return ranking
        return [replace(row, past_unknown=True) for row in ranking]

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
