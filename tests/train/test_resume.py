"""Runs that are killed, stopped, or go on beside something that changed: the real command, in processes of its own."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch

from licet.ledger.errors import ConfigError, FormatError, LockedError, NotFoundError, VerificationError
from licet.ledger.records import CheckpointSealed, ExampleAdmitted, RunStarted, StepTaken
from licet.train.seals.statement import SealError
from tests.train import places
from tests.train.homes import Place

SCHEDULE = {"steps": 8, "batch": 4}
LAST = "run-00000008"
WAIT_S = 60.0

_processes = multiprocessing.get_context("forkserver")  # with torch loaded once; each command is then forked off it
_processes.set_forkserver_preload([
    "tests.train.test_resume", "licet.ledger.kernels", "licet.train.cli.train", "licet.train.run.session",
    "transformers.models.auto.modeling_auto", "transformers.models.llama.modeling_llama", "tokenizers",
    "numba.np.linalg", "numba.np.polynomial", "numba.np.random.new_arrayobj", "numba.cpython.charseq",
])  # fmt: skip


def _command(arguments: list[str], told: str) -> None:
    """The command as the shell runs it, from its entry point."""
    from licet.ledger.app import main

    torch.set_num_threads(1)
    with open(told, "a", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        sys.argv = ["licet", *arguments]
        main()


class Trainer:
    """`licet train` in a process."""

    def __init__(self, place: Place, file: Path, *options: str) -> None:
        self._told = place.folder / "told.txt"
        arguments = ["train", str(file), "--home", str(place.home.path), *options]
        self.process: BaseProcess = _processes.Process(target=_command, args=(arguments, str(self._told)))
        self.process.start()

    def ended(self) -> tuple[int | None, str]:
        self.process.join(WAIT_S)
        return self.process.exitcode, self._told.read_text()

    def signal_when(self, seen: Callable[[], bool], number: signal.Signals) -> int | None:
        """Send a signal as soon as something is to be seen; how the process ended."""
        until = time.monotonic() + WAIT_S
        while not seen() and self.process.is_alive() and time.monotonic() < until:
            time.sleep(0.001)
        assert self.process.pid is not None
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, number)
        return self.ended()[0]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A run that nobody disturbed."""
    place = places.fresh(tmp_path_factory.mktemp("whole"))
    places.train(place, _file(place))
    return place


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return places.trained(tmp_path_factory.mktemp("trained")).folder


def _file(place: Place) -> Path:
    return place.run_file(schedule=SCHEDULE, checkpoints={"every": 3})


def _steps(place: Place) -> int:
    metrics = place.home.path / "runs" / "run" / "metrics.jsonl"
    return metrics.read_bytes().count(b"tokens_per_s") if metrics.exists() else 0


def _seals(place: Place, pattern: str) -> bool:
    return any((place.home.path / "models").glob(f"*/{pattern}"))


KILLED: dict[str, Callable[[Place], bool]] = {
    "while rows are admitted": lambda place: any((place.home.path / "content").rglob("?" * 64)),
    "while samples are made": lambda place: any((place.home.path / "runs").glob("run/*okens*")),
    "in the first step": lambda place: (place.home.path / "runs/run/metrics.jsonl").exists(),
    "in a later step": lambda place: _steps(place) >= 2,
    "while weights are sealed": lambda place: _seals(place, ".run*"),
    "behind the weights": lambda place: _seals(place, "run-00000003"),
    "while the state is kept": lambda place: any((place.home.path / "runs/run").glob("state/state-*.safetensors")),
    "behind a seal": lambda place: _steps(place) >= 5,
    "before the end": lambda place: _seals(place, ".run-00000008*"),
}


if os.environ.get("LICET_TORTURE") != "full":
    for moment in ("in the first step", "in a later step", "behind the weights", "behind a seal", "before the end"):
        del KILLED[moment]


def _same(place: Place, whole: Place) -> None:
    """Whether two runs came to the same, to the bit, and say the same."""
    ours, theirs = places.weights(place, LAST), places.weights(whole, LAST)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert places.state_file(place) == places.state_file(whole)
    assert places.entries(place, "run") == places.entries(whole, "run")


@pytest.mark.torture
@pytest.mark.parametrize("moment", KILLED)
def test_a_run_that_was_killed_comes_to_the_same_end(moment: str, whole: Place, tmp_path: Path) -> None:
    place = places.fresh(tmp_path)
    file = _file(place)
    ended = Trainer(place, file).signal_when(lambda: KILLED[moment](place), signal.SIGKILL)
    assert ended in (-signal.SIGKILL, 0)  # 0 if the machine was quicker than the hand
    code, told = Trainer(place, file).ended()
    assert code == 0, told
    _same(place, whole)


@pytest.mark.torture
def test_a_run_that_is_killed_again_and_again_comes_to_the_same_end(whole: Place, tmp_path: Path) -> None:
    place = places.fresh(tmp_path)
    file, killed = _file(place), 0
    for _ in range(3):
        steps = _steps(place)
        if Trainer(place, file).signal_when(lambda so_far=steps: _steps(place) >= so_far + 2, signal.SIGKILL) == 0:
            break
        killed += 1
    assert killed
    assert Trainer(place, file).ended()[0] == 0
    _same(place, whole)
    admitted = [record.example for record in places.entries(place, "run") if isinstance(record, ExampleAdmitted)]
    assert len(set(admitted)) == len(admitted) == 13
    taken = [record.step for record in places.entries(place, "run") if isinstance(record, StepTaken)]
    assert taken == list(range(8))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_is_asked_to_stop_seals_and_goes_on_later(
    number: signal.Signals, code: int, whole: Place, tmp_path: Path
) -> None:
    place = places.fresh(tmp_path)
    file = _file(place)
    asked = Trainer(place, file)
    assert asked.signal_when(lambda: _steps(place) >= 1, number) == code
    told = asked.ended()[1]
    assert "Stopping after this step" in told and "The same command goes on from there." in told
    sealed = [r.step for r in places.entries(place, "run") if isinstance(r, CheckpointSealed)]
    taken = [r.step for r in places.entries(place, "run") if isinstance(r, StepTaken)]
    assert sealed[-1] == len(taken) < 8
    assert Trainer(place, file).ended()[0] == 0
    ours, theirs = places.weights(place, LAST), places.weights(whole, LAST)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    without_seals = [
        [r for r in places.entries(p, "run") if not isinstance(r, CheckpointSealed)] for p in (place, whole)
    ]
    assert without_seals[0] == without_seals[1]


@pytest.mark.slow
def test_the_installed_command_can_be_killed_too(whole: Place, tmp_path: Path) -> None:
    place = places.fresh(tmp_path)
    file = _file(place)
    command = [Path(sys.executable).with_name("licet"), "train", file, "--home", place.home.path]
    with (tmp_path / "told.txt").open("wb") as told:
        process = subprocess.Popen(command, stdout=told, stderr=told, env={**os.environ, "OMP_NUM_THREADS": "1"})
        until = time.monotonic() + WAIT_S
        while _steps(place) < 2 and process.poll() is None and time.monotonic() < until:
            time.sleep(0.001)
        process.kill()
        assert process.wait() in (-signal.SIGKILL, 0)
    places.train(place, file)
    _same(place, whole)


# -- what lies in the way


@pytest.fixture
def place(trained: Path, tmp_path: Path) -> Iterator[Place]:
    """A run of six steps that is done, and can be tampered with."""
    yield places.copied(trained, tmp_path)


def _longer(place: Place) -> Path:
    return place.run_file(schedule={"steps": 7, "batch": 4})


def test_a_run_that_is_done_has_nothing_left_to_do(place: Place) -> None:
    before = places.entries(place)
    told = json.loads(places.train(place, place.run_file(), "--json"))
    assert told["finished"] and told["steps"] == told["steps_planned"] == 6
    assert told["taken"] == 0
    assert "was trained already" in places.train(place, place.run_file())
    assert places.entries(place) == before


def test_another_run_file_under_the_same_name_is_refused(place: Place) -> None:
    with pytest.raises(ConfigError, match="begun with another run file") as refused:
        places.train(place, _longer(place))
    assert "--fresh" in refused.value.remedy


def test_a_fresh_run_begins_anew_and_leaves_the_old_seals(place: Place) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in (place.home.path / "models/tiny").iterdir()}
    told = json.loads(places.train(place, place.run_file(), "--fresh", "--json"))
    assert told["finished"] and Path(told["directory"]).name not in before
    after = {path.name: path.stat().st_mtime_ns for path in (place.home.path / "models/tiny").iterdir()}
    assert before.items() <= after.items() and len(after) == 6
    old, new = places.weights(place, "run-00000006"), places.weights(place, Path(told["directory"]).name)
    assert all(torch.equal(old[name], new[name]) for name in old)
    assert sum(isinstance(record, RunStarted) for record in places.entries(place)) == 2
    place.licet("seal", "verify", told["directory"])


def test_a_run_cannot_go_on_behind_another(place: Place) -> None:
    places.train(place, place.run_file("other", schedule={"steps": 1, "batch": 2}))
    with pytest.raises(ConfigError, match="Another run was begun after run"):
        places.train(place, place.run_file())


def test_a_log_that_another_process_holds_is_named_with_its_holder(place: Place) -> None:
    with place.home.open_log("training"), pytest.raises(LockedError, match="being written to by") as refused:
        places.train(place, place.run_file())
    assert refused.value.pid == os.getpid()


def test_a_seal_that_was_deleted_is_missed(place: Place) -> None:
    shutil.rmtree(place.home.path / "models/tiny/run-00000006")
    with pytest.raises(NotFoundError, match="would go on from is not in"):
        places.train(place, place.run_file())


def test_all_seals_deleted_are_missed(place: Place) -> None:
    shutil.rmtree(place.home.path / "models")
    with pytest.raises(NotFoundError, match="would go on from is not in"):
        places.train(place, place.run_file())


def test_a_damaged_older_seal_does_not_hide_the_last(place: Place) -> None:
    (place.home.path / "models/tiny/run-00000002/seal.json").write_bytes(b"")
    with pytest.raises(SealError, match="was not found"):
        places.train(place, place.run_file())


def test_altered_weights_are_refused(place: Place) -> None:
    file = place.home.path / "models/tiny/run-00000006/model.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)
    with pytest.raises(SealError, match="was changed after it was sealed"):
        places.train(place, place.run_file())


@pytest.mark.parametrize("name", ["lessons.arrow", "tokens/tokens", "tokens/samples", "tokenizer/tokenizer.json"])
def test_what_a_run_keeps_is_not_to_be_altered(place: Place, name: str) -> None:
    file = place.home.path / "runs/run" / name
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.write_bytes(raw)
    with pytest.raises(VerificationError, match="is not what was kept"):
        places.train(place, place.run_file())


def test_a_beginning_that_is_damaged_is_refused(place: Place) -> None:
    (place.home.path / "runs/run/run.json").write_bytes(b"{}")
    with pytest.raises(FormatError, match="is damaged") as refused:
        places.train(place, place.run_file())
    assert "--fresh" in refused.value.remedy
    places.train(place, place.run_file(), "--fresh")
