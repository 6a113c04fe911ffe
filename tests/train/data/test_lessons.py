"""The table of lessons: kept whole, read back as it was, and believed as far as the log says the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from licet.ledger.errors import FormatError, MissingFileError, VerificationError
from licet.ledger.norms import LEVELS
from licet.ledger.reader import LogReader
from licet.ledger.records import Determination, ExampleAdmitted, RunStarted
from licet.train.data.lessons import Lesson, Lessons
from tests.train import places
from tests.train.homes import Place


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    made = places.trained(tmp_path_factory.mktemp("lessons"))
    places.train(made, made.run_file("seen", stage="observe", schedule={"steps": 1, "batch": 2}))
    return made


def kept(place: Place, run: str = "run") -> Lessons:
    return Lessons.load(place.home.path / "runs" / run / "lessons.arrow")


def entry(log: LogReader, run: str) -> int:
    return next(index for index, started in log.all_of(RunStarted) if started.run == run)


def changed(lessons: Lessons, **to: Any) -> Lessons:
    return Lessons([replace(lessons[0], **to), *lessons.all[1:]])


def test_what_was_kept_is_what_the_log_says(place: Place) -> None:
    lessons = kept(place)
    assert len(lessons) == 12 and lessons.samples == sum(lesson.samples for lesson in lessons.all)
    with places.training_log(place) as log:
        lessons.check(log, entry(log, "run"))
        kept(place, "seen").check(log, entry(log, "seen"))


def test_samples_belong_to_their_lessons() -> None:
    lessons = Lessons([_lesson(0, 2), _lesson(2, 0), _lesson(2, 3)])
    assert lessons.of_sample.tolist() == [0, 0, 2, 2, 2]
    with pytest.raises(FormatError, match="do not follow one another"):
        Lessons([_lesson(0, 2), _lesson(3, 1)])


def test_a_table_is_read_as_it_was_kept(tmp_path: Path) -> None:
    lessons = Lessons([_lesson(0, 2), _lesson(2, 1, rights=frozenset({"align", "revoke"}), levels=(-3, LEVELS))])
    lessons.save(tmp_path / "t")
    assert Lessons.load(tmp_path / "t").all == lessons.all
    assert [file.name for file in tmp_path.iterdir()] == ["t"]


@pytest.mark.parametrize(
    "to",
    [
        {"levels": (LEVELS,) * 6},
        {"rules": ("mine",) * 6},
        {"entropy_band": "low"},
        {"attestation": 1},
        {"example": 0},
        {"example": -1},
        {"example": 1 << 40},
        {"profile": 2},
        {"profile": 10**9},
    ],
)
def test_a_lesson_that_says_more_than_the_log_is_refused(place: Place, to: dict[str, Any]) -> None:
    with places.training_log(place) as log, pytest.raises(VerificationError, match="is not what the log says") as found:
        changed(kept(place), **to).check(log, entry(log, "run"))
    assert "put to the gate again" in found.value.remedy


def test_a_profile_of_another_run_or_example_is_refused(place: Place) -> None:
    lessons = kept(place)
    ada, bob = lessons[0], lessons[6]
    assert ada.levels != bob.levels
    with places.training_log(place) as log:
        with pytest.raises(VerificationError):
            changed(lessons, profile=bob.profile, levels=bob.levels, rules=bob.rules).check(log, entry(log, "run"))
        with pytest.raises(VerificationError):
            lessons.check(log, entry(log, "seen"))


def test_a_rejected_row_is_a_lesson_only_where_a_run_observes(place: Place) -> None:
    lessons = kept(place)
    with places.training_log(place) as log:
        rejected = next(i for i, one in log.all_of(ExampleAdmitted) if one.determination is Determination.REJECTED)
        with pytest.raises(VerificationError):
            changed(lessons, example=rejected).check(log, entry(log, "run"))
        observed = kept(place, "seen")
        assert len(observed) == 13 and {lesson.levels for lesson in observed.all} == {(LEVELS,) * 6}
        with pytest.raises(VerificationError):
            changed(observed, levels=lessons[0].levels, rules=lessons[0].rules, profile=lessons[0].profile).check(
                log, entry(log, "seen")
            )


@pytest.mark.parametrize(
    "damage", [lambda raw: b"", lambda raw: raw[:-9], lambda raw: raw[: len(raw) // 2], lambda raw: b"x" * 99]
)
def test_a_damaged_table_is_refused(place: Place, tmp_path: Path, damage: Any) -> None:
    (tmp_path / "t").write_bytes(damage((place.home.path / "runs/run/lessons.arrow").read_bytes()))
    with pytest.raises(FormatError) as found:
        Lessons.load(tmp_path / "t")
    assert "--fresh" in found.value.remedy


def test_a_table_that_is_gone_is_missed(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError):
        Lessons.load(tmp_path / "t")


def _lesson(first: int, samples: int, **to: Any) -> Lesson:
    said: dict[str, Any] = {
        "levels": (LEVELS, 0), "rules": ("gate", "spdx"), "rights": frozenset(), "permitted": frozenset({"surface"}),
        **to,
    }  # fmt: skip
    return Lesson(
        example=7, attestation=3, profile=4, verbatim=False, entropy_band="low", name="l", first=first, samples=samples,
        **said,
    )  # fmt: skip
