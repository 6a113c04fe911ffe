"""Hostile data, models and disks: each is refused with a word, and the run can go on or begin anew."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from licet.ledger.errors import ConfigError, FormatError, LicetError
from licet.ledger.records import Determination, ExampleAdmitted, RunStarted, StepTaken
from licet.train.data import tokenizer
from licet.train.data.entropy import EntropyError
from licet.train.gate.errors import UnsupportedError
from licet.train.run import models
from licet.train.run.loop import TrainingStopped
from tests.train import places
from tests.train.homes import MODEL, Place
from tests.train.test_resume import Trainer


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return places.fresh(tmp_path)


def broken(place: Place, **changes: Any) -> LicetError:
    """How a run is refused."""
    with pytest.raises(LicetError) as found:
        places.train(place, place.run_file(**changes))
    assert found.value.remedy
    return found.value


# -- data


def test_a_broken_line_is_named_and_a_mended_one_goes_on(place: Place) -> None:
    rows = place.folder / "rows.jsonl"
    whole = rows.read_text()
    rows.write_text(whole + '{"text": "cut of\n')
    error = broken(place)
    assert isinstance(error, FormatError) and "Line 14" in error.message
    assert len(places.entries(place)) == 1
    rows.write_text(whole)
    places.train(place, place.run_file())


def test_a_broken_line_leaves_an_earlier_run_able_to_go_on(tmp_path: Path) -> None:
    place = places.trained(tmp_path)
    rows = place.folder / "rows.jsonl"
    whole = rows.read_text()
    rows.write_text(whole + "{\n")
    with pytest.raises(FormatError):
        places.train(place, place.run_file("other"))
    rows.write_text(whole)
    assert json.loads(places.train(place, place.run_file(), "--json"))["taken"] == 0


def test_a_row_that_says_nothing_is_recorded_as_rejected(place: Place) -> None:
    places.train(place, place.run_file(schedule={"steps": 1}))
    rejected = [
        one
        for one in places.entries(place)
        if isinstance(one, ExampleAdmitted) and one.determination is Determination.REJECTED
    ]
    assert len(rejected) == 1 and rejected[0].profile is None
    assert {"attestation.missing", "metadata.slope-missing"} <= set(rejected[0].reasons)


@pytest.mark.parametrize(
    ("table", "told"),
    [({"body": ["a"]}, "has no column 'text'"), ({"text": [1]}, "holds int64"), ({"text": [None, "a"]}, "is null")],
)
def test_a_table_of_another_schema_is_refused(place: Place, table: dict[str, list[Any]], told: str) -> None:
    pq.write_table(pa.table(table), place.folder / "rows.parquet")
    assert told in broken(place, data=[{"path": "rows.parquet"}]).message


def test_a_table_that_was_cut_off_or_is_missing_is_refused(place: Place) -> None:
    pq.write_table(pa.table({"text": ["a"] * 50}), place.folder / "rows.parquet")
    raw = (place.folder / "rows.parquet").read_bytes()
    (place.folder / "rows.parquet").write_bytes(raw[:-20])
    broken(place, data=[{"path": "rows.parquet"}])
    broken(place, data=[{"path": "nowhere.jsonl"}])
    (place.folder / "empty.jsonl").write_text("")
    broken(place, data=[{"path": "empty.jsonl"}])


@pytest.mark.parametrize("metadata", [{"slop": 0}, {"slope": "deep"}, {"scope": 3}, {"attestation": "no such"}])
def test_defaults_that_no_row_can_have_are_refused(place: Place, metadata: dict[str, Any]) -> None:
    broken(place, data=[{"path": "rows.jsonl", "metadata": metadata}])
    assert len(places.entries(place)) == 1


# -- models


def base(place: Place, config: dict[str, Any], damage: Any = None) -> dict[str, Any]:
    """A model from elsewhere, with its tokenizer."""
    model = models.from_config(config, 259, 1)
    if damage is not None:
        with torch.no_grad():
            damage(model)
    model.save_pretrained(place.folder / "base")  # type: ignore[operator]
    tokenizer.train(iter(()), 259, "bytes").save_pretrained(place.folder / "base")
    return {"model": {"base": "base"}, "tokenizer": None, "entropy": "compression"}


def test_a_layer_that_the_gate_has_no_rule_for_is_named_before_the_first_step(place: Place) -> None:
    mamba = {"model_type": "mamba", "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4}
    error = broken(place, **base(place, mamba))
    assert isinstance(error, UnsupportedError)
    assert "backbone.layers.0.mixer" in error.message
    assert not any(isinstance(one, StepTaken) for one in places.entries(place))


def _spoiled(model: Any) -> None:
    model.model.layers[1].mlp.up_proj.weight[0, 0] = float("nan")


def test_a_loss_that_is_no_number_ends_the_run_before_it_reaches_the_model(place: Place) -> None:
    changes = base(place, MODEL, _spoiled)
    for _ in range(2):  # and again when it is taken up
        error = broken(place, **changes)
        assert isinstance(error, TrainingStopped) and error.exit_code == 1
        assert "step 0" in error.message and "rows.jsonl line" in error.message
    assert sum(isinstance(one, RunStarted) for one in places.entries(place)) == 1
    assert not any(isinstance(one, StepTaken) for one in places.entries(place))
    assert not list((place.home.path / "models/tiny").glob("run-*"))


def test_a_model_that_gives_no_finite_probability_measures_nothing(place: Place) -> None:
    assert isinstance(broken(place, **{**base(place, MODEL, _spoiled), "entropy": "model"}), EntropyError)
    assert len(places.entries(place)) == 1


def test_a_run_that_overflows_stops_and_keeps_its_seals(place: Place) -> None:
    wild = {"kind": "sgd", "learning_rate": 100.0, "clip_norm": 1e9}
    for _ in range(2):
        error = broken(place, optimizer=wild, checkpoints={"every": 1})
        assert "not finite" in error.message or "not a finite number" in error.message
        assert "Lower the learning rate" in error.remedy
    taken = [one.step for one in places.entries(place) if isinstance(one, StepTaken)]
    assert taken == list(range(len(taken)))
    assert len(list((place.home.path / "models/tiny").glob("run-*"))) == len(taken)
    for label in sorted((place.home.path / "models/tiny").iterdir()):
        assert all(bool(torch.isfinite(value).all()) for value in places.weights(place, label.name).values())


def test_an_order_of_phases_that_names_no_band_is_refused(place: Place) -> None:
    phases = [{"name": "a", "until": 0.5}, {"name": "b", "until": 1.0, "ceiling": {"nowhere": 0.0}}]
    assert isinstance(broken(place, phase=phases), ConfigError)
    assert len(places.entries(place)) == 1


# -- disks


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, which can be filled."""
    where = tmp_path / "disk"
    where.mkdir()
    told = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", where], capture_output=True, check=False)
    if told.returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield where
    finally:
        subprocess.run(["umount", "-l", where], check=False)


def fill(disk: Path, left_bytes: int) -> None:
    """Leave so much space."""
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    with (disk / "ballast").open("ab") as file:
        file.write(bytes(max(free - left_bytes, 0)))


LEFT = {
    "for no entry": 0,
    "for no lesson": 60_000,
    "for no tokenizer": 120_000,
    "for no seal": 260_000,
    "for no state": 700_000,
}


@pytest.mark.parametrize("left", LEFT)
def test_a_full_disk_is_said_and_a_run_goes_on_once_there_is_room(small_disk: Path, left: str) -> None:
    place = places.fresh(small_disk)
    file = place.run_file()
    fill(small_disk, LEFT[left])
    with pytest.raises(LicetError) as found:
        places.train(place, file)
    assert found.value.exit_code == 2
    (small_disk / "ballast").unlink()
    places.train(place, file)
    _as_on_a_large_disk(place)


@pytest.mark.torture
def test_a_disk_that_fills_up_while_steps_are_recorded(small_disk: Path) -> None:
    place = places.fresh(small_disk)
    changes = {"schedule": {"steps": 6, "batch": 4}, "checkpoints": {"every": 2}}
    trainer = Trainer(place, place.run_file(**changes))
    metrics = place.home.path / "runs/run/metrics.jsonl"
    until = time.monotonic() + 60
    while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < until:
        time.sleep(0.001)
    assert trainer.process.pid is not None
    os.kill(trainer.process.pid, signal.SIGSTOP)
    fill(small_disk, 0)
    os.kill(trainer.process.pid, signal.SIGCONT)
    code, _ = trainer.ended()
    assert code in (0, 2)  # 0 if it was done before there was no room
    (small_disk / "ballast").unlink()
    places.train(place, place.run_file(**changes))
    _as_on_a_large_disk(place)


def _as_on_a_large_disk(place: Place) -> None:
    found = places.weights(place, "run-00000006")
    usual = models.from_config(MODEL, 259, 3).state_dict()
    assert found.keys() == usual.keys() and any(not torch.equal(found[name], usual[name]) for name in found)
    taken = [one.step for one in places.entries(place, "run") if isinstance(one, StepTaken)]
    assert taken == list(range(6))
    assert not [file for file in place.home.path.rglob("*.tmp") if "runs" in file.parts or "models" in file.parts]
