"""The open step of a loop of one's own: what each pass did, held against the gate that it went through.

A pass that was forgotten, or that went through the gate with other weights than its batch's, is refused: the record of
the step would not be what happened.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from licet.ledger.errors import ConfigError
from licet.train.data.lessons import Lessons
from licet.train.gate import Gate
from licet.train.objectives import Inputs
from licet.train.rights import batch_rights
from licet.train.run.loop import TrainingStopped
from licet.train.run.teaching import Assignment

WEIGHT_TOLERANCE = 1e-4


class OwnLoopError(ConfigError):
    """A call that a loop makes out of turn, or with something else than it was given."""


@dataclass(frozen=True, slots=True)
class Batch:
    """The samples of one forward and backward pass, a slot for each."""

    samples: NDArray[np.int64]
    lessons: NDArray[np.int64]
    inputs: Inputs
    """What the model is given. Of a slot that may reach nothing it holds no token."""
    weights: Tensor
    """For the gate: float32 [slots, blocks], divided by the slots of the step."""
    assigned: tuple[Assignment, ...]

    @property
    def levels(self) -> NDArray[np.int64]:
        return np.array([one.levels for one in self.assigned], np.int64)

    def __len__(self) -> int:
        return len(self.samples)


class CountedGate(Gate):
    """A gate that knows how many passes went through it."""

    passes = 0

    @contextmanager
    def __call__(
        self, weights: Tensor, *, example_ids: Tensor | None = None, admitted: Tensor | None = None
    ) -> Iterator[Gate]:
        with super().__call__(weights, example_ids=example_ids, admitted=admitted) as gate:
            yield gate
        self.passes += 1


@dataclass(frozen=True, slots=True)
class Filled:
    """The slots of a step, in the order of passes."""

    samples: NDArray[np.int64]
    lessons: NDArray[np.int64]
    assigned: tuple[Assignment, ...]
    passes: NDArray[np.int64]
    slots: NDArray[np.int64]
    """The number of each within its pass."""
    losses: NDArray[np.float64]
    norms: NDArray[np.float64]
    """Raw, [slots, blocks]; NaN where the level is zero."""

    @property
    def levels(self) -> NDArray[np.int64]:
        return np.array([one.levels for one in self.assigned], np.int64)

    @property
    def loss(self) -> float:
        """The mean over the slots that were shown; NaN if none was."""
        shown = self.losses[(self.levels != 0).any(1)]
        return float(shown.mean()) if len(shown) else float("nan")


@dataclass(frozen=True, slots=True)
class _Pass:
    """What a pass over a batch came to."""

    batch: Batch
    losses: NDArray[np.float64]
    norms: NDArray[np.float64]


class OpenStep:
    """What was noted since the last step."""

    def __init__(self, gate: CountedGate, lessons: Lessons) -> None:
        self._gate = gate
        self._lessons = lessons
        self._passes: list[_Pass] = []

    @property
    def is_empty(self) -> bool:
        return not self._passes and not self._gate.passes

    def note(self, batch: Batch, losses: Tensor) -> None:
        """Take down what the gate's last pass did."""
        norms, realised = self._gate.norms, self._gate.realised
        if norms is None or realised is None or len(self._passes) >= self._gate.passes:
            raise OwnLoopError(
                "There is no pass to note.", remedy="Note each once, after its `with run.gate(batch.weights):`."
            )
        expected = torch.where(batch.weights == 0, 0, batch.weights.abs() * norms)
        if norms.shape != expected.shape or not torch.allclose(
            realised, expected, rtol=WEIGHT_TOLERANCE, atol=0, equal_nan=True
        ):
            raise OwnLoopError(
                "The gate was not opened with this batch's weights.",
                remedy="Run each pass under `with run.gate(batch.weights):`, and note it before the next.",
            )
        if tuple(losses.shape) != (len(batch),):
            raise OwnLoopError(
                f"Losses are one for each of {len(batch)} slots, not {list(losses.shape)}.",
                remedy="Give each example's own loss, before they are summed.",
            )
        noted = _Pass(batch, losses.detach().double().cpu().numpy(), norms.double().numpy().copy())
        reached = (batch.levels != 0).any(1)
        for lesson in batch.lessons[reached & ~np.isfinite(noted.losses)].tolist():
            raise TrainingStopped(
                f"The loss on {self._lessons[lesson].name} is not a finite number.",
                remedy="Nothing of this step was applied. Lower the learning rate, or look at that row.",
            )
        self._passes.append(noted)

    def rights(self) -> dict[str, frozenset[str]]:
        """The rights that stand behind all of the step, block by block. Raises if a pass is missing."""
        if not self._passes or self._gate.passes != len(self._passes):
            raise OwnLoopError(
                f"{self._gate.passes} passes went through the gate, and {len(self._passes)} were noted.",
                remedy="Note each pass after its `with run.gate(batch.weights):`, and step when all are.",
            )
        levels = [one.levels for done in self._passes for one in done.batch.assigned]
        held = [self._lessons[lesson].rights for done in self._passes for lesson in done.batch.lessons.tolist()]
        return batch_rights(self._gate.block_names, levels, held)

    def filled(self) -> Filled:
        batches, counts = [done.batch for done in self._passes], [len(done.batch) for done in self._passes]
        levels = np.concatenate([batch.levels for batch in batches])
        return Filled(
            np.concatenate([batch.samples for batch in batches]),
            np.concatenate([batch.lessons for batch in batches]),
            tuple(one for batch in batches for one in batch.assigned),
            np.repeat(np.arange(len(batches)), counts),
            np.concatenate([np.arange(count) for count in counts]),
            np.concatenate([done.losses for done in self._passes]),
            np.where(levels == 0, np.nan, np.concatenate([done.norms for done in self._passes])),
        )

    def forget(self) -> None:
        self._passes, self._gate.passes = [], 0
