"""The loop: draw a batch, let each gradient reach what it may, step, and say what happened.

    Batch → StepResult → Event*

Of a slot that may reach nothing no token is shown to the model: what stands there cannot change anything for anybody,
to the bit. Dropout is drawn anew for each microbatch from the seed and the step, so that a step taken again is the
same step.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from licet.ledger.errors import LicetError
from licet.ledger.norms import LEVELS
from licet.ledger.records import MemorizationFlagged, Record, Ref, Stage
from licet.train.data.lessons import Lessons
from licet.train.data.tokens import Sample, TokenStore
from licet.train.gate import Gate
from licet.train.objectives import Objective
from licet.train.optimizer import GuardedOptimizer
from licet.train.rights import batch_rights
from licet.train.run.optimizers import set_rate
from licet.train.run.ranks import Ranks
from licet.train.run.recorder import Recorder, Taught
from licet.train.run.schedule import Schedule
from licet.train.run.teaching import Assignment, Teaching
from licet.train.watch.memorization import alignments
from licet.train.watch.watching import Answered, SecondLook, Watching


class TrainingStopped(LicetError):
    """The run cannot go on as it is. What was recorded and sealed stands."""

    exit_code = 1


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step did, for whoever watches."""

    step: int
    loss: float
    """The mean over the slots that were shown; NaN if none was."""
    learning_rate: float
    tokens: int
    shown: int
    withheld: int
    flagged: int
    exposure: tuple[float, ...]
    """Of each block, Σ |weight| · norm."""
    seconds: float
    replayed: bool


@dataclass(frozen=True, slots=True)
class _Microbatch:
    """The slots of one forward and backward pass, of all ranks."""

    lessons: NDArray[np.int64]
    epochs: NDArray[np.int64]
    assigned: tuple[Assignment, ...]
    losses: NDArray[np.float64]
    norms: NDArray[np.float64]
    tokens: int

    @property
    def levels(self) -> NDArray[np.int64]:
        return np.array([one.levels for one in self.assigned], np.int64)


@dataclass(frozen=True, slots=True)
class Loop:
    """Everything that a step needs. It keeps nothing itself: the state is the model's, the optimizer's, the watch's."""

    model: nn.Module
    gate: Gate
    optimizer: GuardedOptimizer
    objective: Objective
    store: TokenStore
    lessons: Lessons
    schedule: Schedule
    teaching: Teaching
    watching: Watching
    recorder: Recorder | None
    """None on the ranks that do not lead."""
    stage: Stage
    learning_rate: float
    width: int
    """Tokens in a row."""
    seed: int
    ranks: Ranks
    autocast: torch.dtype | None = None
    """What layers compute in, where it is not float32."""

    def step(self, number: int) -> StepResult:
        """Take one step."""
        started = time.perf_counter()
        draw = self.schedule.draw(number)
        rate = self.learning_rate * self.schedule.learning_rate(number)
        set_rate(self.optimizer, rate)
        self.optimizer.zero_grad()
        parts = [
            self._microbatch(number, m, samples, epochs)
            for m, (samples, epochs) in enumerate(zip(draw.samples, draw.epochs, strict=True))
        ]
        loss = self._loss(number, parts)
        levels = np.concatenate([part.levels for part in parts])
        lessons = np.concatenate([part.lessons for part in parts])
        authorities = batch_rights(
            self.gate.block_names, levels.tolist(), [self.lessons[lesson].rights for lesson in lessons.tolist()]
        )
        report = self.optimizer.step(authorities=authorities)
        norms = np.where(levels == 0, np.nan, np.concatenate([part.norms for part in parts]))
        samples = draw.samples.reshape(-1)
        second = self._second_look(number, samples) if self.ranks.world == 1 else None
        flags = self.watching.look(number, lessons, levels, norms, second)
        if self.recorder is not None:
            self._record(self.recorder, Taught(
                number, lessons, self._profiles(self.recorder, parts), np.concatenate([p.epochs for p in parts]),
                *_places(parts), np.where(levels == 0, 0.0, norms), rate, loss, report,
            ), flags)  # fmt: skip
        shown = int((levels != 0).any(1).sum())
        return StepResult(
            number,
            loss,
            rate,
            sum(part.tokens for part in parts),
            shown,
            len(lessons) - shown,
            len(flags),
            tuple((np.abs(levels) / LEVELS * np.nan_to_num(norms, posinf=0.0)).sum(0).tolist()),
            time.perf_counter() - started,
            self.recorder is not None and self.recorder.replays(number),
        )

    # -- one forward and backward pass

    def _microbatch(self, step: int, number: int, samples: NDArray[np.int64], epochs: NDArray[np.int64]) -> _Microbatch:
        lessons = self.lessons.of_sample[samples]
        assigned = tuple(
            self.teaching.assigned(lesson, step, sample)
            for lesson, sample in zip(lessons.tolist(), samples.tolist(), strict=True)
        )
        weights = torch.tensor([one.levels for one in assigned], dtype=torch.float32) / LEVELS
        # Divided by all slots, shown or not: no slot's share depends on what stands in another.
        weights *= self.ranks.world / self.schedule.batch
        mine = self.ranks.share(len(samples))
        shown = [
            self.store.sample(sample) if any(one.levels) else None
            for sample, one in zip(samples[mine].tolist(), assigned[mine], strict=True)
        ]
        losses, norms = self._pass(weights[mine], (weights != 0).any(0), shown, self._key(step, number))
        return _Microbatch(
            lessons,
            epochs,
            assigned,
            self.ranks.together(losses).double().numpy(),
            self.ranks.together(norms).double().numpy(),
            sum(len(sequence.ids) for sample in shown if sample is not None for sequence in sample),
        )

    def _pass(
        self, weights: Tensor, admitted: Tensor, shown: Sequence[Sample | None], key: int
    ) -> tuple[Tensor, Tensor]:
        inputs = self.objective.inputs(shown, self.width).to(self.ranks.device)
        torch.manual_seed(key)
        with self.gate(weights, example_ids=inputs.example_ids_R, admitted=admitted):
            with torch.autocast(self.ranks.device.type, self.autocast, enabled=self.autocast is not None):
                losses = self.objective.losses(self.model, inputs)
            losses.sum().backward()
        assert self.gate.norms is not None
        return losses.detach().float().cpu(), self.gate.norms

    def _second_look(self, step: int, samples: NDArray[np.int64]) -> SecondLook:
        """How far a slot's gradient points where the optimizer is going, in each block."""

        def look(slot: int) -> NDArray[np.float64]:
            inputs = self.objective.inputs([self.store.sample(int(samples[slot]))], self.width).to(self.ranks.device)
            torch.manual_seed(self._key(step, slot))
            with torch.autocast(self.ranks.device.type, self.autocast, enabled=self.autocast is not None):
                return alignments(
                    self.model, lambda: self.objective.losses(self.model, inputs).sum(), self.gate, self.optimizer
                )

        return look

    def _key(self, step: int, microbatch: int) -> int:
        """What random numbers a pass draws: those of its place, and of no other."""
        place = f"licet/dropout/v1 {self.seed} {step} {microbatch} {self.ranks.rank}"
        return int.from_bytes(hashlib.sha256(place.encode()).digest()[:7])

    # -- what came of it

    def _loss(self, step: int, parts: Sequence[_Microbatch]) -> float:
        """The mean loss; a loss that is no number ends the run before it reaches the model."""
        shown = []
        for part in parts:
            reached = (part.levels != 0).any(1)
            for lesson in part.lessons[reached & ~np.isfinite(part.losses)].tolist():
                raise TrainingStopped(
                    f"At step {step} the loss on {self.lessons[lesson].name} is not a finite number.",
                    remedy="Nothing of this step was applied. Lower the learning rate or look at that row; "
                    "`licet train` goes on from the last seal, or give the run a new name to begin anew.",
                )
            shown.append(part.losses[reached])
        values = np.concatenate(shown)
        return float(values.mean()) if len(values) else math.nan

    def _profiles(self, recorder: Recorder, parts: Sequence[_Microbatch]) -> NDArray[np.int64]:
        """The entries of the profiles under which the slots were taught."""
        found = []
        for part in parts:
            for lesson, one in zip(part.lessons.tolist(), part.assigned, strict=True):
                given = self.lessons[lesson]
                same = one.levels == given.levels and one.rules == given.rules
                found.append(given.profile if same else recorder.profile(one.levels, one.rules))
        return np.array(found, np.int64)

    def _record(self, recorder: Recorder, taught: Taught, answered: Sequence[Answered]) -> None:
        also: list[Record] = [
            MemorizationFlagged(
                Ref(self.lessons[one.lesson].example),
                taught.step,
                one.blocks,
                one.score,
                one.threshold,
                one.response,
            )
            for one in answered
        ]
        recorder.step(taught, also)


def _places(parts: Sequence[_Microbatch]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of each slot, its microbatch and its number within it."""
    counts = [len(part.lessons) for part in parts]
    return np.repeat(np.arange(len(parts)), counts), np.concatenate([np.arange(count) for count in counts])
