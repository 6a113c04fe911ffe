"""Unlearning: a bounded step back on the examples of a revoked attestation, under a signed order.

Learning under negative weights pushes an example's loss up, without an end of its own. Three things end it here: each
example is left alone once its loss has come to the target, the loss on held-out text may rise by the order's bound and
no further, and there is a largest number of steps. When the bound is passed the model goes back, to the bit, to where
it last kept to it.

Nothing is written to the ledger here. What `unlearn` yields has happened and stays: a step that was taken back is never
told, so each one can be recorded as learning is.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from licet.ledger.errors import Finding
from licet.ledger.norms import LEVELS
from licet.train.gate import Gate
from licet.train.optimizer import GuardedOptimizer
from licet.train.step_report import StepReport
from licet.train.unlearning.levels import UnlearningError, order_levels, taught_levels

__all__ = [
    "DamageBound",
    "DamageExceeded",
    "Ending",
    "Limits",
    "Outcome",
    "Unlearner",
    "UnlearningError",
    "UnlearningStep",
    "order_levels",
    "taught_levels",
    "unlearn",
]

Batch = TypeVar("Batch")


class DamageExceeded(Finding):
    """The held-out loss rose further than the order allows."""


# -- how far


@dataclass(frozen=True, slots=True)
class DamageBound:
    """How far the held-out loss may rise: by `limit`, as a part of what it was before."""

    limit: float
    before: float

    def __post_init__(self) -> None:
        if not 0 <= self.limit < math.inf:
            raise UnlearningError(f"{self.limit} is no bound on the damage.", remedy="Give a part, as 0.02 for 2 %.")
        if not 0 < self.before < math.inf:
            raise UnlearningError(
                f"A held-out loss of {self.before} cannot be compared with.",
                remedy="Measure it on text of some length.",
            )

    def rise(self, after: float) -> float:
        """By which part the loss rose; negative if it fell, and infinite if it is no number."""
        return (after - self.before) / self.before if math.isfinite(after) else math.inf

    def allows(self, after: float) -> bool:
        return self.rise(after) <= self.limit

    def check(self, after: float) -> None:
        """Raise if it rose too far."""
        if not self.allows(after):
            raise DamageExceeded(
                f"The held-out loss rose by {self.rise(after):.2%}, and {self.limit:.2%} is the most.",
                remedy="Take smaller steps or fewer blocks, or get an order with a wider bound.",
            )


class Ending(StrEnum):
    """Why unlearning stopped."""

    REACHED = "reached"
    DAMAGE = "damage"
    NOT_FINITE = "not-finite"
    STEPS = "steps"


@dataclass(frozen=True, slots=True)
class Limits:
    """What ends it, beside the bound on the damage."""

    target_loss: float
    """An example is left alone from here on: its loss under the parent seal, or that of text that was never taught."""
    steps_max: int
    check_every: int = 1
    """Held-out loss is measured after so many steps, and at the end."""

    def __post_init__(self) -> None:
        if not 0 < self.target_loss < math.inf or self.steps_max < 1 or self.check_every < 1:
            raise UnlearningError(
                "Unlearning needs a positive target for the loss, and at least one step between measurements.",
                remedy="Take the loss of untaught text of the same kind for the target.",
            )


@dataclass(frozen=True, slots=True)
class UnlearningStep:
    """One step that stays. Tuples have one value per example of the batch; losses are those before the step."""

    number: int
    batch: int
    losses: tuple[float, ...]
    levels: tuple[tuple[int, ...], ...]
    """The profile of each example in this step; zeros for one that had come to the target."""
    norms_NB: Tensor
    """Raw norms, NaN where the level is zero."""
    report: StepReport

    @property
    def loss(self) -> float:
        return sum(self.losses) / len(self.losses)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it ended, and in what state the model was left."""

    ending: Ending
    steps: int
    """That were taken and stay."""
    steps_undone: int
    held_out_before: float
    held_out_after: float
    losses: tuple[tuple[float, ...], ...]
    """Of each batch, each example's loss now."""


# -- doing it


@dataclass(frozen=True, slots=True)
class Unlearner(Generic[Batch]):
    """What is needed to unlearn some batches on a model. `losses_of` gives each example's own loss, [batch]."""

    model: nn.Module
    gate: Gate
    optimizer: GuardedOptimizer
    losses_of: Callable[[Batch], Tensor]
    held_out: Callable[[], float]
    """The loss on text that was never taught under the attestation."""


def unlearn(
    on: Unlearner[Batch],
    batches: Sequence[Batch],
    levels: Sequence[int],
    bound: DamageBound,
    limits: Limits,
    *,
    rights: frozenset[str] = frozenset(),
) -> Generator[UnlearningStep, None, Outcome]:
    """Take steps back on the batches, over and over, and yield those that stay; the outcome is what it returns.

        1. measure each example, so that one that has come to the target is left alone
        2. step on the next batch with an example that has not
        3. every so many steps measure the held-out loss: yield the steps since, or take them back and stop
        4. once all seem to have come to the target measure them again, and go on if one has not

    `rights` are the order's: blocks that are reserved ask for them. Take all that it yields: whoever stops in the
    middle has a model with up to `check_every` steps that were not told, and must not seal it.
    """
    _check(on, batches, levels)
    course = _Course(on, batches, levels, bound, limits, rights)
    try:
        return (yield from _followed(course, limits))
    except BaseException:  # an interrupt in mid-step, too
        course.go_back()
        raise


def _followed(course: _Course[Any], limits: Limits) -> Generator[UnlearningStep, None, Outcome]:
    while True:
        left = course.left() or course.left(anew=True)
        sound = all(math.isfinite(loss) for losses in course.known for loss in losses)
        over = not left or not sound or course.number >= limits.steps_max
        if course.untold and (over or len(course.untold) >= limits.check_every):
            if not course.holds(sound=sound):
                return course.outcome(Ending.DAMAGE if sound else Ending.NOT_FINITE, course.go_back())
            yield from course.tell()
        if over:
            return course.outcome(Ending.NOT_FINITE if not sound else Ending.STEPS if left else Ending.REACHED)
        course.step(left)


class _Course(Generic[Batch]):
    """How far unlearning has come."""

    def __init__(
        self,
        on: Unlearner[Batch],
        batches: Sequence[Batch],
        levels: Sequence[int],
        bound: DamageBound,
        limits: Limits,
        rights: frozenset[str],
    ) -> None:
        self._on, self._batches, self._levels = on, batches, tuple(levels)
        self._bound, self._target = bound, limits.target_loss
        self._authorities = {block: rights for block, level in zip(on.gate.block_names, levels, strict=True) if level}
        self._device = next(on.model.parameters()).device
        self._kept = _State(on)
        self._next = 0
        self._held_out = bound.before
        self.untold: list[UnlearningStep] = []
        self.number = 0
        """Steps taken, told or not."""
        self.known = [self._measured(batch) for batch in batches]
        """Each example's loss when it was last looked at."""

    def left(self, *, anew: bool = False) -> list[int]:
        """The batches with an example that has not come to the target; `anew` measures all of them first."""
        if anew:
            self.known = [self._measured(batch) for batch in self._batches]
        return [i for i, losses in enumerate(self.known) if not all(loss >= self._target for loss in losses)]

    def step(self, left: Sequence[int]) -> None:
        """One step on the next of these batches."""
        at = next((i for i in left if i >= self._next), left[0])
        nothing = (0,) * len(self._levels)
        rows = tuple(self._levels if loss < self._target else nothing for loss in self.known[at])
        weights_NB = torch.tensor(rows, dtype=torch.float32, device=self._device) / LEVELS
        self._on.optimizer.zero_grad()
        with self._on.gate(weights_NB):
            losses_N = self._on.losses_of(self._batches[at])
            losses_N.sum().backward()  # type: ignore[no-untyped-call]
        norms_NB = self._on.gate.norms
        assert norms_NB is not None
        report = self._on.optimizer.step(authorities=self._authorities)
        self._on.optimizer.zero_grad()
        self.known[at] = _numbers(losses_N)
        self.untold.append(UnlearningStep(self.number, at, self.known[at], rows, norms_NB.detach().cpu(), report))
        self.number, self._next = self.number + 1, at + 1

    def holds(self, *, sound: bool) -> bool:
        """Whether the model kept to the bound since it was last asked."""
        after = self._on.held_out() if sound else math.nan
        if not self._bound.allows(after):
            return False
        self._held_out = after
        return True

    def tell(self) -> Sequence[UnlearningStep]:
        """The steps since, which stay from now on."""
        told, self.untold = self.untold, []
        self._kept = _State(self._on)
        return told

    def go_back(self) -> int:
        """To where the last told step left the model; how many steps that undid."""
        self._kept.restore(self._on)
        undone, self.untold = len(self.untold), []
        self.number -= undone
        return undone

    def outcome(self, ending: Ending, undone: int = 0) -> Outcome:
        losses = tuple(self._measured(batch) for batch in self._batches)
        return Outcome(ending, self.number, undone, self._bound.before, self._held_out, losses)

    def _measured(self, batch: Batch) -> tuple[float, ...]:
        with torch.no_grad():
            return _numbers(self._on.losses_of(batch))


class _State:
    """A model and its optimizer as they stand, to the bit."""

    def __init__(self, on: Unlearner[Any]) -> None:
        trainable = [parameter for parameter in on.model.parameters() if parameter.requires_grad]
        self._tensors = [(tensor, tensor.detach().clone()) for tensor in (*trainable, *on.model.buffers())]
        self._optimizer = {
            parameter: {key: _copied(value) for key, value in held.items()}
            for parameter, held in on.optimizer.state.items()
        }

    def restore(self, on: Unlearner[Any]) -> None:
        on.optimizer.zero_grad()
        with torch.no_grad():
            for tensor, kept in self._tensors:
                tensor.copy_(kept)
        on.optimizer.state.clear()
        on.optimizer.state.update(self._optimizer)


def _copied(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else copy.deepcopy(value)


def _numbers(losses_N: Tensor) -> tuple[float, ...]:
    if losses_N.dim() != 1 or not len(losses_N):
        raise UnlearningError(
            f"The losses of a batch have the shape {list(losses_N.shape)}.", remedy="Give one number for each example."
        )
    return tuple(losses_N.detach().double().tolist())


def _check(on: Unlearner[Batch], batches: Sequence[Batch], levels: Sequence[int]) -> None:
    if len(levels) != len(on.gate.block_names):
        raise UnlearningError(
            f"The profile has {len(levels)} levels for {len(on.gate.block_names)} blocks.",
            remedy="Make it with `order_levels` from the layout that the gate was made with.",
        )
    if not all(type(level) is int and -LEVELS <= level <= 0 for level in levels) or not any(levels):
        raise UnlearningError(
            f"A profile that unlearns has levels from -{LEVELS} to 0, and one that is not zero.",
            remedy="Learning goes through the trainer, and a profile of zeros needs no step.",
        )
    if not batches:
        raise UnlearningError("There are no examples to unlearn.", remedy="Give those of the order's attestation.")
