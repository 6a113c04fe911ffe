"""A whole run: each gradient reached only its blocks, and what may reach nothing changes nothing, to the bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from licet.ledger.app import app
from licet.ledger.errors import ConfigError
from licet.ledger.norms import LEVELS
from licet.ledger.records import (
    AttestationMentioned,
    Determination,
    ExampleAdmitted,
    GradientApplied,
    MemorizationFlagged,
    PolicyMentioned,
    ProfileDeclared,
    RunStarted,
    StepTaken,
)
from licet.policies.policy import Policy
from licet.train.data import tokenizer
from licet.train.data.lessons import Lessons
from licet.train.data.tokens import TokenStore
from licet.train.objectives import PretrainingObjective
from licet.train.run import models
from licet.train.run.file import SchedulePart
from licet.train.run.schedule import Schedule
from licet.train.run.teaching import REPEATED
from licet.train.seals.finder import seals_in
from licet.train.seals.history import LogHistory
from licet.train.seals.verify import Fault, verify_seal
from tests.policies.documents import SMALL, as_toml, document
from tests.train import places
from tests.train.homes import METADATA, MODEL, Place, attestation, make

BELOW = ("embedding", "layer.0", "layer.1", "layer.2")
"""The blocks under the surface of the small model."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return places.trained(tmp_path_factory.mktemp("session"))


@pytest.fixture(scope="module")
def presence(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home under whose policy the public domain may reach nothing."""
    licences = {**SMALL["licence"], "public-domain": {"ceiling": {"*": 0.0}}}
    return make(tmp_path_factory.mktemp("presence"), licence=licences).folder


def with_presence(source: Path, folder: Path, text: str) -> Place:
    """A copy in which a row in the middle may reach nothing, and another is rejected; both say `text`."""
    place = places.copied(source, folder)
    (folder / "nothing.jsonl").write_text(json.dumps({"text": text}) + "\n")
    place.licet(
        "attest", folder / "nothing.jsonl", "--source", "ada", "--kind", "public-domain", "--output", folder / "e"
    )
    import base64

    envelope = base64.b64encode((folder / "e").read_bytes()).decode()
    rows = (folder / "rows.jsonl").read_text().splitlines()
    rows.insert(5, json.dumps({"text": text, "licet": {"attestation": envelope, **METADATA}}))
    rows[-1] = json.dumps({"text": f"Rejected: {text}"})
    (folder / "rows.jsonl").write_text("\n".join(rows) + "\n")
    return place


# -- non-interference


def test_what_may_reach_nothing_changes_nothing_for_anybody(presence: Path, tmp_path: Path) -> None:
    texts = ("Brave vixens jump, quickly; of them a secret is told.", "Something else altogether, and shorter.")
    changes: dict[str, Any] = {
        "tokenizer": {"kind": "bpe", "vocabulary": 300},
        "schedule": {"epochs": 1, "batch": 6, "accumulate": 2},
        "checkpoints": None,
    }
    done = [with_presence(presence, tmp_path / str(i), text) for i, text in enumerate(texts)]
    told = [json.loads(places.train(one, one.run_file(**changes), "--json")) for one in done]
    label = Path(told[0]["directory"]).name
    ours, theirs = (places.weights(one, label) for one in done)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert places.state_file(done[0]) == places.state_file(done[1])
    assert told[0]["loss"] == told[1]["loss"]
    for name in ("tokenizer/tokenizer.json", "tokens/tokens", "tokens/samples"):
        one, other = ((each.home.path / "runs/run" / name).read_bytes() for each in done)
        assert one == other
    pairs = list(zip(places.entries(done[0], "run"), places.entries(done[1], "run"), strict=True))
    different = [a for a, b in pairs if a != b]
    assert [type(one) for one in different if not isinstance(one, ExampleAdmitted)] == [AttestationMentioned]
    admitted = [one for one in different if isinstance(one, ExampleAdmitted)]
    assert {one.determination for one in admitted} == {Determination.MODIFIED, Determination.REJECTED}
    assert any(isinstance(a, GradientApplied) and not any(a.norms) for a, _ in pairs)


def test_rejected_text_is_kept_nowhere(presence: Path, tmp_path: Path) -> None:
    place = with_presence(presence, tmp_path, "xyzzy plugh")
    places.train(place, place.run_file(tokenizer={"kind": "bpe", "vocabulary": 400}, schedule={"steps": 1}))
    found = [file for file in place.home.path.rglob("*") if file.is_file() and b"Rejected: xyzzy" in file.read_bytes()]
    assert not found
    tokens = json.loads((place.home.path / "runs/run/tokenizer/tokenizer.json").read_text())["model"]["vocab"]
    assert not any("xyz" in token or "plu" in token for token in tokens)


def test_a_run_in_which_nothing_may_be_taught_is_refused(place: Place, tmp_path: Path) -> None:
    again = places.copied(place.folder, tmp_path)
    (tmp_path / "bare.jsonl").write_text(json.dumps({"text": "Nobody attested this."}) + "\n")
    with pytest.raises(ConfigError, match="Nothing of the data may be trained on") as found:
        places.train(again, again.run_file("bare", data=[{"path": "bare.jsonl"}]))
    assert "--dry-run" in found.value.remedy
    (rejected,) = [one for one in places.entries(again, "bare") if isinstance(one, ExampleAdmitted)]
    assert rejected.determination is Determination.REJECTED and rejected.reasons


# -- each gradient in its blocks


def test_a_source_that_may_teach_the_surface_has_no_exposure_below(place: Place) -> None:
    with places.training_log(place) as log:
        index, started = next(iter(log.all_of(RunStarted)))
        mentions = {one.source: i for i, one in log.all_of(AttestationMentioned)}
        profiles = dict(log.all_of(ProfileDeclared))
        applied = [r for i in range(index, log.size) if isinstance(r := log.record(i), GradientApplied)]
    below = [i for i, block in enumerate(started.blocks) if block.name in BELOW]
    bobs = [event for event in applied if event.attestation == mentions["bob"]]
    adas = [event for event in applied if event.attestation == mentions["ada"]]
    assert bobs and adas and len(bobs) + len(adas) == 24
    assert not any(profiles[event.profile].levels[b] for event in bobs for b in below)
    assert all(len(event.norms) == 2 and all(event.norms) for event in bobs)  # of the blocks that it reached
    assert all(len(event.norms) == 6 and all(event.norms) for event in adas)


def test_blocks_that_nobody_was_admitted_to_stay_as_they_began(place: Place, tmp_path: Path) -> None:
    again = places.copied(place.folder, tmp_path)
    only = [{"path": "bob.jsonl", "metadata": {"attestation": attestation(again.home, "bob"), **METADATA}}]
    places.train(again, again.run_file("bobs", data=only))
    before = models.from_config(MODEL, 259, 3).state_dict()
    after = places.weights(again, "bobs-00000006")
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    assert moved and all(name.startswith(("model.layers.3.", "model.norm.", "lm_head.")) for name in moved)
    state = load_file(next((again.home.path / "runs/bobs/state").glob("*.safetensors")))
    assert len({key.partition("/")[0] for key in state}) == len(moved)


def test_every_seal_of_a_run_is_good_and_a_block_that_was_altered_is_named(place: Place, tmp_path: Path) -> None:
    again = places.copied(place.folder, tmp_path)
    family = again.home.path / "models/tiny"
    with places.training_log(again) as log:
        keys, history = log.verifier_keys(), LogHistory(log)
        reports = [verify_seal(f, keys, parents=seals_in(family), history=history) for f in sorted(family.iterdir())]
        assert [len(report.chain) for report in reports] == [1, 2, 3]
        assert all(report.is_good and report.authority_checked and report.history_known for report in reports)
        file = family / "run-00000006/model.safetensors"
        tensors = load_file(file)
        tensors["model.layers.1.mlp.up_proj.weight"][0, 0] += 1
        save_file(tensors, file, metadata={"format": "pt"})
        report = verify_seal(file.parent, keys, parents=seals_in(family), history=history)
    assert {problem.block for problem in report.problems} == {"layer.1"}
    assert report.problems[0].fault is Fault.TENSOR
    assert app(["seal", "verify", str(file.parent), "--home", str(again.home.path)], standalone_mode=False) == 1


# -- stages, techniques, order


def test_a_run_that_observes_changes_nothing_of_the_training(place: Place, tmp_path: Path) -> None:
    again = places.copied(place.folder, tmp_path)
    schedule = {"steps": 4, "batch": 5, "warmup": 0.0}
    optimizer = {"kind": "sgd", "learning_rate": 0.05, "clip_norm": 1e9}
    file = again.run_file("seen", stage="observe", schedule=schedule, optimizer=optimizer)
    places.train(again, file)
    plain = _ungated(again.home.path / "runs/seen", SchedulePart.model_validate(schedule))
    found = places.weights(again, "seen-00000004")
    for name, value in plain.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)
    said = places.entries(again, "seen")
    answers = [one.determination for one in said if isinstance(one, ExampleAdmitted)]
    assert answers.count(Determination.REJECTED) == 1 and answers.count(Determination.MODIFIED) == 6
    assert any(one.source == "unattested" for one in said if isinstance(one, AttestationMentioned))
    applied = [one for one in said if isinstance(one, GradientApplied)]
    assert len(applied) == 20 and all(all(one.norms) for one in applied)
    with places.training_log(again) as log:
        family = again.home.path / "models/tiny"
        report = verify_seal(
            family / "seen-00000004", log.verifier_keys(), parents=seals_in(family), history=LogHistory(log)
        )
    assert report.is_good


def _ungated(folder: Path, part: SchedulePart) -> dict[str, torch.Tensor]:
    """The same training in a plain loop."""
    store, known = TokenStore.open(folder / "tokens"), tokenizer.load(folder / "tokenizer")
    schedule, objective = Schedule(part, len(store), 3), PretrainingObjective(known, 32)
    model = models.prepare(models.from_config(MODEL, 259, 3), models.ModelPart(config=MODEL))
    wide = [p for p in model.parameters() if p.ndim >= 2]
    narrow = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": wide, "weight_decay": 0.01}, {"params": narrow, "weight_decay": 0.0}]
    inner = torch.optim.SGD(groups, lr=0.05, momentum=0.9)
    for step in range(schedule.steps):
        for group in inner.param_groups:
            group["lr"] = 0.05 * schedule.learning_rate(step)
        inner.zero_grad()
        samples = [store.sample(int(i)) for i in schedule.draw(step).samples[0]]
        objective.losses(model, objective.inputs(samples, 32)).mean().backward()
        inner.step()
    return {name: value.detach() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("technique", ["residual", "attention"])
def test_another_technique_records_what_it_realised(place: Place, tmp_path: Path, technique: str) -> None:
    again = places.copied(place.folder, tmp_path)
    places.train(again, again.run_file("other", technique=technique))
    said = places.entries(again, "other")
    assert isinstance(said[0], RunStarted) and said[0].technique == technique
    applied = [one for one in said if isinstance(one, GradientApplied)]
    assert len(applied) == 24 and all(any(one.norms) for one in applied)
    scaled = places.weights(place, "run-00000006")
    found = places.weights(again, "other-00000006")
    assert any(not torch.equal(found[name], scaled[name]) for name in found)


def test_phases_and_repeats_restrict_and_say_so(tmp_path: Path) -> None:
    again = make(tmp_path, memorization={"repeats_max": 1})
    phases = [
        {"name": "forming", "until": 0.5, "confined": "wait"},
        {"name": "all", "until": 1.0, "ceiling": {"foundational": 0.0, "*": 1.0}},
    ]
    told = places.train(again, again.run_file(
        "phased", phase=phases, schedule={"epochs": 4, "batch": 24}, checkpoints=None,
    ), "--json")  # fmt: skip
    assert json.loads(told)["finished"]
    with places.training_log(again) as log:
        profiles = dict(log.all_of(ProfileDeclared))
        lessons = Lessons.load(again.home.path / "runs/phased/lessons.arrow")
        bobs = {lesson.example: lesson for lesson in lessons.all if not lesson.levels[0]}
        start = next(i for i, one in log.all_of(RunStarted) if one.run == "phased")
        applied = [r for i in range(start, log.size) if isinstance(r := log.record(i), GradientApplied)]
    steps, shown = max(event.step for event in applied) + 1, dict.fromkeys(bobs, 0)
    for event in applied:
        declared, early = profiles[event.profile], event.step < steps / 2
        if event.example in bobs and early:
            assert not any(declared.levels) and "phase/forming" in declared.rules
        elif event.example in bobs:
            shown[event.example] += any(declared.levels)
            assert any(declared.levels) or REPEATED in declared.rules
        elif any(declared.levels) and not early:
            assert declared.levels[0] == 0 and declared.levels[3] and "phase/all" in declared.rules
        assert bool(any(event.norms)) == bool(any(declared.levels))
    assert shown == {example: 1 * lesson.samples for example, lesson in bobs.items()}


def test_what_would_end_a_run_later_is_refused_before_a_row_is_judged(place: Place, tmp_path: Path) -> None:
    again = places.copied(place.folder, tmp_path)
    size = len(places.entries(again))
    wrong: list[dict[str, Any]] = [
        {"phase": [{"name": "a", "until": 0.5}, {"name": "b", "until": 1.0, "ceiling": {"nowhere": 1.0}}]},
        {"held_out": {"path": "nowhere.txt"}},
        {"objective": {"context": 65}},
        {"tokenizer": {"kind": "bpe", "vocabulary": 300}, "model": {"base": "home/models/tiny/run-00000006"}},
    ]
    for changes in wrong:
        with pytest.raises(Exception, match=r".") as found:
            places.train(again, again.run_file("wrong", **changes))
        assert hasattr(found.value, "remedy") and found.value.remedy
        assert len(places.entries(again)) == size


def test_held_out_text_is_measured_at_each_seal(place: Place, tmp_path: Path) -> None:
    again = places.copied(place.folder, tmp_path)
    (tmp_path / "held.txt").write_text("The ship sailed past a quiet harbour.")
    told = json.loads(places.train(again, again.run_file("held", held_out={"path": "held.txt"}), "--json"))
    lines = [json.loads(line) for line in (again.home.path / "runs/held/metrics.jsonl").read_text().splitlines()]
    measured = [line["held_out_loss"] for line in lines if "held_out_loss" in line]
    assert len(measured) == 3 and told["held_out"] == measured[-1] < measured[0]
    plain = places.weights(place, "run-00000006")
    assert all(torch.equal(plain[name], value) for name, value in places.weights(again, "held-00000006").items())


def test_several_files_have_defaults_of_their_own(place: Place, tmp_path: Path) -> None:
    again = places.copied(place.folder, tmp_path)
    data = [
        {"path": f"{source}.jsonl", "metadata": {"attestation": attestation(again.home, source), **METADATA}}
        for source in ("ada", "bob")
    ]
    places.train(again, again.run_file("files", data=data))
    same = places.weights(place, "run-00000006")
    assert all(torch.equal(same[name], value) for name, value in places.weights(again, "files-00000006").items())
    lessons = Lessons.load(again.home.path / "runs/files/lessons.arrow")
    assert [lesson.name.partition(" ")[0] for lesson in lessons.all] == ["ada.jsonl"] * 6 + ["bob.jsonl"] * 6


def test_what_is_flagged_is_recorded_and_answered(presence: Path, tmp_path: Path) -> None:
    watchful = {"observations_min": 8, "window": 8, "thresholds": {"*": {"low": 0.1, "high": 0.2}}}
    place = make(tmp_path, memorization={**watchful, "response": {"*": "exclude"}})
    told = {}
    for stage in ("enforce", "observe"):
        places.train(place, place.run_file(stage, stage=stage, schedule={"steps": 12, "batch": 6}, checkpoints=None))
        said = places.entries(place, stage)
        flags = [one for one in said if isinstance(one, MemorizationFlagged)]
        assert flags
        told[stage] = {one.response.partition("/")[2] for one in flags}
        silent = sum(not any(one.norms) for one in said if isinstance(one, GradientApplied))
        assert (silent > 0) == (stage == "enforce")
        assert len([one for one in said if isinstance(one, StepTaken)]) == 12
    assert "exclude" in told["enforce"] and told["observe"] == {"record"}


def test_full_levels_stand_for_full_weight(place: Place) -> None:
    observed = [one for one in places.entries(place) if isinstance(one, ProfileDeclared)]
    assert all(0 <= level <= LEVELS for one in observed for level in one.levels)


def test_a_second_policy_restricts_and_entropy_bands_stay_the_homes(place: Place, tmp_path: Path) -> None:
    """Also where it comes first in the order of digests, in which a gate holds its policies."""
    again = places.copied(place.folder, tmp_path)
    with places.training_log(again) as log:
        (homes, *_) = [one.policy for _, one in log.all_of(PolicyMentioned)]
    parts = {"reserved": [], "rule": [], "entropy": [{"name": "any", "ceiling": {"*": 0.4}}]}
    texts = (as_toml(document(name="other", version=str(n), **parts)) for n in range(1000))
    (again.folder / "other.toml").write_text(next(text for text in texts if Policy.parse(text).digest < homes))
    places.train(again, again.run_file("two", policies=["other.toml"]))
    lessons = Lessons.load(again.home.path / "runs/two/lessons.arrow").all
    assert {lesson.entropy_band for lesson in lessons} <= {"low", "middle", "high"}
    assert max(level for lesson in lessons for level in lesson.levels) == 6
