"""What each lesson may reach at a step: the gate's levels, and what has restricted them since.

    the gate         what the policies allow
    adaptation       the entropy band's profile, moved within the policy's bounds
    memorization     the response to a flag
    phase            the run's own order of things
    repeats          how often the same content is taught that may not be said back word for word

Each of these can only lower a level, except that a response may turn it against an example once. Who lowered a block's
level last is named in the profile under which the example is then taught.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from licet.ledger.records import Stage
from licet.policies.bands import Layout
from licet.policies.policy import Policy
from licet.train.data.lessons import Lessons
from licet.train.run.curriculum import Phase, in_phase, phase_at
from licet.train.watch.memorization import settled

Levels = tuple[int, ...]
REPEATED = "memorization/repeats"


@dataclass(frozen=True, slots=True)
class Assignment:
    """Levels, and who decided each."""

    levels: Levels
    rules: tuple[str, ...]

    def lowered(self, levels: Levels, rule: str) -> Assignment:
        """The same, where `levels` differ decided by `rule`."""
        if levels == self.levels:
            return self
        pairs = zip(self.levels, levels, self.rules, strict=True)
        return Assignment(levels, tuple(rule if old != new else name for old, new, name in pairs))


class Teaching:
    """The profiles of a run as they change. It has no clock: the same steps in the same order give the same."""

    def __init__(
        self, lessons: Lessons, layout: Layout, phases: Sequence[Phase], *, steps: int, repeats_max: int = 0
    ) -> None:
        self._lessons = lessons
        self._layout = layout
        self._phases = tuple(phases)
        self._steps = steps
        self._repeats_max = repeats_max
        self._adapted: dict[str, Levels] = {}
        self._responses: dict[int, tuple[Levels, str]] = {}
        self._once: dict[int, tuple[Levels, str]] = {}
        self._times: dict[int, int] = {}
        self._given = [Assignment(lesson.levels, lesson.rules) for lesson in lessons.all]
        self._in_phase: dict[tuple[Levels, str], Levels] = {}

    def assigned(self, lesson: int, step: int, sample: int) -> Assignment:
        """The profile under which a sample of a lesson is taught at a step. It counts as taught then."""
        found = self._given[lesson]
        band = self._lessons[lesson].entropy_band
        if band in self._adapted:
            found = found.lowered(_least(found.levels, self._adapted[band]), f"adaptation/{band}")
        if lesson in self._responses:
            levels, rule = self._responses[lesson]
            found = found.lowered(_least(found.levels, levels), rule)
        if self._phases:
            phase = phase_at(self._phases, step, self._steps)
            found = found.lowered(self._restricted(found.levels, phase), f"phase/{phase.name}")
        if self._repeats_max and not self._lessons[lesson].verbatim and any(found.levels):
            found = self._counted(found, int(self._lessons.same[sample]))
        if lesson in self._once:
            levels, rule = self._once.pop(lesson)
            found = found.lowered(_turned(found.levels, levels), rule)
        return found

    def _counted(self, found: Assignment, sample: int) -> Assignment:
        """Once more, or not again: the same content counts together, however many rows it stands in."""
        times = self._times.get(sample, 0)
        if times >= self._repeats_max:
            return found.lowered((0,) * len(found.levels), REPEATED)
        self._times[sample] = times + 1
        return found

    def respond(self, lesson: int, levels: Levels, rule: str) -> None:
        """From now on this lesson reaches no more than this; a negative level is applied once, and then nothing."""
        if any(level < 0 for level in levels):
            self._once[lesson] = (levels, rule)
            levels = settled(levels)
        self._responses[lesson] = (levels, rule)

    def current(self, lesson: int) -> Levels:
        """What the responses so far leave of a lesson's levels."""
        given = self._given[lesson].levels
        return _least(given, self._responses[lesson][0]) if lesson in self._responses else given

    def adapt(self, entropy_band: str, levels: Levels) -> None:
        self._adapted[entropy_band] = levels

    def adapted(self, entropy_band: str, usual: Callable[[], Levels]) -> Levels:
        """The levels that an entropy band's examples may have at most now."""
        return self._adapted[entropy_band] if entropy_band in self._adapted else usual()

    def state(self) -> dict[str, object]:
        """For a run to be taken up again: plain lists and numbers."""

        def plain(responses: dict[int, tuple[Levels, str]]) -> list[list[object]]:
            return [[lesson, list(levels), rule] for lesson, (levels, rule) in sorted(responses.items())]

        return {
            "adapted": {band: list(levels) for band, levels in sorted(self._adapted.items())},
            "responses": plain(self._responses),
            "once": plain(self._once),
            "times": [[sample, times] for sample, times in sorted(self._times.items())],
        }

    def restore(self, state: dict[str, object]) -> None:
        def read(said: object) -> dict[int, tuple[Levels, str]]:
            return {int(lesson): (tuple(levels), str(rule)) for lesson, levels, rule in said}  # type: ignore[attr-defined]

        self._adapted = {str(b): tuple(levels) for b, levels in state["adapted"].items()}  # type: ignore[attr-defined]
        self._responses, self._once = read(state["responses"]), read(state["once"])
        self._times = {int(sample): int(times) for sample, times in state["times"]}  # type: ignore[attr-defined]

    def _restricted(self, levels: Levels, phase: Phase) -> Levels:
        key = (levels, phase.name)
        if key not in self._in_phase:
            self._in_phase[key] = in_phase(levels, self._layout, phase)
        return self._in_phase[key]


def repeats_max(policies: Sequence[Policy], stage: Stage) -> int:
    """The strictest of the policies' limits, 0 for none; where a run only observes, nothing is limited."""
    limits = [policy.document.memorization.repeats_max for policy in policies]
    return min((limit for limit in limits if limit), default=0) if stage is Stage.ENFORCE else 0


def _least(levels: Levels, ceiling: Levels) -> Levels:
    return tuple(min(level, most) for level, most in zip(levels, ceiling, strict=True))


def _turned(levels: Levels, once: Levels) -> Levels:
    """Against the example where a response says so, and elsewhere as it was: a response opens nothing."""
    return tuple(turned if turned < 0 else level for level, turned in zip(levels, once, strict=True))
