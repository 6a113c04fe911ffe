"""`licet train` under torchrun: two ranks leave the same log as one process, in the same order, and the same model."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from licet.ledger.errors import ConfigError
from licet.ledger.records import GradientApplied, StepTaken
from licet.train.run.ranks import Ranks
from tests.train import places
from tests.train.homes import MODEL, Place

LAST = "run-00000006"
CODES_APART_MAX = 1
"""Norms are kept with ten bits: two that differ by rounding alone are the same code, or neighbours."""
WAIT_S = 240.0
LICET = Path(sys.executable).with_name("licet")


def started(place: Place, file: Path) -> subprocess.Popen[str]:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.Popen(
        [*launch, str(LICET), "train", str(file), "--home", str(place.home.path)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def trained(place: Place, file: Path) -> None:
    with started(place, file) as process:
        _, told = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0, told[-4000:]


def killed_once_sealed(place: Place, file: Path, label: str) -> None:
    """Start a run, and kill all of it as soon as this seal is the one that it would go on from."""
    state = place.home.path / "runs" / "run" / "state" / "state.json"
    until = time.monotonic() + WAIT_S
    with started(place, file) as process:
        try:
            while not (place.home.path / "models" / "tiny" / label).is_dir() or not state.is_file():
                assert process.poll() is None and time.monotonic() < until
                time.sleep(0.01)
        finally:
            for pid in [*_below(process.pid), process.pid]:
                os.kill(pid, signal.SIGKILL)


def _below(pid: int) -> list[int]:
    """The processes that one started, and those that these did."""
    children = [
        int(child) for file in Path(f"/proc/{pid}/task").glob("*/children") for child in file.read_text().split()
    ]
    return [*children, *(one for child in children for one in _below(child))]


def assert_same(place: Place, alone: Place) -> None:
    """The log's entries and the sealed parameters of two homes are the same, up to how sums are rounded."""
    ours, theirs = places.entries(place, "run"), places.entries(alone, "run")
    assert [type(one) for one in ours] == [type(one) for one in theirs]
    events = [[one for one in entries if isinstance(one, GradientApplied)] for entries in (ours, theirs)]
    assert len(events[0]) == 24
    assert [replace(one, norms=()) for one in events[0]] == [replace(one, norms=()) for one in events[1]]
    codes = [np.concatenate([one.norms for one in each]).astype(np.int64) for each in events]
    assert np.abs(codes[0] - codes[1]).max() <= CODES_APART_MAX
    steps = [[one for one in entries if isinstance(one, StepTaken)] for entries in (ours, theirs)]
    assert [one.step for one in steps[0]] == [0, 1, 2, 3, 4, 5]
    assert [(one.step, one.events, one.learning_rate) for one in steps[0]] == [
        (one.step, one.events, one.learning_rate) for one in steps[1]
    ]
    np.testing.assert_allclose(*([one.delta_norms for one in each] for each in steps), rtol=1e-3, atol=1e-9)
    ours, theirs = places.weights(place, LAST), places.weights(alone, LAST)
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=1e-5)
    place.licet("seal", "verify", place.home.path / "models" / "tiny" / LAST)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """The run in one process."""
    return places.trained(tmp_path_factory.mktemp("alone"))


@pytest.mark.slow
def test_two_ranks_with_the_whole_model_each_equal_one_process(tmp_path: Path, alone: Place) -> None:
    place = places.fresh(tmp_path)
    trained(place, place.run_file())
    assert_same(place, alone)


@pytest.mark.slow
def test_two_ranks_with_a_part_of_it_each_that_were_killed_go_on_and_equal_one_process(
    tmp_path: Path, alone: Place
) -> None:
    place = places.fresh(tmp_path)
    file = place.run_file(model={"config": MODEL, "sharded": True})
    killed_once_sealed(place, file, "run-00000002")
    assert not (place.home.path / "models" / "tiny" / LAST).exists(), "it ended before it was killed"
    trained(place, file)
    assert_same(place, alone)


def test_slots_that_cannot_be_divided_are_refused() -> None:
    ranks = Ranks(rank=1, world=4)
    assert ranks.share(8) == slice(2, 4)
    with pytest.raises(ConfigError, match="6 slots cannot be divided among 4 ranks"):
        ranks.check(6)
