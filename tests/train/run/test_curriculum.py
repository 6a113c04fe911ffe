"""The curriculum: every step has one phase, phases follow one another, and none of them gives anything."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from licet.policies.bands import Architecture, resolve
from licet.policies.policy import Policy
from licet.train.run.curriculum import (
    PHASES_MAX,
    CurriculumError,
    Phase,
    check,
    in_phase,
    is_confined,
    phase_at,
)

LAYOUT = resolve(Policy.read_default("open-source-code"), Architecture.uniform(6, embedding=9, layer=5, head=9))
TIED = resolve(Policy.read_default("open-source-code"), Architecture.uniform(6, embedding=9, layer=5))
RESERVED = resolve(Policy.read_default("alignment-reserved"), Architecture.uniform(6, embedding=9, layer=5, head=9))
ALL = {"*": 1.0}
FULL = (15,) * 8
SURFACE = (0, 0, 0, 0, 0, 0, 15, 15)
EVERYTHING = Phase("everything", 1.0, {"*": 1.0})
FORMING = Phase("forming", 0.5, ALL, "wait")
REST = Phase("rest", 1.0, {"surface": 1.0, "behavioral": 0.5, "foundational": 0.0})

WEIGHTS = st.floats(0, 1)
PHASES = st.builds(
    Phase,
    st.just("one"),
    st.just(1.0),
    st.fixed_dictionaries({"*": WEIGHTS}, optional={"surface": WEIGHTS, "foundational": WEIGHTS}),
    st.sampled_from(["teach", "wait"]),
)
LEVELS = st.tuples(*[st.integers(-15, 15)] * 8)


@given(LEVELS, PHASES)
def test_never_more_than_before(levels, phase):
    after = in_phase(levels, LAYOUT, phase)
    assert all(new <= old for old, new in zip(levels, after, strict=True))
    assert all(new == old for old, new in zip(levels, after, strict=True) if old <= 0)


@given(LEVELS, PHASES)
def test_a_phase_once_is_a_phase_twice(levels, phase):
    after = in_phase(levels, LAYOUT, phase)
    assert in_phase(after, LAYOUT, phase) == (
        after if phase.confined == "teach" or not is_confined(after, LAYOUT) else tuple(min(a, 0) for a in after)
    )


@given(LEVELS, PHASES, PHASES)
def test_ceilings_of_two_phases_in_any_order(levels, one, other):
    one, other = (Phase(p.name, p.until, p.ceiling) for p in (one, other))
    there = in_phase(in_phase(levels, LAYOUT, one), LAYOUT, other)
    assert there == in_phase(in_phase(levels, LAYOUT, other), LAYOUT, one)


@given(st.sets(st.floats(0.001, 0.999), max_size=6), st.integers(1, 500))
def test_every_step_has_a_phase_and_they_come_in_order(ends, steps):
    phases = [Phase(f"p{i}", end, ALL) for i, end in enumerate([*sorted(ends), 1.0])]
    check(phases, LAYOUT)
    met = [phases.index(phase_at(phases, step, steps)) for step in range(steps + 3)]
    assert met == sorted(met)
    assert met[-1] == len(phases) - 1
    for step, i in enumerate(met[:steps]):
        assert step < phases[i].until * steps
        assert not i or step >= phases[i - 1].until * steps


def test_confined_content_waits_and_then_teaches():
    assert in_phase(SURFACE, LAYOUT, FORMING) == (0,) * 8
    assert in_phase(FULL, LAYOUT, FORMING) == FULL
    assert in_phase(SURFACE, LAYOUT, REST) == SURFACE
    assert in_phase(FULL, LAYOUT, REST) == (0, 0, 7, 7, 7, 7, 15, 15)


def test_unlearning_does_not_wait():
    assert in_phase((0, 0, -5, 0, 0, 0, 9, 0), LAYOUT, FORMING) == (0, 0, -5, 0, 0, 0, 0, 0)


def test_a_tied_block_has_the_lower_ceiling():
    assert in_phase((15,) * 7, TIED, REST)[0] == 0


def test_reserved_blocks_make_nobody_confined():
    closed = tuple(0 if held else 15 for held in RESERVED.reserved)
    assert 0 in closed
    assert not is_confined(closed, RESERVED)
    assert is_confined(SURFACE, RESERVED)


def test_no_curriculum_takes_nothing():
    check([EVERYTHING], LAYOUT)
    assert in_phase(FULL, LAYOUT, phase_at([EVERYTHING], 7, 9)) == FULL


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": ""}, "no name"),
        ({"name": "x" * 65}, "too long"),
        ({"until": 0.0}, "cannot end at 0"),
        ({"until": 1.01}, "cannot end at 1.01"),
        ({"until": math.nan}, "cannot end at nan"),
        ({"until": "1"}, "cannot end"),
        ({"until": True}, "cannot end"),
        ({"ceiling": {"*": 1.1}}, "weight 1.1"),
        ({"ceiling": {"*": -0.1}}, "weight -0.1"),
        ({"ceiling": {"*": math.nan}}, "weight nan"),
        ({"confined": "rest"}, "'rest'"),
    ],
)
def test_a_phase_that_makes_no_sense(changes, said):
    with pytest.raises(CurriculumError, match=said) as caught:
        Phase(**{"name": "one", "until": 1.0, "ceiling": ALL, "confined": "teach", **changes})
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("phases", "said"),
    [
        ([], "not 0"),
        ([Phase(f"p{i}", (i + 1) / 100, ALL) for i in range(PHASES_MAX + 1)], "not 65"),
        ([Phase("a", 0.5, ALL), Phase("a", 1.0, ALL)], "same name"),
        ([Phase("a", 0.5, ALL), Phase("b", 0.9, ALL)], "end at 0.5, 0.9"),
        ([Phase("a", 0.5, ALL), Phase("b", 0.5, ALL), Phase("c", 1.0, ALL)], "end at 0.5, 0.5"),
        ([Phase("a", 1.0, {"attic": 1.0, "*": 0.0})], "names a band attic"),
        ([Phase("a", 1.0, {"surface": 1.0})], "says nothing of the band behavioral"),
    ],
)
def test_phases_that_are_no_curriculum(phases, said):
    with pytest.raises(CurriculumError, match=said) as caught:
        check(phases, LAYOUT)
    assert caught.value.remedy


@pytest.mark.parametrize(("step", "steps"), [(-1, 10), (0, 0)])
def test_a_step_that_is_none(step, steps):
    with pytest.raises(CurriculumError):
        phase_at([EVERYTHING], step, steps)


def test_levels_of_another_model():
    with pytest.raises(CurriculumError):
        in_phase((1,) * 7, LAYOUT, EVERYTHING)
