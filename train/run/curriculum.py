"""The curriculum: how deep examples may teach in each phase of a run. A phase only takes away.

Content that may touch few blocks fights with everybody else's over them while the network has not formed yet: it can go
nowhere else, and the others can. So a phase may let such content wait.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

from licet.ledger.errors import ConfigError
from licet.policies.bands import Layout, quantised
from licet.policies.schema import ALL_OTHERS, NAME_CHARS_MAX

PHASES_MAX = 64
Confined = Literal["teach", "wait"]


class CurriculumError(ConfigError):
    """Phases that are no curriculum, or that do not fit a policy's bands."""


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of a run. It ends at the share `until` of the run's steps.

    `ceiling` is the most that reaches each band, `*` standing for the bands that are not named. `confined` says what
    happens to examples whose profile does not reach every band: they teach where they may, or they wait.
    """

    name: str
    until: float
    ceiling: Mapping[str, float]
    confined: Confined = "teach"

    def __post_init__(self) -> None:
        if not 0 < len(self.name) <= NAME_CHARS_MAX:
            raise CurriculumError(
                "A phase has no name, or too long a one.", remedy=f"1 to {NAME_CHARS_MAX} characters."
            )
        if not _is_number(self.until) or not 0 < self.until <= 1:
            raise CurriculumError(
                f"The phase {self.name} cannot end at {self.until} of the run.",
                remedy="`until` is above 0 and at most 1; the last phase ends at 1.0.",
            )
        for band, weight in self.ceiling.items():
            if not _is_number(weight) or not 0 <= weight <= 1:
                raise CurriculumError(
                    f"The phase {self.name} cannot give the band {band} the weight {weight}.",
                    remedy="A weight is from 0 to 1.",
                )
        if self.confined not in get_args(Confined):
            raise CurriculumError(
                f"The phase {self.name} says {self.confined!r} of confined examples.", remedy="Say teach or wait."
            )


def check(phases: Sequence[Phase], layout: Layout) -> None:
    """Refuse phases that do not follow one another to the end of a run, or that name bands which are not there."""
    if not 1 <= len(phases) <= PHASES_MAX:
        raise CurriculumError(f"A curriculum has 1 to {PHASES_MAX} phases, not {len(phases)}.", remedy="Join some.")
    names = [phase.name for phase in phases]
    if len(set(names)) < len(names):
        raise CurriculumError("Two phases of the curriculum have the same name.", remedy="Rename one.")
    ends = [phase.until for phase in phases]
    if any(b <= a for a, b in pairwise(ends)) or ends[-1] != 1:
        raise CurriculumError(
            f"The phases end at {', '.join(str(end) for end in ends)} of the run.",
            remedy="Each ends after the one before, and the last at 1.0.",
        )
    for phase in phases:
        _caps(layout, phase)


def phase_at(phases: Sequence[Phase], step: int, steps: int) -> Phase:
    """The phase of a step, counted from 0; past the planned end the last one goes on."""
    if not phases or step < 0 or steps < 1:
        raise CurriculumError(
            f"Step {step} of {steps} in {len(phases)} phases is in none.",
            remedy="Steps count from 0; plan one at least.",
        )
    return next((phase for phase in phases if step < phase.until * steps), phases[-1])


def in_phase(levels: tuple[int, ...], layout: Layout, phase: Phase) -> tuple[int, ...]:
    """The levels of a profile in a phase: never more in any block. Unlearning goes on as it is."""
    if len(levels) != len(layout.blocks):
        raise CurriculumError(
            f"{len(levels)} levels are no profile of a model with {len(layout.blocks)} blocks.",
            remedy="Use the layout under which the example was admitted.",
        )
    if phase.confined == "wait" and is_confined(levels, layout):
        return tuple(min(level, 0) for level in levels)
    return tuple(min(level, cap) for level, cap in zip(levels, _caps(layout, phase), strict=True))


def is_confined(levels: Sequence[int], layout: Layout) -> bool:
    """Whether a profile leaves out some band altogether. Reserved blocks, closed to most, do not make it so."""
    open_blocks = [b for b in range(len(levels)) if not layout.reserved[b]]
    bands = {band for block in open_blocks for band in layout.own[block]}
    reached = {band for block in open_blocks if levels[block] for band in layout.own[block]}
    return reached != bands


def _caps(layout: Layout, phase: Phase) -> tuple[int, ...]:
    """The most that a phase leaves to each block; to one in two bands, the less."""
    unknown = [name for name in phase.ceiling if name not in (*layout.names, ALL_OTHERS)]
    missing = [name for name in layout.names if name not in phase.ceiling and ALL_OTHERS not in phase.ceiling]
    if unknown or missing:
        said = f"names a band {unknown[0]}" if unknown else f"says nothing of the band {missing[0]}"
        raise CurriculumError(
            f"The phase {phase.name} {said}.",
            remedy=f'The bands are {", ".join(layout.names)}; "*" stands for those that are not named.',
        )
    weights = [phase.ceiling.get(name, phase.ceiling.get(ALL_OTHERS, 0.0)) for name in layout.names]
    return tuple(min(quantised(weights[band]) for band in own) for own in layout.own)
