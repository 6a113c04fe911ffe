"""What a run writes into the training log: each step as its events and one `StepTaken`, together or not at all.

A run that goes on from a seal takes some steps again whose events are in the log already. They are compared with what
the log says and not written twice: the same examples in the same slots under the same profiles, with the same norms.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from licet.ledger import norms
from licet.ledger.background import BackgroundWriter, Item
from licet.ledger.errors import VerificationError
from licet.ledger.events import Events
from licet.ledger.log import Ledger, now_ms
from licet.ledger.records import ProfileDeclared, Record, Ref, Signed, StepTaken
from licet.ledger.view import View
from licet.train.data.lessons import Lessons
from licet.train.step_report import StepReport

NORM_DRIFT_MAX = 0.02
"""How far a norm may lie from the recorded one when a step is taken again: other machines round otherwise."""
UNATTESTED = "unattested"
"""The source that stands in an observed run for rows without an attestation that holds."""

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Taught:
    """What one step did: one row for each filled slot, in the order of microbatches and slots."""

    step: int
    lessons: Ints
    profiles: Ints
    epochs: Ints
    microbatches: Ints
    slots: Ints
    norms: NDArray[np.float64]
    """Raw [rows, blocks]; what was not computed is NaN."""
    learning_rate: float
    loss: float
    report: StepReport

    def __len__(self) -> int:
        return len(self.lessons)


class Recorder:
    """The one who writes a run. `recorded` are the events that the log already has of steps to come."""

    def __init__(
        self, ledger: Ledger, run: int, lessons: Lessons, *, from_step: int = 0, checkpoint_s: float | None = None
    ) -> None:
        self.ledger = ledger
        self.run = run
        self._lessons = lessons
        self._examples = np.array([lesson.example for lesson in lessons.all], np.int64)
        self._attestations = np.array([lesson.attestation for lesson in lessons.all], np.int64)
        self._profiles = {
            (tuple(declared.levels), declared.rules): index
            for index, declared in ledger.all_of(ProfileDeclared)
            if declared.run == run
        }
        self._recorded = events_of_steps(ledger, run, from_step)
        self.recorded_until = max((step for _, step in _steps_taken(ledger, run)), default=from_step - 1) + 1
        self._waiting: list[Future[int]] = []
        self._writer = BackgroundWriter(ledger, checkpoint_s=checkpoint_s)

    def replays(self, step: int) -> bool:
        """Whether the log already has this step."""
        return step < self.recorded_until

    def profile(self, levels: tuple[int, ...], rules: tuple[str, ...]) -> int:
        """The entry of a profile, declared when it is first used."""
        known = self._profiles.get((levels, rules))
        if known is None:
            declared = ProfileDeclared(Ref(self.run), tuple(Signed(level) for level in levels), rules)
            known = self._writer.submit([declared]).result()
            self._profiles[levels, rules] = known
        return known

    def step(self, taught: Taught, also: Sequence[Record] = ()) -> None:
        """Record a step, and what was found in it."""
        events = self._events(taught)
        if self.replays(taught.step):
            self._compare(taught.step, events)
            return
        report = taught.report
        taken = StepTaken(
            Ref(self.run),
            taught.step,
            taught.learning_rate,
            taught.loss if np.isfinite(taught.loss) else None,
            len(taught),
            report.delta_norms,
            now_ms(),
        )
        items: list[Item] = [events, taken, *also] if events is not None else [taken, *also]
        self._submit(items)

    def add(self, record: Record) -> int:
        """Write one record, and wait until it is durable."""
        return self._writer.submit([record]).result()

    def flush(self) -> None:
        """Wait until all that was recorded is durable; raises what went wrong with any of it."""
        self._writer.flush()
        self._settle(len(self._waiting))

    def close(self) -> None:
        self._writer.close()

    def _submit(self, items: Sequence[Item]) -> None:
        self._waiting.append(self._writer.submit(items))
        self._settle(len(self._waiting) - 64)

    def _settle(self, count: int) -> None:
        for result in self._waiting[: max(count, 0)]:
            result.result()
        del self._waiting[: max(count, 0)]

    def _events(self, taught: Taught) -> Events | None:
        if not len(taught):
            return None
        return Events.of(
            example=self._examples[taught.lessons],
            attestation=self._attestations[taught.lessons],
            profile=taught.profiles,
            step=taught.step,
            slot=taught.slots,
            norms_raw=taught.norms,
            epoch=taught.epochs,
            microbatch=taught.microbatches,
        )

    def _compare(self, step: int, events: Events | None) -> None:
        """Raise unless a step that was taken again did what the log says it did."""
        recorded = self._recorded.pop(step, None)
        if recorded is None and events is None:
            return
        if recorded is None or events is None or not _same(recorded, events):
            raise VerificationError(
                f"Step {step} was recorded already, and did not come out the same again.",
                remedy="The data or the software changed since. Start a new run from the last seal: set [model] base "
                "to its folder, and give the run another name.",
            )


def _same(recorded: Events, again: Events) -> bool:
    """Whether two records of a step agree: names to the letter, norms as near as arithmetic allows."""
    if len(recorded) != len(again):
        return False
    if not (np.array_equal(recorded.columns, again.columns) and np.array_equal(recorded.refs, again.refs)):
        return False
    different = recorded.codes != again.codes
    pairs = zip(recorded.codes[different].tolist(), again.codes[different].tolist(), strict=True)
    return all(_near(norms.decode(a), norms.decode(b)) for a, b in pairs)


def _near(a: float, b: float) -> bool:
    return abs(a - b) <= NORM_DRIFT_MAX * max(a, b)


def _steps_taken(log: View, run: int) -> Iterator[tuple[int, int]]:
    return ((index, taken.step) for index, taken in log.all_of(StepTaken) if taken.run == run)


def events_of_steps(log: Ledger, run: int, from_step: int) -> dict[int, Events]:
    """The events that a run recorded from a step on, by step."""
    start = max((index for index, step in _steps_taken(log, run) if step < from_step), default=run)
    found: dict[int, Events] = {}
    for events, _, _ in log.exposure.events_between(start, log.size):
        for step in np.unique(events.step).tolist():
            if step < from_step:
                continue
            which = events.step == step
            part = Events(events.columns[which], events.refs[which], events.codes[which])
            before = found.get(step)
            found[step] = part if before is None else _joined(before, part)
    return found


def _joined(one: Events, other: Events) -> Events:
    return Events(
        np.concatenate([one.columns, other.columns]),
        np.concatenate([one.refs, other.refs]),
        np.concatenate([one.codes, other.codes]),
    )
