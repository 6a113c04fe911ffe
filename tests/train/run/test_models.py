"""Models: from a configuration, from a folder, with adapters; nothing fetched, no code run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from licet.train.run import models
from licet.train.run.file import LoraPart, ModelPart
from licet.train.run.models import ModelError
from tests.train.homes import MODEL


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("models") / "base"
    models.from_config(MODEL, 259, 5).save_pretrained(where)  # type: ignore[operator]
    return where


def test_the_same_seed_is_the_same_model() -> None:
    one, same, other = (models.from_config(MODEL, 259, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_the_vocabulary_is_the_tokenizers_unless_more_is_said() -> None:
    assert models.from_config(MODEL, 300, 1).config.vocab_size == 300  # type: ignore[union-attr]
    assert models.from_config({**MODEL, "vocab_size": 400}, 300, 1).config.vocab_size == 400  # type: ignore[union-attr]
    with pytest.raises(ModelError, match="has 299 tokens, and the tokenizer 300"):
        models.from_config({**MODEL, "vocab_size": 299}, 300, 1)


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "no-such-model"},
        {**MODEL, "hidden_size": 33},
        {**MODEL, "hidden_size": "wide"},
        {**MODEL, "hidden_act": "no-such-function"},
        {"model_type": "vit"},
        {**MODEL, "vocab_size": 10**15},
    ],
)
def test_a_configuration_of_no_model_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ModelError) as found:
        models.from_config(config, 259, 1)
    assert found.value.remedy


def test_a_folder_gives_the_model_that_was_saved(folder: Path) -> None:
    before, after = models.from_config(MODEL, 259, 5).state_dict(), models.from_folder(folder).state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_model_without_that_kernel_is_loaded_with_another(tmp_path: Path) -> None:
    small = {"model_type": "mamba", "hidden_size": 16, "num_hidden_layers": 1, "state_size": 4}
    models.from_config(small, 259, 1).save_pretrained(tmp_path / "m")  # type: ignore[operator]
    assert type(models.from_folder(tmp_path / "m")).__name__ == "MambaForCausalLM"


def _copy(folder: Path, to: Path) -> Path:
    to.mkdir()
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    return to


def test_code_in_a_folder_is_never_run(folder: Path, tmp_path: Path) -> None:
    where = _copy(folder, tmp_path / "m")
    ran = tmp_path / "ran"
    (where / "modeling_evil.py").write_text(f"open({str(ran)!r}, 'w')\n")
    said = json.loads((where / "config.json").read_text())
    said["auto_map"] = {"AutoModelForCausalLM": "modeling_evil.Evil", "AutoConfig": "modeling_evil.Evil"}
    (where / "config.json").write_text(json.dumps(said))
    with pytest.raises(ModelError, match="asks for code of its own"):
        models.from_folder(where)
    assert not ran.exists()


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'{"model_type": "no-such-model"}', b"{}", b"\xff"])
def test_a_damaged_configuration_is_refused(folder: Path, tmp_path: Path, raw: bytes) -> None:
    where = _copy(folder, tmp_path / "m")
    (where / "config.json").write_bytes(raw)
    with pytest.raises(ModelError) as found:
        models.from_folder(where)
    assert found.value.remedy


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_missed(folder: Path, tmp_path: Path, name: str) -> None:
    where = _copy(folder, tmp_path / "m")
    (where / name).unlink()
    with pytest.raises(ModelError):
        models.from_folder(where)


def test_pickled_weights_are_not_opened(folder: Path, tmp_path: Path) -> None:
    where = _copy(folder, tmp_path / "m")
    (where / "model.safetensors").unlink()
    torch.save(models.from_folder(folder).state_dict(), where / "pytorch_model.bin")
    with pytest.raises(ModelError):
        models.from_folder(where)


def test_a_folder_that_is_not_there_is_no_name_to_fetch(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="There is no folder"):
        models.from_folder(tmp_path / "gpt2")


def test_adapters_are_all_that_trains() -> None:
    model = models.with_adapters(models.from_config(MODEL, 259, 1), LoraPart(rank=2), 3)
    names = [name for name, _ in models.trainable(model)]
    assert names and all(".lora_" in name for name in names)
    assert len(names) == 2 * 7 * 4  # two for each linear layer; the head is left alone
    again = models.with_adapters(models.from_config(MODEL, 259, 1), LoraPart(rank=2), 3)
    assert all(
        torch.equal(a, b) for (_, a), (_, b) in zip(models.trainable(model), models.trainable(again), strict=True)
    )


def test_adapters_go_where_they_are_named_or_nowhere() -> None:
    only = models.with_adapters(models.from_config(MODEL, 259, 1), LoraPart(targets=("q_proj",)), 3)
    assert all("q_proj" in name for name, _ in models.trainable(only))
    with pytest.raises(ModelError, match="No adapter can be put there"):
        models.with_adapters(models.from_config(MODEL, 259, 1), LoraPart(targets=("nowhere",)), 3)


def test_longer_samples_or_more_tokens_than_the_model_knows_are_refused() -> None:
    model = models.from_config(MODEL, 259, 1)
    models.check_context(model, 64)
    models.check_vocabulary(model, 259)
    with pytest.raises(ModelError, match="64 positions"):
        models.check_context(model, 65)
    with pytest.raises(ModelError, match="259 tokens, and the tokenizer 260"):
        models.check_vocabulary(model, 260)


@pytest.mark.parametrize("lora", [False, True])
def test_a_model_that_computes_twice_gives_the_same_gradients(lora: bool) -> None:
    grads = []
    for checkpointing in (False, True):
        model = models.from_config(MODEL, 259, 1)
        if lora:
            model = models.with_adapters(model, LoraPart(rank=2), 3)
        model = models.prepare(model, ModelPart(config=MODEL, checkpointing=checkpointing))
        assert model.training
        ids = torch.arange(10).unsqueeze(0)
        model(input_ids=ids, labels=ids).loss.backward()
        grads.append([p.grad for _, p in models.trainable(model)])
    assert all(torch.allclose(a, b) for a, b in zip(*grads, strict=True) if a is not None)
    assert [a is None for a in grads[0]] == [b is None for b in grads[1]]
