"""Which sample stands in which slot of which step, and how large the step is.

The order is a function of the seed and of how many samples there are, so that a run can be taken up anywhere, and so
that no content can move another's place. An example that may reach nothing keeps a slot, which is then left empty.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from licet.ledger.errors import ConfigError
from licet.train.run.file import SchedulePart

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Draw:
    """What a step is made of: sample numbers [microbatches, slots], and of each the epoch in which it is drawn."""

    samples: Ints
    epochs: Ints


class Schedule:
    """The steps of a run."""

    def __init__(self, part: SchedulePart, samples: int, seed: int) -> None:
        if samples < 1:
            raise ConfigError(
                "Nothing that was admitted can be trained on.", remedy="`licet train --dry-run` says why, row by row."
            )
        self._part = part
        self._samples = samples
        self._seed = seed
        self._order: tuple[int, Ints] = (-1, np.empty(0, np.int64))
        self.batch = part.batch
        self.steps = part.steps if part.steps is not None else math.ceil((part.epochs or 1) * samples / part.batch)
        if (self.steps * part.batch - 1) // samples >= 1 << 16:
            raise ConfigError(
                f"{samples} samples would be taught more than 65,535 times.", remedy="Take fewer steps, or add data."
            )

    def draw(self, step: int) -> Draw:
        """The samples of a step. An epoch that ends within a step is followed by the next one."""
        places = np.arange(step * self.batch, (step + 1) * self.batch)
        epochs, within = np.divmod(places, self._samples)
        samples = np.empty(self.batch, np.int64)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            samples[chosen] = self._permutation(int(epoch))[within[chosen]]
        shape = (self._part.accumulate, -1)
        return Draw(samples.reshape(shape), epochs.reshape(shape))

    def learning_rate(self, step: int) -> float:
        """As a share of the full rate."""
        warmup = round(self._part.warmup * self.steps)
        if step < warmup:
            return (step + 1) / warmup
        left = (step - warmup) / max(self.steps - warmup, 1)
        return self._part.floor + (1 - self._part.floor) * _decayed(self._part.decay, left)

    def _permutation(self, epoch: int) -> Ints:
        if self._order[0] != epoch:
            rng = np.random.Generator(np.random.Philox(key=[self._seed, epoch]))
            self._order = (epoch, rng.permutation(self._samples).astype(np.int64))
        return self._order[1]


def _decayed(shape: Literal["cosine", "linear", "constant"], share: float) -> float:
    if shape == "constant":
        return 1.0
    return 1 - share if shape == "linear" else (1 + math.cos(math.pi * share)) / 2
