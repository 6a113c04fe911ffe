"""What a run writes: its events as they were, each profile once, and nothing again that came out otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from licet.ledger import norms
from licet.ledger.errors import VerificationError
from licet.ledger.log import Ledger
from licet.ledger.records import GradientApplied, MemorizationFlagged, ProfileDeclared, Ref, RunStarted, StepTaken
from licet.train.data.lessons import Lessons
from licet.train.run.recorder import NORM_DRIFT_MAX, Recorder, Taught, events_of_steps
from licet.train.step_report import StepReport
from tests.train import places
from tests.train.homes import Place

BLOCKS = ("embedding", "layer.0", "layer.1", "layer.2", "layer.3", "head")
STILL = StepReport(BLOCKS, (True,) * 6, (1.0,) * 6, (1.0,) * 6, (0.5,) * 6, ())


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return places.trained(tmp_path)


@pytest.fixture
def ledger(place: Place) -> Iterator[Ledger]:
    with place.home.open_log("training") as log:
        yield log


@pytest.fixture
def lessons(place: Place) -> Lessons:
    return Lessons.load(place.home.path / "runs/run/lessons.arrow")


def begun(ledger: Ledger) -> int:
    (index, _) = next(iter(ledger.all_of(RunStarted)))
    return index


def taught(lessons: Lessons, step: int = 6, **to: Any) -> Taught:
    """Two slots: Ada's first example and Bob's."""
    rows = np.array([0, 6])
    known: dict[str, Any] = {
        "step": step, "lessons": rows, "profiles": np.array([lessons[0].profile, lessons[6].profile]),
        "epochs": np.array([1, 2]), "microbatches": np.array([0, 0]), "slots": np.array([0, 1]),
        "norms": np.array([[0.5] * 6, [0, 0, 0, 0, 0.25, 2.0]]), "learning_rate": 0.1, "loss": 2.5, "report": STILL,
    }  # fmt: skip
    return Taught(**{**known, **to})


def again(ledger: Ledger, lessons: Lessons, done: Taught) -> None:
    """Take a recorded step again, as a run does that goes on from an earlier seal."""
    recorder = Recorder(ledger, begun(ledger), lessons, from_step=6)
    try:
        assert recorder.replays(6)
        recorder.step(done)
        recorder.flush()
    finally:
        recorder.close()


@pytest.fixture
def recorded(ledger: Ledger, lessons: Lessons) -> Taught:
    done = taught(lessons)
    recorder = Recorder(ledger, begun(ledger), lessons, from_step=6)
    assert not recorder.replays(6)
    recorder.step(done, [MemorizationFlagged(Ref(lessons[0].example), 6, (1, 2), 5.0, 4.0, "above/exclude")])
    recorder.flush()
    recorder.close()
    return done


def test_a_step_is_recorded_as_it_was(ledger: Ledger, lessons: Lessons, recorded: Taught) -> None:
    first, second, taken, flag = (ledger.record(i) for i in range(ledger.size - 4, ledger.size))
    assert isinstance(first, GradientApplied) and isinstance(second, GradientApplied)
    assert (first.example, first.attestation, first.profile) == (
        lessons[0].example, lessons[0].attestation, lessons[0].profile,
    )  # fmt: skip
    assert (second.step, second.slot, second.epoch, second.example) == (6, 1, 2, lessons[6].example)
    assert [norms.decode(code) for code in second.norms] == pytest.approx([0.25, 2.0], rel=1e-3)
    assert isinstance(taken, StepTaken)
    assert (taken.run, taken.step, taken.events, taken.loss, taken.delta_norms) == (
        begun(ledger),
        6,
        2,
        2.5,
        (0.5,) * 6,
    )
    assert isinstance(flag, MemorizationFlagged) and flag.example == lessons[0].example


def test_a_loss_that_no_slot_had_is_none(ledger: Ledger, lessons: Lessons) -> None:
    recorder = Recorder(ledger, begun(ledger), lessons, from_step=6)
    recorder.step(taught(lessons, loss=float("nan")))
    recorder.flush()
    recorder.close()
    taken = ledger.record(ledger.size - 1)
    assert isinstance(taken, StepTaken) and taken.loss is None


def test_a_profile_is_declared_once(ledger: Ledger, lessons: Lessons) -> None:
    recorder = Recorder(ledger, begun(ledger), lessons, from_step=6)
    new = ((1, 2, 3, 4, 5, 6), ("phase/a",) * 6)
    index = recorder.profile(*new)
    assert recorder.profile(*new) == index
    assert recorder.profile(lessons[0].levels, lessons[0].rules) == lessons[0].profile
    recorder.close()
    later = Recorder(ledger, begun(ledger), lessons, from_step=6)
    assert later.profile(*new) == index
    later.close()
    assert sum(declared.levels == new[0] for _, declared in ledger.all_of(ProfileDeclared)) == 1


def test_a_step_that_comes_out_the_same_is_not_written_twice(
    ledger: Ledger, lessons: Lessons, recorded: Taught
) -> None:
    size = ledger.size
    again(ledger, lessons, recorded)
    near = np.where(recorded.norms > 0, recorded.norms * (1 + NORM_DRIFT_MAX / 2), 0)
    again(ledger, lessons, replace(recorded, norms=near))
    assert ledger.size == size


@pytest.mark.parametrize("what", ["norm", "lessons", "slots", "profiles", "epochs", "microbatches", "fewer"])
def test_a_step_that_comes_out_otherwise_is_refused(
    ledger: Ledger, lessons: Lessons, recorded: Taught, what: str
) -> None:
    other = {
        "norm": {"norms": recorded.norms * 1.05},
        "lessons": {"lessons": np.array([1, 6])},
        "slots": {"slots": np.array([0, 2])},
        "profiles": {"profiles": np.array([lessons[0].profile] * 2), "norms": np.full((2, 6), 0.5)},
        "epochs": {"epochs": np.array([1, 3])},
        "microbatches": {"microbatches": np.array([0, 1]), "slots": np.array([0, 0])},
        "fewer": {
            name: getattr(recorded, name)[:1]
            for name in ("lessons", "profiles", "epochs", "microbatches", "slots", "norms")
        },
    }[what]
    size = ledger.size
    with pytest.raises(VerificationError, match="Step 6 was recorded already") as found:
        again(ledger, lessons, replace(recorded, **other))
    assert "[model] base" in found.value.remedy and ledger.size == size


def test_events_are_found_by_step_from_a_seal_on(ledger: Ledger, lessons: Lessons, recorded: Taught) -> None:
    found = events_of_steps(ledger, begun(ledger), 4)
    assert {step: len(events) for step, events in found.items()} == {4: 4, 5: 4, 6: 2}
