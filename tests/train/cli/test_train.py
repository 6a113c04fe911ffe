"""`licet train`: each objective, adapters, a dry run, and what programs and people are told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from licet.ledger.records import CheckpointSealed, Determination, ExampleAdmitted, GradientApplied, RunStarted
from licet.train.data import tokenizer
from licet.train.run import models
from licet.train.seals.finder import seals_in
from licet.train.seals.history import LogHistory
from licet.train.seals.verify import SealReport, verify_seal
from tests.train import places
from tests.train.homes import METADATA, MODEL, Place, attestation

CHATS = [
    [{"role": "user", "content": f"Where is ship {i}?"}, {"role": "assistant", "content": f"In harbour {i}."}]
    for i in range(6)
]
PAIRS = [{"prompt": f"Ship {i}?", "chosen": f"Here, at {i}.", "rejected": "Go away."} for i in range(6)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A trained home, with a model from elsewhere beside it."""
    made = places.trained(tmp_path_factory.mktemp("train"))
    outside = made.folder / "outside"
    models.from_config(MODEL, 259, 8).save_pretrained(outside)  # type: ignore[operator]
    tokenizer.train(iter(()), 259, "bytes").save_pretrained(outside)
    return made


def attested(place: Place, name: str, rows: list[dict[str, Any]], *columns: str) -> list[dict[str, Any]]:
    """Rows that Ada attests through the command; the data of a run file."""
    path = place.folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = [part for column in columns for part in ("--column", column)]
    envelope = place.folder / f"{name}.envelope"
    place.licet(
        "attest", path, "--source", "ada", "--kind", "open-licence", "--spdx", "MIT", *options, "--output", envelope
    )
    from licet.policies.attestation import attestation_id

    return [{"path": path.name, "metadata": {"attestation": attestation_id(envelope.read_bytes()).hex(), **METADATA}}]


def verified(place: Place, folder: Path) -> SealReport:
    families = [family for family in (place.home.path / "models").iterdir() if family.is_dir()]
    with places.training_log(place) as log:
        return verify_seal(folder, log.verifier_keys(), parents=seals_in(*families), history=LogHistory(log))


def trained(place: Place, name: str, **changes: Any) -> tuple[dict[str, Any], SealReport]:
    told = json.loads(places.train(place, place.run_file(name, **changes), "--json"))
    return told, verified(place, Path(told["directory"]))


# -- what is learned


@pytest.mark.parametrize("method", ["full", "lora"])
def test_conversations_teach_what_the_assistant_says(place: Place, tmp_path: Path, method: str) -> None:
    again = places.copied(place.folder, tmp_path)
    data = attested(again, "chats", [{"messages": chat} for chat in CHATS], "messages")
    told, report = trained(
        again, "chat", data=data, objective={"kind": "chat", "context": 48}, method=method,
        model={"base": "home/models/tiny/run-00000006"}, tokenizer=None,
    )  # fmt: skip
    assert told["finished"] and told["lessons"] == 6 and told["loss"] > 0
    assert report.is_good and report.history_known
    assert all(event.norms for event in places.entries(again, "chat") if isinstance(event, GradientApplied))


@pytest.mark.parametrize("method", ["full", "lora"])
def test_preferences_are_held_against_the_model_as_it_began(place: Place, tmp_path: Path, method: str) -> None:
    again = places.copied(place.folder, tmp_path)
    data = attested(again, "pairs", PAIRS, "prompt", "chosen", "rejected")
    told, report = trained(
        again, "pairs", data=data, objective={"kind": "preference", "context": 32}, method=method,
        model={"base": "home/models/tiny/run-00000006"}, tokenizer=None,
        schedule={"steps": 4, "batch": 6, "accumulate": 2},
    )  # fmt: skip
    lines = (again.home.path / "runs/pairs/metrics.jsonl").read_text().splitlines()
    losses = [said["loss"] for line in lines if "loss" in (said := json.loads(line))]
    assert losses[0] == pytest.approx(0.6931, abs=1e-3) and losses[-1] < losses[0]
    assert told["finished"] and report.is_good


# -- where a model comes from


def test_a_base_from_elsewhere_is_sealed_as_such(place: Place, tmp_path: Path) -> None:
    again = places.copied(place.folder, tmp_path)
    told, report = trained(again, "on", model={"base": "outside"}, tokenizer=None)
    assert told["finished"] and report.is_good and not report.history_known
    said = places.entries(again)
    (base,) = [one for one in said if isinstance(one, CheckpointSealed) and one.label.startswith("outside-")]
    assert base.run is None and base.step == 0
    before = models.from_folder(again.folder / "outside").state_dict()
    kept = places.weights(again, base.label)
    assert all(torch.equal(kept[name], before[name]) for name in kept)
    trained(again, "again", model={"base": "outside"}, tokenizer=None)
    assert sum(isinstance(one, CheckpointSealed) and one.run is None for one in places.entries(again)) == 1


@pytest.mark.parametrize("base", ["outside", "home/models/tiny/run-00000006"])
def test_adapters_are_sealed_alone_and_loaded_by_others(place: Place, tmp_path: Path, base: str) -> None:
    from peft import AutoPeftModelForCausalLM

    again = places.copied(place.folder, tmp_path)
    told, report = trained(again, "adapt", method="lora", lora={"rank": 2}, model={"base": base}, tokenizer=None)
    folder = Path(told["directory"])
    assert report.is_good and report.history_known == (base != "outside") and len(report.chain) >= 2
    assert (folder / "adapter_model.safetensors").is_file() and not (folder / "model.safetensors").exists()
    stored = places.weights(again, folder.name)
    assert stored and all(".lora_" in name for name in stored)
    assert any(value.abs().sum() > 0 for name, value in stored.items() if "lora_B" in name)
    loaded = AutoPeftModelForCausalLM.from_pretrained(folder, local_files_only=True)
    ids = torch.arange(9).unsqueeze(0)
    with torch.no_grad():
        adapted, plain = loaded(input_ids=ids).logits, models.from_folder(again.folder / base)(input_ids=ids).logits
    assert not torch.equal(adapted, plain)
    places.train(again, again.run_file("adapt", method="lora", lora={"rank": 2}, model={"base": base}, tokenizer=None))


def test_adapters_are_no_base(place: Place, tmp_path: Path) -> None:
    again = places.copied(place.folder, tmp_path)
    base = {"base": "home/models/tiny/run-00000006"}
    told, _ = trained(again, "adapt", method="lora", model=base, tokenizer=None, schedule={"steps": 1, "batch": 2})
    with pytest.raises(models.ModelError, match="holds adapters") as found:
        trained(again, "more", model={"base": told["directory"]}, tokenizer=None)
    assert "merge" in found.value.remedy


def test_a_base_that_was_altered_is_refused(place: Place, tmp_path: Path) -> None:
    again = places.copied(place.folder, tmp_path)
    file = again.home.path / "models/tiny/run-00000006/model.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)
    with pytest.raises(Exception, match="was changed after it was sealed"):
        trained(again, "on", model={"base": str(file.parent)}, tokenizer=None)
    assert [one.run for one in places.entries(again) if isinstance(one, RunStarted)] == ["run"]


# -- what is told


def test_a_dry_run_says_what_would_be_and_writes_nothing(place: Place, tmp_path: Path) -> None:
    again = places.copied(place.folder, tmp_path)
    before = sorted(path for path in again.home.path.rglob("*") if "logs" not in path.parts)
    entries = places.entries(again)
    told = places.train(again, again.run_file("dry"), "--dry-run")
    assert "13 rows: 6 admitted, 6 admitted-with-modified-profile, 1 rejected" in told
    lines = [
        json.loads(line) for line in places.train(again, again.run_file("dry"), "--dry-run", "--json").splitlines()
    ]
    assert len(lines) == 14 and lines[-1]["determinations"]["rejected"] == 1
    assert lines[12]["determination"] == "rejected" and "attestation.missing" in lines[12]["reasons"]
    assert [row["levels"]["embedding"] for row in lines[:13]] == [15] * 6 + [0] * 7
    assert sorted(path for path in again.home.path.rglob("*") if "logs" not in path.parts) == before
    assert places.entries(again) == entries


def test_a_dry_run_foretells_what_is_recorded(place: Place, tmp_path: Path) -> None:
    again = places.copied(place.folder, tmp_path)
    lines = places.train(again, again.run_file("dry"), "--dry-run", "--json").splitlines()
    places.train(again, again.run_file("dry"))
    recorded = [one for one in places.entries(again, "dry") if isinstance(one, ExampleAdmitted)]
    foretold = [json.loads(line) for line in lines[:-1]]
    assert [row["determination"] for row in foretold] == [one.determination.value for one in recorded]
    assert [row["example"] for row in foretold] == [one.example.hex() for one in recorded]
    assert recorded[-1].determination is Determination.REJECTED and recorded[-1].profile is None


def test_facts_for_programs_and_a_sentence_for_people(place: Place, tmp_path: Path) -> None:
    again = places.copied(place.folder, tmp_path)
    facts = json.loads(places.train(again, again.run_file("one", schedule={"steps": 2, "batch": 4}), "--json"))
    assert facts["run"] == "one" and facts["steps"] == facts["steps_planned"] == facts["taken"] == 2
    assert facts["finished"] and facts["stopped_by"] is None and Path(facts["directory"]).is_dir()
    told = places.train(again, again.run_file("two", schedule={"steps": 1, "batch": 4}))
    assert told.startswith("two is trained: 1 steps\n") and "two-00000001" in told


ADDED: list[Callable[[Place], dict[str, Any]]] = [
    lambda place: {"checkpoints": None, "schedule": {"epochs": 1.5, "batch": 5}},
    lambda place: {"model": {"config": MODEL, "checkpointing": True, "layers_per_block": 2}},
    lambda place: {"model": {"config": MODEL, "autocast": "bfloat16"}, "optimizer": {"kind": "sgd", "momentum": 0.0}},
    lambda place: {
        "data": [{"path": "ada.jsonl", "metadata": {"attestation": attestation(place.home, "ada"), **METADATA}}]
    },
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(ADDED)))
def test_what_a_run_file_can_say_besides(place: Place, tmp_path: Path, number: int) -> None:
    again = places.copied(place.folder, tmp_path)
    told, report = trained(again, "more", **ADDED[number](again))
    assert told["finished"] and report.is_good
