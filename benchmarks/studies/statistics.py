"""Means over seeds, with the interval in which the true mean lies in 95 of 100 such studies (Student's t)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""The 97.5 % quantile of Student's t for 1 to 10 degrees of freedom; beyond that the last is on the safe side."""


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean over seeds. The half width is None where one seed cannot tell."""

    value: float
    half_width: float | None
    seeds: int

    def __str__(self) -> str:
        return f"{self.value:.3g}" if self.half_width is None else f"{self.value:.3g} ± {self.half_width:.2g}"


def mean_of(values: Sequence[float]) -> Mean | None:
    """None of no values."""
    if not values:
        return None
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return Mean(mean, None, 1)
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
    quantile = _T_975[min(len(values) - 1, len(_T_975)) - 1]
    return Mean(mean, quantile * spread / math.sqrt(len(values)), len(values))


def kept(excluded: float, arm: float, full: float) -> float | None:
    """The part of the gain that an arm keeps, from three losses; None where there is no gain to keep."""
    gain = excluded - full
    return (excluded - arm) / gain if gain > 0 else None
