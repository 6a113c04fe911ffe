"""run.toml: what it may say, and how it is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from licet.ledger.errors import ConfigError, LimitError, MissingFileError
from licet.ledger.records import Stage, Technique
from licet.train.run.file import RUN_FILE_BYTES_MAX, read_run
from tests.policies.documents import as_toml

LLAMA = {"config": {"model_type": "llama"}}
LEAST: dict[str, Any] = {
    "licet": 1,
    "name": "tiny",
    "model": LLAMA,
    "tokenizer": {"kind": "bytes"},
    "data": [{"path": "rows.jsonl"}],
    "schedule": {"steps": 1},
}


def written(folder: Path, name: str = "run.toml", **changes: Any) -> Path:
    path = folder / name
    path.write_text(as_toml({key: value for key, value in {**LEAST, **changes}.items() if value is not None}))
    return path


def test_the_least_that_a_file_says_has_defaults_for_all_else(tmp_path: Path) -> None:
    run = read_run(written(tmp_path))
    assert (run.name, run.file.stage, run.file.technique) == ("run", Stage.ENFORCE, Technique.SCALE)
    assert (run.file.method, run.file.seed, run.file.schedule.batch) == ("full", 0, 16)
    assert run.path("rows.jsonl") == tmp_path.resolve() / "rows.jsonl"


def test_a_path_is_seen_from_the_file_and_may_be_absolute(tmp_path: Path) -> None:
    run = read_run(written(tmp_path, model={"base": "/models/base"}, tokenizer=None))
    assert run.path(run.file.model.base or "") == Path("/models/base")


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("My Run.toml", "my-run"),
        ("..toml", "run"),
        ("é.toml", "run"),
        ("a.b.toml", "a.b"),
        ("x" * 90 + ".toml", "x" * 64),
    ],
)
def test_a_run_without_a_name_is_called_as_its_file(tmp_path: Path, file: str, name: str) -> None:
    found = read_run(written(tmp_path, file)).name
    assert found == name or file == "é.toml"
    assert read_run(written(tmp_path, "other.toml", run=found)).name == found


def test_another_text_is_another_run_even_if_it_says_the_same(tmp_path: Path) -> None:
    path = written(tmp_path)
    before = read_run(path).digest
    path.write_text(path.read_text() + "# a remark\n")
    assert read_run(path).digest != before


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "another version": ({"licet": 2}, "licet"),
    "an unknown field": ({"sed": 3}, "sed: Extra inputs"),
    "an unknown field within": ({"schedule": {"steps": 1, "step": 2}}, "schedule.step: Extra inputs"),
    "no data": ({"data": []}, "data"),
    "an empty path": ({"data": [{"path": ""}]}, "a path is not empty"),
    "a path out of its folder as a name": ({"name": "../up"}, "a name has small letters"),
    "a run that is a path": ({"run": "a/b"}, "a name has small letters"),
    "a negative seed": ({"seed": -1}, "seed"),
    "a seed that is too large": ({"seed": 1 << 63}, "seed"),
    "two beginnings": ({"model": {**LLAMA, "base": "b"}}, "exactly one way"),
    "no beginning": ({"model": {}}, "exactly one way"),
    "a configuration of nothing": ({"model": {"config": {"hidden_size": 3}}}, "model_type"),
    "a configuration of a number": ({"model": {"config": {"model_type": 3}}}, "model_type"),
    "two tokenizers": ({"tokenizer": {"path": "t", "kind": "bpe"}}, "not both"),
    "no tokenizer": ({"tokenizer": None}, "needs a tokenizer"),
    "too few tokens": ({"tokenizer": {"kind": "bpe", "vocabulary": 259}}, "vocabulary"),
    "adapters on nothing": ({"method": "lora"}, "adapters need a base"),
    "a measure without a model": ({"entropy": "model"}, "no model yet"),
    "no length": ({"schedule": {}}, "exactly one way"),
    "two lengths": ({"schedule": {"steps": 1, "epochs": 1}}, "exactly one way"),
    "no steps": ({"schedule": {"steps": 0}}, "steps"),
    "epochs without an end": ({"schedule": {"epochs": float("inf")}}, "epochs"),
    "epochs that are no number": ({"schedule": {"epochs": float("nan")}}, "epochs"),
    "unequal microbatches": ({"schedule": {"steps": 1, "batch": 10, "accumulate": 4}}, "let accumulate divide"),
    "a batch beyond an event's slots": ({"schedule": {"steps": 1, "batch": 65_537}}, "batch"),
    "only warming up": ({"schedule": {"steps": 1, "warmup": 1.0}}, "warmup"),
    "a rate of nothing": ({"optimizer": {"learning_rate": 0}}, "learning_rate"),
    "a rate without measure": ({"optimizer": {"learning_rate": 1e30}}, "learning_rate"),
    "a rate that is no number": ({"optimizer": {"learning_rate": float("nan")}}, "learning_rate"),
    "betas out of range": ({"optimizer": {"betas": [1.0, 0.9]}}, "betas.0"),
    "three betas": ({"optimizer": {"betas": [0.9, 0.9, 0.9]}}, "betas"),
    "an endless clip": ({"optimizer": {"clip_norm": float("inf")}}, "clip_norm"),
    "endless adapters": ({"lora": {"alpha": float("inf")}}, "alpha"),
    "phases out of order": ({"phase": [{"name": n, "until": u} for n, u in (("a", 1.0), ("b", 0.5))]}, "one after the"),
    "phases that stop early": ({"phase": [{"name": "a", "until": 0.5}]}, "the last at 1.0"),
    "a phase that adds": ({"phase": [{"name": "a", "until": 1.0, "ceiling": {"*": 1.5}}]}, "ceiling"),
    "an unknown stage": ({"stage": "pretend"}, "stage"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_what_cannot_be_meant_is_refused_with_its_place(tmp_path: Path, what: str) -> None:
    changes, told = WRONG[what]
    path = tmp_path / "run.toml"
    text = as_toml({key: value for key, value in {**LEAST, **changes}.items() if value is not None})
    path.write_text(text.replace("Infinity", "inf").replace("NaN", "nan"))
    with pytest.raises(ConfigError) as refused:
        read_run(path)
    assert told in refused.value.message
    assert str(path) in refused.value.message
    assert "train/README.md" in refused.value.remedy


@pytest.mark.parametrize(
    "raw", [b"\xff", b"licet = ", b"licet = 1\nlicet = 1\n", b"seed = " + b"9" * 5000, b"a = " + b"[" * 100_000]
)
def test_what_is_no_toml_is_refused(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "run.toml"
    path.write_bytes(raw)
    with pytest.raises(ConfigError, match="is not TOML") as refused:
        read_run(path)
    assert refused.value.remedy


def test_a_file_that_is_missing_or_endless_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError):
        read_run(tmp_path / "run.toml")
    (tmp_path / "run.toml").write_bytes(b"#" * (RUN_FILE_BYTES_MAX + 1))
    with pytest.raises(LimitError):
        read_run(tmp_path / "run.toml")
