"""A model from elsewhere is sealed once as it came, and everything on it says that its history is unknown."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from licet.ledger.log import Ledger
from licet.ledger.records import CheckpointSealed, Digest
from licet.train.blocks import describe
from licet.train.run import models
from licet.train.seals.outside import seal_outside
from licet.train.seals.statement import History, SealError
from licet.train.seals.verify import verify_seal
from tests.train import places
from tests.train.homes import MODEL


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with places.fresh(tmp_path / "place").home.open_log("training") as log:
        yield log


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    models.from_config(MODEL, 259, 1).save_pretrained(tmp_path / "base")  # type: ignore[operator]
    return tmp_path / "base"


def sealed(folder: Path, into: Path, ledger: Ledger, model: Any = None, layers: int = 1) -> Digest:
    model = model or models.from_folder(folder)
    found = seal_outside(folder, into, "tiny", model, describe(model, layers)[1], None, ledger)
    ledger.commit()
    return found


def test_it_is_sealed_as_it_came_and_recorded(folder: Path, tmp_path: Path, ledger: Ledger) -> None:
    found = sealed(folder, tmp_path / "models", ledger)
    (where,) = (tmp_path / "models").iterdir()
    report = verify_seal(where, ledger.verifier_keys())
    assert report.is_good and report.seal.id == found and not report.history_known
    assert report.seal.claims.history is History.OUTSIDE and report.seal.claims.parent is None
    assert {block.name for block in report.seal.blocks} == {"embedding", *(f"layer.{i}" for i in range(4)), "head"}
    assert ledger.find(CheckpointSealed, found)


def test_the_same_model_is_sealed_once(folder: Path, tmp_path: Path, ledger: Ledger) -> None:
    ids = {sealed(folder, tmp_path / "models", ledger, layers=layers) for layers in (1, 1, 2)}
    assert len(ids) == 1 and len(list((tmp_path / "models").iterdir())) == 1
    assert len([one for _, one in ledger.all_of(CheckpointSealed)]) == 1


def test_another_model_is_another(folder: Path, tmp_path: Path, ledger: Ledger) -> None:
    models.from_config(MODEL, 259, 2).save_pretrained(tmp_path / "other")  # type: ignore[operator]
    assert sealed(folder, tmp_path / "models", ledger) != sealed(tmp_path / "other", tmp_path / "models", ledger)
    assert len(list((tmp_path / "models").iterdir())) == 2


def test_a_seal_whose_entry_a_kill_prevented_is_recorded_the_next_time(
    folder: Path, tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killed(_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(ledger, "append", killed)
        sealed(folder, tmp_path / "models", ledger)
    found = sealed(folder, tmp_path / "models", ledger)
    assert ledger.find(CheckpointSealed, found) and len(list((tmp_path / "models").iterdir())) == 1


def test_an_outside_seal_that_was_altered_is_refused(folder: Path, tmp_path: Path, ledger: Ledger) -> None:
    sealed(folder, tmp_path / "models", ledger)
    (file,) = (tmp_path / "models").glob("*/model.safetensors")
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)
    with pytest.raises(SealError, match="was changed after it was sealed"):
        sealed(folder, tmp_path / "models", ledger)


def test_what_was_frozen_stays_frozen(folder: Path, tmp_path: Path, ledger: Ledger) -> None:
    model = models.from_folder(folder)
    model.get_input_embeddings().weight.requires_grad_(False)  # type: ignore[operator]
    before = {name: (p.requires_grad, p.detach().clone()) for name, p in model.named_parameters()}
    sealed(folder, tmp_path / "models", ledger, model)
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == before[name][0] and torch.equal(parameter, before[name][1])
