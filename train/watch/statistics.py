"""What a block's gradient norms usually are: a running mean and deviation of their logarithms, hard to talk into error.

    the first norms    are kept, and their median and median absolute deviation start the statistics
    after that         each norm is scored before it is added, and added as no further off than `_WINSOR` deviations
    what is old        fades: the statistics never weigh more than `window` norms

So an outlier neither hides itself, nor moves the mean far enough to hide the next one. A norm that is NaN was not
computed, one of zero says that nothing came to the block, an infinite one says nothing about what is usual: none of the
three is added.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from licet.ledger.errors import ConfigError

SCORE_MAX = 1000.0
"""The score of an infinite norm, and of any that is further off than that."""
_WINSOR = 3.0
_DEVIATION_MIN = 0.05
"""Norms that differ by less than one part in twenty do not differ, however alike the others are."""
_TO_DEVIATION = 1.482602218505602
"""The median absolute deviation of a normal distribution, times this, is its standard deviation."""

Floats = NDArray[np.float64]


class MemorizationError(ConfigError):
    """Norms, settings or a kept state with which memorization cannot be watched."""


class RunningNorms:
    """The statistics of each block. A batch is scored as a whole before it is added as a whole."""

    def __init__(self, blocks: int, first: int, window: int) -> None:
        self._first = first
        self._window = window
        self._waiting: list[list[float]] = [[] for _ in range(blocks)]
        self._weight_B = np.zeros(blocks)
        """How many norms the statistics stand for; 0 until there were enough to start them."""
        self._mean_B = np.zeros(blocks)
        self._variance_B = np.zeros(blocks)

    def score(self, norms_NB: Floats) -> Floats:
        """How many deviations each norm lies above what is usual in its block; NaN where that is not known."""
        logs_NB = _logs(norms_NB)
        scores_NB = (logs_NB - self._mean_B) / self._deviation_B()
        scores_NB[:, self._weight_B == 0] = np.nan
        return np.clip(scores_NB, -SCORE_MAX, SCORE_MAX)

    def add(self, norms_NB: Floats) -> None:
        """Let norms count."""
        logs_NB = _logs(norms_NB)
        logs_NB[np.isinf(logs_NB)] = np.nan
        for block in np.flatnonzero(self._weight_B == 0):
            self._wait(int(block), logs_NB)
        self._blend(logs_NB)

    def state(self) -> dict[str, Any]:
        """All that later scores depend on, in types that JSON keeps exactly."""
        return {
            "waiting": [list(values) for values in self._waiting],
            "weight": self._weight_B.tolist(),
            "mean": self._mean_B.tolist(),
            "variance": self._variance_B.tolist(),
        }

    def restore(self, state: Any) -> None:
        """Go on from a kept state: the same scores follow, to the bit. A broken one changes nothing."""
        blocks = len(self._weight_B)
        try:
            weight, mean, variance = (numbers(state[name], blocks) for name in ("weight", "mean", "variance"))
            waiting = [numbers(values, None).tolist() for values in state["waiting"]]
        except (TypeError, KeyError, ValueError) as error:
            raise _broken(f"it lacks the numbers of {blocks} blocks") from error
        if len(waiting) != blocks or any(len(values) >= self._first for values in waiting):
            raise _broken("other first norms are waiting than can be")
        if (weight < 0).any() or (weight > self._window).any() or (variance < 0).any():
            raise _broken("a weight or a variance is out of range")
        self._waiting, self._weight_B, self._mean_B, self._variance_B = waiting, weight, mean, variance

    def _deviation_B(self) -> Floats:
        deviation_B: Floats = np.maximum(np.sqrt(self._variance_B), _DEVIATION_MIN)
        return deviation_B

    def _wait(self, block: int, logs_NB: Floats) -> None:
        """Take a block's first norms aside; once there are enough, start its statistics with them."""
        column = logs_NB[:, block]
        known = np.flatnonzero(~np.isnan(column))[: self._first - len(self._waiting[block])]
        self._waiting[block] += column[known].tolist()
        logs_NB[known, block] = np.nan
        if len(self._waiting[block]) == self._first:
            values = np.array(self._waiting[block])
            centre = float(np.median(values))
            self._mean_B[block] = centre
            self._variance_B[block] = (_TO_DEVIATION * float(np.median(np.abs(values - centre)))) ** 2
            self._weight_B[block] = self._first
            self._waiting[block] = []

    def _blend(self, logs_NB: Floats) -> None:
        """Merge a batch into the statistics (Chan's form of Welford's sums), the old part fading."""
        reach_B = _WINSOR * self._deviation_B()
        inside_NB = np.clip(logs_NB, self._mean_B - reach_B, self._mean_B + reach_B)
        known_NB = ~np.isnan(inside_NB)
        count_B = known_NB.sum(0)
        count_B[self._weight_B == 0] = 0
        share_B = np.maximum(count_B, 1)
        mean_B = np.where(known_NB, inside_NB, 0.0).sum(0) / share_B
        spread_B = np.where(known_NB, (inside_NB - mean_B) ** 2, 0.0).sum(0)
        total_B = np.maximum(self._weight_B + count_B, 1)
        off_B = np.where(count_B > 0, mean_B - self._mean_B, 0.0)
        spread_B = np.where(count_B > 0, spread_B, 0.0) + off_B**2 * self._weight_B * count_B / total_B
        blended_B = (self._weight_B * self._variance_B + spread_B) / total_B
        self._variance_B = np.where(count_B > 0, blended_B, self._variance_B)
        self._mean_B = self._mean_B + off_B * count_B / total_B
        self._weight_B = np.minimum(self._weight_B + count_B, self._window)


def _logs(norms_NB: Floats) -> Floats:
    """The logarithms of norms; NaN for zero."""
    with np.errstate(divide="ignore"):
        logs_NB: Floats = np.log(norms_NB)
    logs_NB[norms_NB == 0] = np.nan
    return logs_NB


def numbers(values: Any, count: int | None) -> Floats:
    """A list of finite numbers as an array."""
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise TypeError("no list")
    if not all(isinstance(value, (int, float)) and math.isfinite(value) for value in values):
        raise ValueError("no finite numbers")
    if count is not None and len(values) != count:
        raise ValueError("another number of blocks")
    return np.array(values, dtype=np.float64)


def _broken(what: str) -> MemorizationError:
    return MemorizationError(
        f"The kept state of the memorization watch cannot be used: {what}.",
        remedy="Resume under the policy and model that it was kept under, or start the watch anew.",
    )
