"""Which sample stands where, and how large a step is."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from licet.ledger.errors import ConfigError
from licet.train.run.file import SchedulePart
from licet.train.run.schedule import Schedule


def schedule(samples: int, seed: int = 0, **said: object) -> Schedule:
    return Schedule(SchedulePart.model_validate({"steps": 10, "batch": 4, **said}), samples, seed)


@given(
    samples=st.integers(1, 40),
    batch=st.integers(1, 24),
    seed=st.integers(0, 2**63 - 1),
    steps=st.integers(1, 30),
)
def test_every_sample_comes_once_an_epoch(samples: int, batch: int, seed: int, steps: int) -> None:
    made = schedule(samples, seed, steps=steps, batch=batch)
    drawn = [made.draw(step) for step in range(steps)]
    order = np.concatenate([draw.samples.reshape(-1) for draw in drawn])
    epochs = np.concatenate([draw.epochs.reshape(-1) for draw in drawn])
    assert (np.diff(epochs) >= 0).all()
    for epoch in range(len(order) // samples):
        assert sorted(order[epochs == epoch].tolist()) == list(range(samples))
    last = order[epochs == epochs[-1]]
    assert len(set(last.tolist())) == len(last)


@given(samples=st.integers(1, 30), step=st.integers(0, 9))
def test_a_step_can_be_drawn_without_those_before_it(samples: int, step: int) -> None:
    walked = schedule(samples)
    for before in range(step):
        walked.draw(before)
    there, anew = walked.draw(step), schedule(samples).draw(step)
    assert np.array_equal(there.samples, anew.samples) and np.array_equal(there.epochs, anew.epochs)


def test_an_epoch_that_ends_within_a_step_is_followed_by_the_next() -> None:
    draw = schedule(3, batch=8).draw(0)
    assert draw.epochs.tolist() == [[0, 0, 0, 1, 1, 1, 2, 2]]


def test_another_seed_and_another_epoch_are_another_order() -> None:
    orders = {tuple(schedule(50, seed, batch=50).draw(step).samples[0].tolist()) for seed in (0, 1) for step in (0, 1)}
    assert len(orders) == 4


def test_microbatches_are_rows() -> None:
    whole, parts = schedule(20, batch=8).draw(1), schedule(20, batch=8, accumulate=4).draw(1)
    assert parts.samples.shape == (4, 2)
    assert np.array_equal(parts.samples.reshape(-1), whole.samples.reshape(-1))


@pytest.mark.parametrize(("epochs", "steps"), [(1, 5), (2, 10), (0.5, 3), (0.01, 1)])
def test_epochs_are_counted_in_steps(epochs: float, steps: int) -> None:
    assert schedule(20, steps=None, epochs=epochs).steps == steps


@pytest.mark.parametrize("decay", ["cosine", "linear", "constant"])
def test_the_rate_rises_falls_and_stays_above_its_floor(decay: str) -> None:
    made = schedule(5, steps=100, warmup=0.1, decay=decay, floor=0.2)
    rates = [made.learning_rate(step) for step in range(100)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[10] == pytest.approx(1.0)
    assert all(a >= b for a, b in pairwise(rates[10:]))
    assert rates[-1] == pytest.approx(1.0 if decay == "constant" else 0.2, abs=0.02)
    assert min(rates[10:]) >= 0.2


def test_halfway_is_halfway_down() -> None:
    for decay in ("cosine", "linear"):
        assert schedule(5, steps=100, warmup=0.0, decay=decay, floor=0.0).learning_rate(50) == pytest.approx(0.5)


@given(
    steps=st.integers(1, 200),
    warmup=st.floats(0, 0.999),
    floor=st.floats(0, 1),
    decay=st.sampled_from(["cosine", "linear"]),
)
def test_a_rate_is_a_share_of_the_full_one(steps: int, warmup: float, floor: float, decay: str) -> None:
    made = schedule(5, steps=steps, warmup=warmup, floor=floor, decay=decay)
    assert all(0 <= made.learning_rate(step) <= 1 + 1e-12 for step in range(steps))


def test_nothing_to_draw_is_refused() -> None:
    with pytest.raises(ConfigError, match="Nothing that was admitted") as refused:
        schedule(0)
    assert "--dry-run" in refused.value.remedy


def test_more_epochs_than_an_event_can_count_are_refused() -> None:
    schedule(1, steps=1 << 14)
    with pytest.raises(ConfigError, match=r"65,535"):
        schedule(1, steps=(1 << 14) + 1)
