"""What a revocation would touch: examples, blocks, sealed models, and verdicts of the last hours.

It tells what the logs tell. Of blocks and models that came from elsewhere it says that their past is unknown: whether
the same content is in them for that reason nobody recorded.

Each part has its share of a budget of time. Where that runs out, a part says how far it came; what lies beyond is
unknown, not nothing. The clock is the caller's, and is looked at between pieces of the logs: nothing waits, and
nothing fails because of time.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from licet.ledger.ancestry import ancestry_of_seal, unknown_blocks
from licet.ledger.errors import ConfigError
from licet.ledger.reader import LogReader
from licet.ledger.records import (
    AttestationMentioned,
    CheckpointSealed,
    Determination,
    Digest,
    ExampleAdmitted,
    Opaque,
    Record,
    RunStarted,
    VerdictGiven,
)
from licet.ledger.view import View
from licet.policies.aftermath import Change, Turn, turn_of
from licet.policies.lineage import records_of, stretches_of
from licet.policies.rights import LicenceState
from licet.policies.rulebook import Rulebook

EXAMPLES_MAX = 1_000_000
"""Examples that are told apart; with more, the count is incomplete."""
NAMED_MAX = 100
"""Examples and completions that are named; the others are only counted."""
HOURS_MAX = 24 * 366
_WINDOW = 256
_HOUR_MS = 3_600_000
Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Examples:
    """Examples taught under the attestation. Entries from `read_to` on are unknown unless it is complete."""

    count: int
    first: tuple[Digest, ...]
    complete: bool
    read_to: int


@dataclass(frozen=True, slots=True)
class BlockShare:
    """The attestation's part of the recorded exposure of one block."""

    block: str
    total: int
    share: float


@dataclass(frozen=True, slots=True)
class Blocks:
    """The blocks that it shaped, of the latest run and those it continues. Blocks that are missing are unknown."""

    shares: tuple[BlockShare, ...]
    complete: bool
    untold: tuple[str, ...]
    """The blocks of that run that came from elsewhere, sorted: their shares are of the recorded part only."""


@dataclass(frozen=True, slots=True)
class SealedModel:
    """A sealed model that contains what was taught under the attestation."""

    seal: Digest
    model: str
    label: str
    entry: int
    past_unknown: bool
    """Whether it grew from what no log tells of."""


@dataclass(frozen=True, slots=True)
class Models:
    """Seals in the order of the log. Those from entry `read_to` on are unknown unless it is complete."""

    found: tuple[SealedModel, ...]
    untold: tuple[SealedModel, ...]
    """Seals in which nothing of it is recorded, and whose past is unknown: they may contain it all the same."""
    complete: bool
    read_to: int


@dataclass(frozen=True, slots=True)
class Verdicts:
    """Verdicts that would turn to `suppress`, newest first. Entries before `read_from` are unknown unless complete."""

    replayed: int
    certain: int
    possible: int
    completions: tuple[str, ...]
    complete: bool
    read_from: int


@dataclass(frozen=True, slots=True)
class Impact:
    """The whole answer. `verdicts` is None where no runtime log was given."""

    attestation: Digest
    before: LicenceState
    after: LicenceState
    blocks: Blocks
    models: Models
    examples: Examples
    verdicts: Verdicts | None

    @property
    def complete(self) -> bool:
        parts = (self.blocks, self.models, self.examples, self.verdicts)
        return all(part is None or part.complete for part in parts)

    @property
    def past_known(self) -> bool:
        """Whether the logs tell of all that shaped these blocks and models."""
        models = (*self.models.found, *self.models.untold)
        return not self.blocks.untold and not any(model.past_unknown for model in models)


def impact(
    training: LogReader,
    runtime: View | None,
    attestation: Digest,
    before: LicenceState,
    after: LicenceState,
    rules: Rulebook,
    *,
    clock: Clock,
    budget_s: float,
    now_ms: int,
    hours: float = 24,
) -> Impact:
    """What it would touch if a licence went from one state to another now.

    The clock counts seconds from anywhere. An exposure index that was never asked for before is built first, and that
    takes its time: ask it for something while the server starts.
    """
    if not 0 <= hours <= HOURS_MAX:
        raise ConfigError("That is no number of hours to look back.", remedy=f"Give one from 0 to {HOURS_MAX}.")
    started = clock()

    def watch(part: float) -> Callable[[], bool]:
        """Whether there is time left; with a clock that says nonsense there is none."""
        return lambda: clock() - started < budget_s * part

    refs = [ref for ref, _ in training.find(AttestationMentioned, attestation)]
    blocks = _blocks(training, attestation, has_taught=bool(refs), has_time=watch(0.25))
    admissions = _Admissions(training, frozenset(refs))
    examples = admissions.read(watch(0.5))
    models = _models(training, admissions, watch(0.75))
    verdicts = None
    if runtime is not None:
        change = Change(attestation, before, after, tuple(row.share for row in blocks.shares))
        since_ms = now_ms - math.ceil(hours * _HOUR_MS)
        verdicts = _verdicts(runtime, change, rules, since_ms, watch(1.0))
    return Impact(attestation, before, after, blocks, models, examples, verdicts)


def _blocks(training: LogReader, attestation: Digest, *, has_taught: bool, has_time: Callable[[], bool]) -> Blocks:
    latest = max((run for run, _ in training.all_of(RunStarted)), default=None)
    if latest is None:
        return Blocks((), complete=True, untold=())
    untold = tuple(sorted(unknown_blocks(training, latest)))
    if not has_taught:
        return Blocks((), complete=True, untold=untold)
    if not has_time():
        return Blocks((), complete=False, untold=untold)
    shares: list[BlockShare] = []
    for row in training.exposure.forward(attestation=attestation):
        if not has_time():
            return Blocks(tuple(shares), complete=False, untold=untold)
        whole = sum(source.total for source in training.exposure.reverse([row.block], top=None))
        shares.append(BlockShare(row.block, row.total, row.total / whole if whole else 0.0))
    return Blocks(tuple(shares), complete=True, untold=untold)


class _Admissions:
    """The admissions under an attestation: which entries they are."""

    def __init__(self, log: View, refs: frozenset[int]) -> None:
        self._log = log
        self._refs = refs
        self.entries: list[int] = []
        self.read_to = log.size
        self.complete = True

    def read(self, has_time: Callable[[], bool]) -> Examples:
        """Go through the log from where the attestation is first mentioned."""
        examples: dict[Digest, None] = {}
        start = min(self._refs, default=self._log.size)
        for index, record in self._records(start, has_time):
            if not isinstance(record, ExampleAdmitted) or record.attestation not in self._refs:
                continue
            if record.determination is not Determination.REJECTED:
                if len(self.entries) >= EXAMPLES_MAX:
                    self.complete, self.read_to = False, index
                    break
                self.entries.append(index)
                examples[record.example] = None
        return Examples(len(examples), tuple(examples)[:NAMED_MAX], self.complete, self.read_to)

    def has_between(self, start: int, stop: int) -> bool:
        return bisect_left(self.entries, start) < bisect_left(self.entries, stop)

    def _records(self, start: int, has_time: Callable[[], bool]) -> Iterator[tuple[int, Record | Opaque]]:
        size = self._log.size
        for first in range(start, size, _WINDOW):
            if not has_time():
                self.complete, self.read_to = False, first
                return
            yield from records_of(self._log, first, min(first + _WINDOW, size), ExampleAdmitted.KIND)


def _models(training: View, admissions: _Admissions, has_time: Callable[[], bool]) -> Models:
    """Seals that an admission lies before, in a run that they grew from; and those of which that cannot be told."""
    found: list[SealedModel] = []
    untold: list[SealedModel] = []
    for index, seal in training.all_of(CheckpointSealed):
        if not has_time():
            return Models(tuple(found), tuple(untold), complete=False, read_to=min(index, admissions.read_to))
        past_unknown = not ancestry_of_seal(training, seal.seal).is_known
        model = SealedModel(seal.seal, seal.model, seal.label, index, past_unknown)
        if any(admissions.has_between(run.start, run.end) for run in stretches_of(training, index, seal)):
            found.append(model)
        elif past_unknown:
            untold.append(model)
    return Models(tuple(found), tuple(untold), admissions.complete, admissions.read_to)


def _verdicts(runtime: View, change: Change, rules: Rulebook, since_ms: int, has_time: Callable[[], bool]) -> Verdicts:
    """Go back through the runtime log, a window at a time, until a whole window is older than was asked for."""
    counts = dict.fromkeys(Turn, 0)
    completions: list[str] = []
    stop = runtime.size
    while stop > 0 and has_time():
        start = max(stop - _WINDOW, 0)
        given = [record for _, record in records_of(runtime, start, stop, VerdictGiven.KIND)]
        recent = [one for one in given if isinstance(one, VerdictGiven) and one.claimed_ms >= since_ms]
        for one in reversed(recent):
            turn = turn_of(one, change, rules)
            counts[turn] += 1
            if turn is not Turn.NO and len(completions) < NAMED_MAX:
                completions.append(one.completion)
        stop = 0 if given and not recent else start
    return Verdicts(
        sum(counts.values()),
        counts[Turn.CERTAIN],
        counts[Turn.POSSIBLE],
        tuple(completions),
        complete=stop == 0,
        read_from=stop,
    )
