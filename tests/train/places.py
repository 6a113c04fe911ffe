"""Copies of one home to train in, and what runs leave there, in a form in which two of them can be compared."""

from __future__ import annotations

import atexit
import contextlib
import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from licet.ledger.home import Home
from licet.ledger.reader import LogReader
from licet.ledger.records import GradientApplied, Record, RunStarted
from tests.train.homes import Place, make

_OTHER_EACH_TIME = {
    "claimed_ms": 0,
    "commitment": bytes(32),
    "seal": bytes(32),
    "parent": None,
    "parent_seal": None,
    "log_root": bytes(32),
}
"""Times, salted commitments, and digests of what holds a time."""
_REFERENCES = ("run", "policy", "example", "attestation", "profile", "log_size")


@cache
def _template() -> Path:
    return make(_new()).folder


@cache
def _trained() -> Path:
    place = copied(_template(), _new() / "trained")
    train(place, place.run_file())
    return place.folder


def fresh(folder: Path) -> Place:
    """A home with rows in which nothing was trained."""
    return copied(_template(), folder)


def trained(folder: Path) -> Place:
    """The same after the run `run`: six steps, three seals."""
    return copied(_trained(), folder)


def copied(source: Path, folder: Path) -> Place:
    shutil.copytree(source, folder, dirs_exist_ok=True)
    return Place(Home(folder / "home"), folder)


def train(place: Place, file: Path, *options: object) -> str:
    """Run the command in this process; what it wrote on stdout."""
    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(io.StringIO()):
        place.licet("train", file, *options)
    return told.getvalue()


@contextmanager
def training_log(place: Place) -> Iterator[LogReader]:
    with LogReader.open(place.home.log("training")) as log:
        yield log


def entries(place: Place, run: str | None = None) -> list[Record]:
    """What the training log says, less what is another each time; of a run, from where it was begun last."""
    with training_log(place) as log:
        all_of_it = [log.record(index) for index in range(log.size)]
    starts = [i for i, record in enumerate(all_of_it) if isinstance(record, RunStarted) and record.run == run]
    first = starts[-1] if run is not None else 0
    return [_steady(record, first) for record in all_of_it[first:]]


def events(place: Place) -> list[GradientApplied]:
    return [record for record in entries(place) if isinstance(record, GradientApplied)]


def weights(place: Place, label: str, model: str = "tiny") -> dict[str, Tensor]:
    """The tensors of a sealed checkpoint."""
    (file,) = (place.home.path / "models" / model / label).glob("*.safetensors")
    return load_file(file)


def state_file(place: Place, run: str = "run") -> bytes:
    """The optimizer's tensors as they were kept last."""
    (file,) = (place.home.path / "runs" / run / "state").glob("*.safetensors")
    return file.read_bytes()


def _steady(record: Any, first: int) -> Any:
    """A record whose references count from the entry `first`."""
    said = {field.name: getattr(record, field.name) for field in fields(record)}
    other = {name: value for name, value in _OTHER_EACH_TIME.items() if name in said}
    moved = {name: said[name] - first for name in _REFERENCES if isinstance(said.get(name), int)}
    return replace(record, **other, **moved)


def _new() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="licet-places-"))
    maker = os.getpid()
    atexit.register(lambda: shutil.rmtree(folder, ignore_errors=True) if os.getpid() == maker else None)
    return folder
