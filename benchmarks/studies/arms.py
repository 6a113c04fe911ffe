"""Arms of a study: how the protected source is taught, as settings that a policy and a run configuration can say.

An arm is written as parts joined by `+`, for instance `full+cap=4+paced` or `surface+start=0.6+gap=0.9`.

    full, surface, excluded        the ceilings of all three bands at once
    surface=W  behavioral=W  foundational=W   one band's ceiling
    start=S  end=S    taught in this part of the run only, as shares of its steps
    cap=K             each example is taught K times at most
    paced             the K times are spread evenly over that part, and do not all come at its beginning
    gap=R             an example rests while its loss is below R times that of unseen text of the same source
    soften=W          ... it is taught with this weight then, instead of resting
    withhold=K        one token in K is never taught, always the same one after the same four tokens
    repeat=K          a token is not taught in its place (after the same four tokens) once it was taught there K times
    adapter=RANK      the source teaches adapters of this rank only, and the others teach the base only
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from licet.ledger.errors import ConfigError

BANDS = ("surface", "behavioral", "foundational")
_PRESETS = {"full": (1.0, 1.0, 1.0), "surface": (1.0, 0.0, 0.0), "excluded": (0.0, 0.0, 0.0)}
_SHARES = ("surface", "behavioral", "foundational", "start", "end", "gap", "soften")
_COUNTS = {"cap": 1, "withhold": 2, "repeat": 1, "adapter": 1}
_COUNT_MAX = 10_000


class ArmError(ConfigError):
    """An arm that nobody can train."""


@dataclass(frozen=True, slots=True)
class Arm:
    """How one source is taught."""

    name: str
    surface: float = 1.0
    behavioral: float = 1.0
    foundational: float = 1.0
    start: float = 0.0
    end: float = 1.0
    cap: int | None = None
    paced: bool = False
    gap: float | None = None
    soften: float = 0.0
    withhold: int | None = None
    repeat: int | None = None
    adapter: int | None = None

    @property
    def is_excluded(self) -> bool:
        return not (self.surface or self.behavioral or self.foundational)

    @property
    def ceilings(self) -> tuple[float, float, float]:
        return self.surface, self.behavioral, self.foundational

    def first_step(self, steps: int) -> int:
        """Before this step the arm is the excluded one."""
        return steps if self.is_excluded else math.ceil(self.start * steps)

    def allowance(self, step: int, steps: int) -> float:
        """How often an example may have been taught before this step is over; 0 outside of the arm's part."""
        first, last = self.start * steps, self.end * steps
        if self.is_excluded or not first <= step < last:
            return 0
        if self.cap is None:
            return math.inf
        return math.ceil(self.cap * (step + 1 - first) / (last - first)) if self.paced else self.cap


def parse_arm(text: str) -> Arm:
    """The arm that a text describes."""
    arm = Arm(text)
    for part in text.split("+"):
        key, equals, value = part.partition("=")
        if not equals and key in _PRESETS:
            arm = replace(arm, **dict(zip(BANDS, _PRESETS[key], strict=True)))
        elif not equals and key == "paced":
            arm = replace(arm, paced=True)
        elif equals and key in _SHARES:
            arm = replace(arm, **{key: _share(key, value)})
        elif equals and key in _COUNTS:
            arm = replace(arm, **{key: _count(key, value)})
        else:
            raise ArmError(f"An arm has no part {part!r}.", remedy="`python -m benchmarks.extraction --help` has them.")
    if not arm.start < arm.end:
        raise ArmError(f"{text} teaches in no step.", remedy="Let start be smaller than end.")
    if arm.paced and arm.cap is None:
        raise ArmError(f"{text} has nothing to pace.", remedy="Add cap=K.")
    return arm


def _share(key: str, value: str) -> float:
    try:
        share = float(value)
    except ValueError:
        share = math.nan
    if not 0 <= share <= 1:
        raise ArmError(f"{key}={value} is not from 0 to 1.", remedy=f"Write {key}=0.5, for instance.")
    return share


def _count(key: str, value: str) -> int:
    least = _COUNTS[key]
    if not (value.isascii() and value.isdigit() and least <= int(value[:9]) <= _COUNT_MAX):
        raise ArmError(f"{key}={value[:20]} is not a whole number from {least} to {_COUNT_MAX}.", remedy="Change it.")
    return int(value)
