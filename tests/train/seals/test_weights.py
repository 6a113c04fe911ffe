"""Weights of a sealed checkpoint: back into the same model, or nowhere."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from licet.ledger.errors import FormatError
from licet.train.run import models
from licet.train.run.file import LoraPart
from licet.train.seals.weights import load_weights
from licet.train.seals.writer import tensors_of
from tests.train import places
from tests.train.homes import MODEL


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return places.trained(tmp_path_factory.mktemp("weights")).home.path / "models/tiny/run-00000006"


@pytest.fixture
def folder(sealed: Path, tmp_path: Path) -> Path:
    return shutil.copytree(sealed, tmp_path / "sealed")


def test_every_tensor_is_put_back(sealed: Path) -> None:
    model = models.from_config(MODEL, 259, 99)
    load_weights(model, sealed)
    stored, now = load_file(sealed / "model.safetensors"), tensors_of(model)[0]
    assert stored.keys() == now.keys() and all(torch.equal(stored[name], now[name]) for name in stored)


def test_tied_weights_stay_tied(tmp_path: Path) -> None:
    model = models.from_config({**MODEL, "tie_word_embeddings": True}, 259, 1)
    save_file({name: value.detach() + 1 for name, value in tensors_of(model)[0].items()}, tmp_path / "m.safetensors")
    load_weights(model, tmp_path)
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight  # type: ignore[operator]


def test_of_adapters_the_adapters_alone(sealed: Path, tmp_path: Path) -> None:
    model = models.with_adapters(models.from_folder(sealed), LoraPart(rank=2), 1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    save_file({name: value.detach() + 1 for name, value in tensors_of(model)[0].items()}, tmp_path / "a.safetensors")
    load_weights(model, tmp_path)
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) == (".lora_" not in name) for name in before)


def test_another_model_is_refused_by_the_name_of_a_tensor(sealed: Path) -> None:
    wider = models.from_config({**MODEL, "intermediate_size": 128}, 259, 1)
    with pytest.raises(FormatError, match=r"mlp\.\w+_proj\.weight .* which this model has not") as found:
        load_weights(wider, sealed)
    assert "run.toml" in found.value.remedy
    deeper = models.from_config({**MODEL, "num_hidden_layers": 5}, 259, 1)
    with pytest.raises(FormatError, match=r"lacks the tensor model\.layers\.4"):
        load_weights(deeper, sealed)


def test_files_that_are_missing_or_damaged_are_refused(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(FormatError, match="cannot be read"):
        load_weights(models.from_config(MODEL, 259, 1), folder)
    file.unlink()
    with pytest.raises(FormatError, match="lacks the tensor"):
        load_weights(models.from_config(MODEL, 259, 1), folder)


def test_a_tensor_in_two_files_is_refused(folder: Path) -> None:
    shutil.copy(folder / "model.safetensors", folder / "more.safetensors")
    with pytest.raises(FormatError, match=r"more\.safetensors holds"):
        load_weights(models.from_config(MODEL, 259, 1), folder)
