"""Sealing as a run goes: whatever a kill leaves, the next time is whole, and nobody else's folder is touched."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from licet.ledger.errors import StorageError
from licet.ledger.records import CheckpointSealed
from licet.train.run import sealing
from licet.train.run.sealing import label_of, told
from licet.train.seals.statement import Role
from licet.train.seals.writer import Checkpoint, Companion, SealWriteError
from tests.train import places
from tests.train.homes import Place


class Killed(BaseException):
    pass


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return places.fresh(tmp_path)


def folders(place: Place) -> list[str]:
    return sorted(path.name for path in (place.home.path / "models/tiny").iterdir())


LABELS = ["run-00000002", "run-00000004", "run-00000006"]


@pytest.mark.parametrize("after", ["write_seal", "save_state"])
def test_a_seal_that_was_cut_off_is_written_anew_or_recorded(
    place: Place, monkeypatch: pytest.MonkeyPatch, after: str
) -> None:
    """Killed between the weights and the state, and between the state and the entry."""
    done = getattr(sealing, after)
    times = 0

    def killed(*arguments: object) -> object:
        nonlocal times
        found = done(*arguments)
        times += 1
        if times == 2:
            raise Killed
        return found

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(sealing, after, killed)
        places.train(place, place.run_file())
    assert folders(place) == LABELS[:2]
    places.train(place, place.run_file())
    assert folders(place) == LABELS
    sealed = [one.label for one in places.entries(place) if isinstance(one, CheckpointSealed)]
    assert sealed == LABELS
    for label in LABELS:
        place.licet("seal", "verify", place.home.path / "models/tiny" / label)


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    other, place = places.fresh(tmp_path / "other"), places.fresh(tmp_path / "own")
    for name in ("first", "run"):
        places.train(other, other.run_file(name, schedule={"steps": 2, "batch": 2}))
    where = place.home.path / "models/tiny/run-00000002"
    shutil.copytree(other.home.path / "models/tiny/run-00000002", where)
    before = {file.name: file.read_bytes() for file in where.iterdir()}
    with pytest.raises(SealWriteError, match="already exists"):
        places.train(place, place.run_file())
    assert {file.name: file.read_bytes() for file in where.iterdir()} == before


def test_each_beginning_has_seals_of_its_own(place: Place) -> None:
    for _ in range(3):
        told_of = json.loads(
            places.train(place, place.run_file(schedule={"steps": 2, "batch": 2}), "--fresh", "--json")
        )
        place.licet("seal", "verify", told_of["directory"])
    assert len(set(folders(place))) == 3 and folders(place)[-1] != folders(place)[0]
    assert label_of("run", 2) in folders(place)


def test_whatever_a_companion_raises_is_said() -> None:
    def full(_: Path) -> None:
        raise Exception("No space left on device (os error 28)")

    (companion,) = told(Checkpoint({}, {}, {}, (Companion(Role.TOKENIZER, full),))).companions
    with pytest.raises(StorageError, match="The tokenizer files could not be written: No space") as found:
        companion.save(Path())
    assert found.value.remedy
