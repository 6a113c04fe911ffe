"""Where a run begins: nowhere, in a seal that holds, or in a model that nobody knows."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from licet.ledger.errors import LicetError, SignatureError
from licet.train.data import tokenizer
from licet.train.run import base, models
from licet.train.run.base import Base
from licet.train.run.file import read_run
from licet.train.run.models import ModelError
from licet.train.seals.history import LogHistory
from licet.train.seals.statement import SealError
from tests.train import places
from tests.train.homes import MODEL, Place, make


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return places.trained(tmp_path)


def begun(place: Place, **changes: Any) -> Base:
    run = read_run(place.run_file("begun", **changes))
    with places.training_log(place) as log:
        return base.begin(run, log.verifier_keys(), LogHistory(log), place.home.path / "models")


def test_a_configuration_begins_nowhere(place: Place) -> None:
    found = begun(place)
    assert found.seal is None and not found.is_outside and found.tokenizer is None
    usual = models.from_config(MODEL, 259, 3).state_dict()
    assert all(torch.equal(value, usual[name]) for name, value in found.model.state_dict().items())


@pytest.mark.parametrize(("part", "size"), [({"kind": "bytes"}, 259), ({"kind": "bpe", "vocabulary": 300}, 300)])
def test_a_vocabulary_is_known_before_its_tokenizer(place: Place, part: dict[str, Any], size: int) -> None:
    assert begun(place, tokenizer=part).model.config.vocab_size == size  # type: ignore[union-attr]


def test_a_tokenizer_that_is_there_is_loaded(place: Place) -> None:
    tokenizer.train(iter(["a b a b"]), 280, "bpe").save_pretrained(place.folder / "words")
    found = begun(place, tokenizer={"path": "words"})
    assert found.model.config.vocab_size == len(found.tokenizer)  # type: ignore[union-attr]


def test_a_sealed_base_is_verified_and_known(place: Place) -> None:
    found = begun(place, model={"base": "home/models/tiny/run-00000006"}, tokenizer=None)
    assert found.seal is not None and not found.is_outside and len(found.tokenizer) == 259
    stored = places.weights(place, "run-00000006")
    assert all(torch.equal(value, stored[name]) for name, value in found.model.state_dict().items())


def test_a_sealed_base_whose_parent_is_gone_is_refused(place: Place) -> None:
    shutil.rmtree(place.home.path / "models/tiny/run-00000004")
    with pytest.raises(SealError, match="was not found"):
        begun(place, model={"base": "home/models/tiny/run-00000006"}, tokenizer=None)


def test_a_seal_that_others_signed_is_refused(place: Place, tmp_path: Path) -> None:
    other = make(tmp_path / "other")
    run = read_run(other.run_file("begun", model={"base": str(place.home.path / "models/tiny/run-00000006")}))
    with places.training_log(other) as log, pytest.raises(SignatureError):
        base.begin(run, log.verifier_keys(), LogHistory(log), other.home.path / "models")


@pytest.mark.parametrize("raw", [b"", b"{}"])
def test_a_damaged_seal_does_not_make_a_base_unknown(place: Place, raw: bytes) -> None:
    (place.home.path / "models/tiny/run-00000006/seal.json").write_bytes(raw)
    with pytest.raises(LicetError):
        begun(place, model={"base": "home/models/tiny/run-00000006"}, tokenizer=None)


def test_a_folder_without_a_seal_came_from_elsewhere(place: Place) -> None:
    bare = shutil.copytree(place.home.path / "models/tiny/run-00000006", place.folder / "bare")
    (bare / "seal.json").unlink()
    found = begun(place, model={"base": "bare"}, tokenizer=None)
    assert found.is_outside and found.seal is None


def test_a_base_that_is_not_there_is_missed(place: Place) -> None:
    with pytest.raises(ModelError, match="There is no folder"):
        begun(place, model={"base": "nowhere"}, tokenizer=None)
