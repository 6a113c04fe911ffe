"""Memorization in a run: what the watch flags is answered with the policy's response, and the recorder is told both.

A run that only observes answers nothing. Where several processes train, all see the same norms and answer alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from licet.ledger.records import Stage
from licet.policies.bands import Layout
from licet.policies.policy import Policy
from licet.train.data.lessons import Lessons
from licet.train.run.teaching import Teaching
from licet.train.watch.memorization import Concentration, Flag, Violation, Watch, respond, second_look

SecondLook = Callable[[int], NDArray[np.float64]]
"""Of a slot, the cosine between its gradient and the running update in each block."""
VIOLATION = "concentration"


@dataclass(frozen=True, slots=True)
class Answered:
    """What was found in a lesson, and what was done about it."""

    lesson: int
    blocks: tuple[int, ...]
    score: float
    threshold: float
    response: str


class Watching:
    """The watch over one run, and what its flags do to the run's profiles."""

    def __init__(
        self,
        watch: Watch,
        concentration: Concentration,
        teaching: Teaching,
        lessons: Lessons,
        layout: Layout,
        *,
        responds: bool,
    ) -> None:
        self._watch = watch
        self._concentration = concentration
        self._teaching = teaching
        self._lessons = lessons
        self._layout = layout
        self._responds = responds
        self._permitted = {lesson.attestation: lesson.permitted for lesson in lessons.all}
        self._told: set[tuple[int, tuple[int, ...]]] = set()

    @classmethod
    def of(cls, policy: Policy, teaching: Teaching, lessons: Lessons, layout: Layout, stage: Stage) -> Self:
        """As a policy asks for it; in a run that only observes, nothing is answered."""
        settings = policy.document.memorization
        watch = Watch(settings, layout, policy.entropy_names)
        concentration = Concentration(settings.concentration, layout)
        return cls(watch, concentration, teaching, lessons, layout, responds=stage is Stage.ENFORCE)

    def look(
        self,
        step: int,
        lessons: NDArray[np.int64],
        levels: NDArray[np.int64],
        norms: NDArray[np.float64],
        second: SecondLook | None = None,
    ) -> list[Answered]:
        """What a step shows. `norms` has NaN where a level is zero."""
        keys = lessons.tolist()
        bands = [self._lessons[lesson].entropy_band for lesson in keys]
        found = []
        for flag in self._held(self._watch.observe(step, list(enumerate(keys)), bands, norms), second):
            _, lesson = flag.example  # type: ignore[misc]
            found.append(self._answer(lesson, flag))
        attestations = [self._lessons[lesson].attestation for lesson in keys]
        self._concentration.observe(attestations, levels, norms)
        violations = self._concentration.violations(self._permitted, among=attestations)
        return found + [answer for violation in violations for answer in self._confine(violation)]

    def state(self) -> dict[str, Any]:
        told = [[attestation, list(blocks)] for attestation, blocks in sorted(self._told)]
        return {"watch": self._watch.state(), "concentration": self._concentration.state(), "told": told}

    def restore(self, state: dict[str, Any]) -> None:
        self._watch.restore(state["watch"])
        self._concentration.restore(state["concentration"])
        self._told = {(attestation, tuple(blocks)) for attestation, blocks in state["told"]}

    def _held(self, flags: Sequence[Flag], second: SecondLook | None) -> list[Flag]:
        """The flags that stand after a second look, which costs a pass over each example that was flagged."""
        if second is None:
            return list(flags)
        looked: dict[int, NDArray[np.float64]] = {}
        held = []
        for flag in flags:
            slot, _ = flag.example  # type: ignore[misc]
            if flag.side == "above" and slot not in looked:
                looked[slot] = second(slot)
            kept = second_look(flag, looked[slot]) if slot in looked else flag
            if kept is not None:
                held.append(kept)
        return held

    def _answer(self, lesson: int, flag: Flag) -> Answered:
        flag = replace(flag, example=lesson)
        done = flag.response if self._responds else "record"
        if done != "record":
            levels = respond(flag, self._teaching.current(lesson), self._layout)
            self._teaching.respond(lesson, levels, f"memorization/{flag.response}")
        return Answered(lesson, flag.blocks, flag.score, flag.threshold, f"{flag.side}/{done}")

    def _confine(self, violation: Violation) -> list[Answered]:
        """Close the blocks in which an attestation sits to all of its lessons; told once, by the first of them."""
        key = (int(violation.attestation), violation.blocks)
        if key in self._told:
            return []
        self._told.add(key)
        own = [i for i, lesson in enumerate(self._lessons.all) if lesson.attestation == violation.attestation]
        if self._responds:
            for lesson in own:
                left = tuple(
                    0 if block in violation.blocks else level
                    for block, level in enumerate(self._teaching.current(lesson))
                )
                self._teaching.respond(lesson, left, VIOLATION)
        done = f"{VIOLATION}/{'exclude' if self._responds else 'record'}"
        return [Answered(own[0], violation.blocks, violation.share, violation.share_max, done)]
