"""What each lesson may reach: everything lowers, nothing opens, and a response turns against an example once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from licet.ledger.norms import LEVELS
from licet.policies.bands import Layout, resolve
from licet.train.data.lessons import Lesson, Lessons
from licet.train.run.curriculum import Phase
from licet.train.run.teaching import REPEATED, Teaching
from tests.policies.documents import SIX, policy

LAYOUT: Layout = resolve(policy(reserved=[]), SIX)
BLOCKS = len(LAYOUT.blocks)
FULL = (LEVELS,) * BLOCKS
NOTHING = (0,) * BLOCKS
SURFACE = tuple(LEVELS if LAYOUT.surface in own else 0 for own in LAYOUT.own)

levels = st.tuples(*[st.integers(0, LEVELS)] * BLOCKS)


def lessons(*profiles: Sequence[int]) -> Lessons:
    made = [
        Lesson(10 + i, 1, 2, tuple(p), ("gate",) * BLOCKS, frozenset(), frozenset(), False, "high", f"line {i}", i, 1)
        for i, p in enumerate(profiles)
    ]
    return Lessons(made)


def teaching(*profiles: Sequence[int], phases: Sequence[Phase] = (), **said: Any) -> Teaching:
    return Teaching(lessons(*profiles), LAYOUT, phases, steps=10, **said)


def test_without_anything_else_the_gates_profile_stands() -> None:
    found = teaching(SURFACE).assigned(0, 3, 2)
    assert found.levels == SURFACE and set(found.rules) == {"gate"}


def test_who_lowered_a_block_last_is_named() -> None:
    made = teaching(FULL)
    made.adapt("high", (10, *FULL[1:]))
    made.respond(0, (10, 5, *FULL[2:]), "memorization/attenuate")
    found = made.assigned(0, 0, 0)
    assert found.levels == (10, 5, *FULL[2:])
    assert found.rules == ("adaptation/high", "memorization/attenuate", *["gate"] * (BLOCKS - 2))


def test_another_entropy_band_is_left_alone() -> None:
    made = teaching(FULL)
    made.adapt("low", NOTHING)
    assert made.assigned(0, 0, 0).levels == FULL
    assert made.adapted("low", lambda: FULL) == NOTHING and made.adapted("high", lambda: SURFACE) == SURFACE


PHASES = (Phase("early", 0.5, {"foundational": 0.0, "*": 1.0}, "wait"), Phase("late", 1.0, {"*": 1.0}))


def test_a_phase_restricts_and_ends() -> None:
    made = teaching(FULL, SURFACE, phases=PHASES)
    early = made.assigned(0, 4, 0)
    deep = [b for b, own in enumerate(LAYOUT.own) if LAYOUT.names.index("foundational") in own]
    assert all((early.levels[b] == 0) == (b in deep) for b in range(BLOCKS))
    assert {early.rules[b] for b in deep} == {"phase/early"}
    assert made.assigned(1, 4, 1).levels == NOTHING
    assert made.assigned(0, 5, 0).levels == FULL and made.assigned(1, 5, 1).levels == SURFACE


def test_what_may_not_be_said_back_is_repeated_only_so_often() -> None:
    said_back, other = lessons(FULL, SURFACE).all
    made = Teaching(Lessons([replace(said_back, verbatim=True), other]), LAYOUT, (), steps=10, repeats_max=2)
    assert [made.assigned(1, step, 1).levels for step in (0, 3)] == [SURFACE, SURFACE]
    after = made.assigned(1, 5, 1)
    assert after.levels == NOTHING and REPEATED in after.rules
    assert all(made.assigned(0, step, 0).levels == FULL for step in range(4))


def test_waiting_does_not_count_as_being_taught() -> None:
    made = teaching(SURFACE, phases=PHASES, repeats_max=1)
    assert [made.assigned(0, step, 0).levels for step in (0, 4, 5, 6)] == [NOTHING, NOTHING, SURFACE, NOTHING]


def test_the_same_content_counts_together_in_however_many_rows() -> None:
    one, other = lessons(SURFACE, SURFACE).all
    made = Teaching(Lessons([one, replace(other, twin=0)]), LAYOUT, (), steps=10, repeats_max=1)
    assert made.assigned(1, 0, 1).levels == SURFACE and made.assigned(0, 0, 0).levels == NOTHING


@given(given_=levels, adapted=levels, response=levels, step=st.integers(0, 9), earlier=st.integers(0, 4))
def test_nothing_opens_what_the_gate_closed(
    given_: tuple[int, ...], adapted: tuple[int, ...], response: tuple[int, ...], step: int, earlier: int
) -> None:
    made = teaching(given_, phases=PHASES, repeats_max=2)
    made.adapt("high", adapted)
    made.respond(0, response, "memorization/restrict")
    for _ in range(earlier):
        made.assigned(0, step, 0)
    found = made.assigned(0, step, 0).levels
    assert all(0 <= now <= min(parts) for now, *parts in zip(found, given_, adapted, response, strict=True))


@given(given_=levels, turned=st.tuples(*[st.integers(-LEVELS, LEVELS)] * BLOCKS), step=st.integers(0, 9))
def test_a_response_that_turns_is_applied_once_and_opens_nothing(
    given_: tuple[int, ...], turned: tuple[int, ...], step: int
) -> None:
    made, plain = teaching(given_, phases=PHASES), teaching(given_, phases=PHASES)
    made.respond(0, turned, "memorization/unlearn-once")
    usual = plain.assigned(0, step, 0).levels
    first = made.assigned(0, step, 0).levels
    assert all(now == t if t < 0 else now <= before for now, before, t in zip(first, usual, turned, strict=True))
    later = made.assigned(0, step, 0).levels
    assert all(0 <= now <= before for now, before in zip(later, usual, strict=True))
    assert all(now == 0 for now, t in zip(later, turned, strict=True) if t < 0)


def test_what_was_taught_in_one_place_only_is_unlearned_there() -> None:
    made = teaching(SURFACE)
    made.respond(0, tuple(-level for level in SURFACE), "memorization/unlearn-once")
    assert made.assigned(0, 0, 0).levels == tuple(-level for level in SURFACE)
    assert made.assigned(0, 1, 0).levels == NOTHING


def test_responses_add_up() -> None:
    made = teaching(FULL)
    made.respond(0, (7, *FULL[1:]), "memorization/attenuate")
    assert made.current(0) == (7, *FULL[1:])
    made.respond(0, (3, *made.current(0)[1:]), "memorization/attenuate")
    assert made.current(0) == made.assigned(0, 0, 0).levels == (3, *FULL[1:])


@given(given_=levels, turned=st.tuples(*[st.integers(-LEVELS, LEVELS)] * BLOCKS))
def test_a_state_is_taken_up_as_it_was(given_: tuple[int, ...], turned: tuple[int, ...]) -> None:
    made = teaching(given_, FULL)
    made.adapt("high", SURFACE)
    made.respond(0, turned, "memorization/unlearn-once")
    made.respond(1, SURFACE, "concentration")
    again = teaching(given_, FULL)
    again.restore(made.state())
    assert again.state() == made.state()
    for lesson in (0, 1, 0):
        assert again.assigned(lesson, 0, lesson) == made.assigned(lesson, 0, lesson)


def test_levels_of_another_model_are_no_response() -> None:
    made = teaching(FULL)
    made.respond(0, (1, 2), "memorization/attenuate")
    with pytest.raises(ValueError, match="shorter"):
        made.assigned(0, 0, 0)
