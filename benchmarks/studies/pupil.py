"""What a lesson shows in which step: which chunks come next, and what of the source may be taught of them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.studies.arms import Arm
from benchmarks.studies.models import CONTEXT, Settings

GRAM = 5
"""A token in its place: the token and the four before it."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """What is taught, and what is looked at on the way. Chunks are of CONTEXT tokens.

    The source's chunks are `hot`, which its texts repeat again and again, or `broad`, which come once.
    """

    hot: list[list[int]]
    broad: list[list[int]]
    neighbours: list[list[int]]
    unseen: list[list[int]]
    others: list[list[int]]
    others_unseen: list[list[int]]


class Pupil:
    """Which chunks come next, and which of the source's may be taught in this step."""

    def __init__(self, arm: Arm, lesson: Lesson, settings: Settings, seed: int) -> None:
        self._texts = lesson.hot + lesson.broad
        self.times = [0] * len(self._texts)
        self.neighbours_loss = 0.0
        self._arm, self._lesson, self._settings = arm, lesson, settings
        self._last = [float("inf")] * len(self._texts)
        self._repeats: Counter[int] = Counter()
        self._hot = _forever(range(len(lesson.hot)), f"hot {seed}")
        self._broad = _forever(range(len(lesson.hot), len(self._texts)), f"broad {seed}")
        self._others = _forever(range(len(lesson.others)), f"others {seed}")
        self._shown: list[int | None] = []

    @property
    def loss(self) -> float:
        """Of the examples that were shown, when each was shown last."""
        known = [loss for loss in self._last if loss < float("inf")]
        return sum(known) / len(known) if known else float("nan")

    @property
    def times_mean(self) -> float:
        return sum(self.times) / len(self.times)

    def skip(self, steps: int) -> None:
        """Leave out what an arm that waits draws in its first steps."""
        for step in range(steps):
            self._draw(step)

    def batch(self, step: int) -> tuple[Tensor, list[float]]:
        """Token rows, the source's first; and of each of the source's slots what its weights are multiplied by."""
        drawn, others = self._draw(step)
        allowed = self._arm.allowance(step - self._settings.forming_steps, self._settings.steps)
        self._shown = [i if self.times[i] + drawn[:at].count(i) < allowed else None for at, i in enumerate(drawn)]
        shares = [0.0 if i is None else self._share(i) for i in self._shown]
        null = [0] * CONTEXT
        rows = [null if i is None else self._texts[i] for i in self._shown]
        rows += [self._lesson.others[i] for i in others]
        return torch.tensor(rows), shares

    def _draw(self, step: int) -> tuple[list[int], list[int]]:
        """The source's chunks whose turn it is, and the others'; while the network forms there are only the others."""
        sizes = self._settings
        if step < sizes.forming_steps:
            return [], [next(self._others) for _ in range(sizes.slots)]
        own = [next(self._hot) for _ in range(sizes.hot_slots)] + [next(self._broad) for _ in range(sizes.broad_slots)]
        return own, [next(self._others) for _ in range(sizes.slots - len(own))]

    def saw(self, losses: Tensor, shares: Sequence[float]) -> None:
        """What the examples' losses were, before this step's update; an example that rests is looked at too."""
        for i, loss, share in zip(self._shown, losses.tolist(), shares, strict=False):
            if i is not None:
                self._last[i] = loss
                self.times[i] += share > 0

    def withheld(self, rows_NT: Tensor, shares: Sequence[float]) -> Tensor:
        """Which targets are not taught: of the source's, one in K, and what was taught K times in its place."""
        mask = torch.zeros(rows_NT.shape[0], rows_NT.shape[1] - 1, dtype=torch.bool)
        own = rows_NT[: len(shares)]
        if self._arm.withhold is not None:
            mask[: len(shares)] = withheld_targets(own, self._arm.withhold)
        if self._arm.repeat is not None:
            grams = gram_ids(own, GRAM)[:, 1:].tolist()
            for i in (i for i, share in enumerate(shares) if share > 0):
                mask[i] |= torch.tensor([self._is_repeated(gram) for gram in grams[i]])
        return mask

    def _is_repeated(self, gram: int) -> bool:
        if self._repeats[gram] >= (self._arm.repeat or 0):
            return True
        self._repeats[gram] += 1
        return False

    def _share(self, example: int) -> float:
        gap = self._arm.gap
        rests = gap is not None and self._last[example] < gap * self.neighbours_loss
        return self._arm.soften if rests else 1.0


def withheld_targets(rows_NT: Tensor, one_in: int) -> Tensor:
    """Of each target (all tokens but the first), whether the four tokens before it say that it is not taught."""
    held = (gram_ids(rows_NT, GRAM - 1) // 97) % one_in == 0
    held[:, : GRAM - 2] = False
    return held[:, :-1]


def gram_ids(rows_NT: Tensor, length: int) -> Tensor:
    """A number for the tokens that end at each place; at a row's beginning, for fewer and the row's last ones."""
    mixed = torch.zeros_like(rows_NT)
    for back in range(length):
        mixed = (mixed * 1_000_003 + torch.roll(rows_NT, back, dims=1) * 7_919 + 12_345) % 2_147_483_647
    return mixed


def _forever(indices: range, seed: str) -> Iterator[int]:
    """Every index once, in random order, again and again."""
    rng = random.Random(seed)
    while True:
        order = list(indices)
        rng.shuffle(order)
        yield from order
