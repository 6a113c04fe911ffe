"""What the watch flags is answered in the run's profiles, or only recorded where a run observes."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from licet.ledger.norms import LEVELS
from licet.policies.bands import resolve
from licet.policies.schema import Concentrated, Memorization, Sigmas
from licet.train.data.lessons import Lesson, Lessons
from licet.train.run.teaching import Teaching
from licet.train.watch.memorization import Concentration, Watch
from licet.train.watch.watching import Watching
from tests.policies.documents import SIX, policy

POLICY = policy(reserved=[])
LAYOUT = resolve(POLICY, SIX)
BLOCKS = len(LAYOUT.blocks)
FULL = np.full((4, BLOCKS), LEVELS)
SPREAD = Concentrated(share_max=1.0)


def lessons() -> Lessons:
    return Lessons([
        Lesson(
            example=10 + i, attestation=1 + i // 2, profile=3, levels=(LEVELS,) * BLOCKS, rules=("gate",) * BLOCKS,
            rights=frozenset(), permitted=frozenset({"surface"}), verbatim=False, entropy_band="middle",
            name=f"line {i}", first=i, samples=1,
        )
        for i in range(4)
    ])  # fmt: skip


def watching(responds: bool = True, concentrated: Concentrated = SPREAD, **said: Any) -> tuple[Watching, Teaching]:
    settings = Memorization(
        observations_min=16, window=64, thresholds={"*": Sigmas(low=9, high=9)}, concentration=concentrated, **said
    )
    table = lessons()
    teaching = Teaching(table, LAYOUT, (), steps=100)
    watch, sums = Watch(settings, LAYOUT, POLICY.entropy_names), Concentration(concentrated, LAYOUT)
    return Watching(watch, sums, teaching, table, LAYOUT, responds=responds), teaching


def calm(made: Watching, steps: int = 10) -> None:
    random = np.random.default_rng(0)
    for step in range(steps):
        norms = np.exp(random.normal(size=(4, BLOCKS)) * 0.1)
        assert not made.look(step, np.arange(4), FULL, norms)


def loud(block: int = 0) -> np.ndarray:
    """Norms of which the second slot stands out in one block."""
    norms = np.ones((4, BLOCKS))
    norms[1, block] = 1000.0
    return norms


@pytest.mark.parametrize(
    ("response", "left"),
    [("exclude", [0] * BLOCKS), ("attenuate", [LEVELS // 2] + [LEVELS] * (BLOCKS - 1)), ("record", [LEVELS] * BLOCKS)],
)
def test_a_flag_is_answered_as_the_policy_says(response: str, left: list[int]) -> None:
    made, teaching = watching(response={"*": response})
    calm(made)
    (found,) = made.look(10, np.arange(4), FULL, loud())
    assert (found.lesson, found.blocks, found.response) == (1, (0,), f"above/{response}")
    assert found.score > found.threshold
    assert list(teaching.assigned(1, 11, 1).levels) == left
    assert all(set(teaching.assigned(other, 11, other).levels) == {LEVELS} for other in (0, 2, 3))


def test_an_anti_memorization_update_is_applied_once() -> None:
    made, teaching = watching(response={"*": "unlearn-once"})
    calm(made)
    made.look(10, np.arange(4), FULL, loud())
    turned, after = teaching.assigned(1, 11, 1), teaching.assigned(1, 12, 1)
    assert turned.levels[0] == -LEVELS and turned.rules[0] == "memorization/unlearn-once"
    assert after.levels == (0, *[LEVELS] * (BLOCKS - 1))


def test_a_run_that_observes_answers_nothing() -> None:
    made, teaching = watching(responds=False, response={"*": "exclude"})
    calm(made)
    (found,) = made.look(10, np.arange(4), FULL, loud())
    assert found.response == "above/record"
    assert set(teaching.assigned(1, 11, 1).levels) == {LEVELS}


def test_a_second_look_is_taken_at_what_was_flagged_and_at_nothing_else() -> None:
    for cosine, stands in ((1.0, True), (-1.0, False)):
        made, teaching = watching(response={"*": "exclude"})
        calm(made)
        asked: list[int] = []

        def second(slot: int, cosine: float = cosine, asked: list[int] = asked) -> np.ndarray:
            asked.append(slot)
            return np.full(BLOCKS, cosine)

        assert bool(made.look(10, np.arange(4), FULL, loud(), second)) == stands
        assert asked == [1]
        assert any(teaching.assigned(1, 11, 1).levels) != stands


@pytest.mark.parametrize("responds", [True, False])
def test_what_sits_in_few_deep_blocks_is_closed_there_and_told_once(responds: bool) -> None:
    made, teaching = watching(responds, Concentrated(share_max=0.6, blocks_max=1), sides=["below"])
    deep = next(b for b, own in enumerate(LAYOUT.own) if LAYOUT.surface not in own)
    norms = np.ones((4, BLOCKS)) * 0.01
    norms[:2, deep] = 1.0
    found = made.look(0, np.arange(4), FULL, norms)
    assert [(one.lesson, one.blocks) for one in found] == [(0, (deep,))]
    assert found[0].response == f"concentration/{'exclude' if responds else 'record'}"
    assert not made.look(1, np.arange(4), FULL, norms)
    closed = [teaching.assigned(lesson, 2, lesson).levels[deep] == 0 for lesson in range(4)]
    assert closed == [responds, responds, False, False]


def test_a_watch_that_was_taken_up_says_the_same() -> None:
    made, _ = watching(response={"*": "exclude"})
    calm(made)
    kept = json.loads(json.dumps(made.state()))
    other, teaching = watching(response={"*": "exclude"})
    other.restore(kept)
    assert other.look(10, np.arange(4), FULL, loud()) == made.look(10, np.arange(4), FULL, loud())
    assert not any(teaching.assigned(1, 11, 1).levels)


def test_what_was_not_computed_is_not_looked_at() -> None:
    made, _ = watching()
    calm(made)
    norms = np.ones((4, BLOCKS))
    norms[1] = np.nan
    levels = FULL.copy()
    levels[1] = 0
    assert not made.look(10, np.arange(4), levels, norms)
