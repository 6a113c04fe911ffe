"""A run in a loop of one's own: what is recorded is what the gate said, and a loop that is out of turn is told so."""

from __future__ import annotations

import copy
import json
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from licet.ledger import norms
from licet.ledger.errors import ClosedError, ConfigError, LicetError, LockedError, VerificationError
from licet.ledger.home import Home
from licet.ledger.norms import LEVELS
from licet.ledger.records import (
    CheckpointSealed,
    ExampleAdmitted,
    LogOpened,
    RunStarted,
    StepTaken,
)
from licet.train.gate import UnsupportedError
from licet.train.optimizer import GuardError
from licet.train.own.run import GovernedRun, OwnLoopError
from licet.train.run.loop import TrainingStopped
from tests.train import places
from tests.train.homes import Place
from tests.train.own_runs import EXAMPLES, adamw, begin, confined, model_and_tokenizer, taught, verified


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return places.fresh(tmp_path)


# -- the record


def test_the_log_says_what_the_gate_said(place: Place) -> None:
    with begin(place) as run:
        optimizer = run.guard(adamw(run))
        said, reports, names = [], [], run.gate.block_names
        for step in range(3):
            for half in (0, 1):
                batch, _ = taught(run, [4 * step + 2 * half, 4 * step + 2 * half + 1], slots=4)
                raw = np.where(batch.levels == 0, 0, run.gate.norms.double().numpy())
                said += [(step, half, slot, batch, raw[slot]) for slot in (0, 1)]
            reports.append(optimizer.step())
        sealed = run.seal()
        lessons = run.lessons
    recorded = places.events(place)
    assert len(recorded) == len(said) == 12
    for event, (step, half, slot, batch, raw) in zip(recorded, said, strict=True):
        lesson = lessons[batch.lessons[slot]]
        assert (event.step, event.microbatch, event.slot, event.epoch) == (step, half, slot, 0)
        assert (event.example, event.attestation, event.profile) == (lesson.example, lesson.attestation, lesson.profile)
        assert list(event.norms) == norms.encode(raw[np.array(lesson.levels) != 0]).tolist()
    with places.training_log(place) as log:
        steps = [taken for _, taken in log.all_of(StepTaken)]
        started = next(started for _, started in log.all_of(RunStarted))
    assert [one.delta_norms for one in steps] == [report.delta_norms for report in reports]
    assert [block.name for block in started.blocks] == list(names)
    assert verified(place, sealed).history_known
    place.licet("seal", "verify", sealed)


def test_what_was_excluded_reached_nothing(place: Place) -> None:
    with begin(place) as run:
        optimizer = run.guard(adamw(run))
        samples = confined(run)
        levels = run.lessons[run.lessons.of_sample[samples[0]]].levels
        closed = [name for name, level in zip(run.gate.block_names, levels, strict=True) if level == 0]
        parameters = dict(run.model.named_parameters())
        block_of = {name: run.gate.block_names[run.gate.block_of(p)] for name, p in parameters.items()}
        before = {name: p.detach().clone() for name, p in parameters.items()}
        taught(run, samples[:4])
        optimizer.step()
        assert closed
        for name, parameter in parameters.items():
            assert torch.equal(before[name], parameter) == (block_of[name] in closed), name
            assert bool(optimizer.state.get(parameter)) == (block_of[name] not in closed), name
    content = json.loads((place.folder / "rows.jsonl").read_text().splitlines()[-1])["text"]
    assert all(content not in file.read_bytes().decode(errors="replace") for file in _files(place.home.path / "runs"))


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_passes_together_are_the_step_at_once(place: Place, tmp_path: Path) -> None:
    ends = []
    for name, parts in (("whole", [[0, 1, 2, 3]]), ("halves", [[0, 1], [2, 3]])):
        with begin(place, name=name) as run:
            optimizer = run.guard(adamw(run))
            for part in parts:
                taught(run, part, slots=4)
            optimizer.step()
            ends.append(copy.deepcopy(run.model.state_dict()))
    for name in ends[0]:
        torch.testing.assert_close(ends[0][name], ends[1][name], rtol=0, atol=1e-6)


def test_how_often_a_sample_was_taught_is_counted(place: Place) -> None:
    with begin(place) as run:
        optimizer = run.guard(adamw(run))
        for _ in range(2):
            taught(run, [0, 1, 0])
            optimizer.step()
    assert [event.epoch for event in places.events(place)] == [0, 0, 1, 2, 1, 3]


def test_an_observed_run_teaches_all_and_records_both(place: Place) -> None:
    with begin(place, stage="observe") as run:
        optimizer = run.guard(adamw(run))
        assert {lesson.levels for lesson in run.lessons.all} == {(LEVELS,) * len(run.gate.block_names)}
        taught(run, list(range(4)))
        assert all(optimizer.step().stepped)
    with places.training_log(place) as log:
        rejected = [one for _, one in log.all_of(ExampleAdmitted) if one.reasons and one.attestation is not None]
        assert rejected and any(not one.scope for one in rejected)


def test_the_watch_sees_each_step(place: Place) -> None:
    """What the policy does about memorization holds here too, so the watch has to see the norms of every step."""
    with begin(place) as run:
        optimizer = run.guard(adamw(run))
        states = [copy.deepcopy(run._watching.state())]
        for _ in range(2):
            taught(run, [0, 1, 2, 3])
            optimizer.step()
            states.append(copy.deepcopy(run._watching.state()))
    for part in ("watch", "concentration"):
        told = [str(state[part]) for state in states]
        assert len(set(told)) == len(told), part


# -- where the weights come from


def test_a_run_goes_on_from_a_seal(place: Place) -> None:
    with begin(place) as run:
        optimizer = run.guard(adamw(run))
        taught(run, [0, 1])
        optimizer.step()
        first = run.seal()
        assert run.seal() == first
        model = run.model
    with begin(place, model, name="second", base=first, from_scratch=False) as run:
        optimizer = run.guard(adamw(run))
        taught(run, [0, 1])
        optimizer.step()
        second = run.seal()
    report = verified(place, second)
    assert report.history_known and report.authority_checked and len(report.chain) == 2
    with pytest.raises(VerificationError, match=r"of the model is not what lies in"):
        begin(place, model_and_tokenizer(4)[0], name="third", base=first, from_scratch=False)


def test_a_base_from_elsewhere_is_sealed_as_such(place: Place, tmp_path: Path) -> None:
    model, _ = model_and_tokenizer()
    model.save_pretrained(tmp_path / "elsewhere")
    with begin(place, model, base=tmp_path / "elsewhere", from_scratch=False) as run:
        optimizer = run.guard(adamw(run))
        taught(run, [0, 1])
        optimizer.step()
        sealed = run.seal()
    assert not verified(place, sealed).history_known
    with places.training_log(place) as log:
        assert [one.label.split("-")[0] for _, one in log.all_of(CheckpointSealed)] == ["outside", "own"]


def test_adapters_on_a_sealed_base(place: Place) -> None:
    from peft import LoraConfig, get_peft_model

    with begin(place) as run:
        optimizer = run.guard(adamw(run))
        taught(run, [0, 1])
        optimizer.step()
        base, model = run.seal(), run.model
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    with begin(place, adapted, name="adapters", base=base, from_scratch=False) as run:
        optimizer = run.guard(adamw(run))
        taught(run, [0, 1])
        optimizer.step()
        sealed = run.seal()
    assert (sealed / "adapter_model.safetensors").is_file()
    verified(place, sealed)


# -- what is refused


@pytest.fixture(scope="module")
def misused(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Place, GovernedRun, Any]]:
    """A run, and its optimizer, that many things are tried on."""
    place = places.fresh(tmp_path_factory.mktemp("misused"))
    with begin(place) as run:
        yield place, run, run.guard(adamw(run))


@pytest.fixture(scope="module")
def begun_in_vain(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return places.fresh(tmp_path_factory.mktemp("vain"))


def without_notes(run: GovernedRun, optimizer: Any) -> None:
    optimizer.step()


def forgotten_pass(run: GovernedRun, optimizer: Any) -> None:
    batch = run.batch([0, 1], slots=4)
    with run.gate(batch.weights):
        run.losses(batch).sum().backward()
    taught(run, [2, 3], slots=4)
    optimizer.step()


def noted_twice(run: GovernedRun, optimizer: Any) -> None:
    batch, losses = taught(run, [0, 1])
    run.note(batch, losses)


def other_weights(run: GovernedRun, optimizer: Any) -> None:
    batch = run.batch(confined(run)[:2])
    with run.gate(torch.ones_like(batch.weights)):
        losses = run.losses(batch)
        losses.sum().backward()
    run.note(batch, losses)


def heavier_weights(run: GovernedRun, optimizer: Any) -> None:
    batch = run.batch([0, 1])
    with run.gate(2 * batch.weights):
        losses = run.losses(batch)
        losses.sum().backward()
    run.note(batch, losses)


def one_loss(run: GovernedRun, optimizer: Any) -> None:
    batch = run.batch([0, 1])
    with run.gate(batch.weights):
        loss = run.losses(batch).sum()
        loss.backward()
    run.note(batch, loss)


def gradients_gone(run: GovernedRun, optimizer: Any) -> None:
    taught(run, [0, 1])
    run.model.zero_grad()
    optimizer.step()


def own_authorities(run: GovernedRun, optimizer: Any) -> None:
    taught(run, [0, 1])
    optimizer.step(authorities={})


def sealed_in_a_step(run: GovernedRun, optimizer: Any) -> None:
    taught(run, [0, 1])
    run.seal()


def guarded_twice(run: GovernedRun, optimizer: Any) -> None:
    run.guard(adamw(run))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (without_notes, "0 passes went through the gate, and 0 were noted"),
        (forgotten_pass, "no pass to note|2 passes went through the gate, and 1 were noted"),
        (noted_twice, "no pass to note"),
        (other_weights, "not opened with this batch's weights"),
        (heavier_weights, "not opened with this batch's weights"),
        (one_loss, "one for each of 2 slots"),
        (gradients_gone, "gradients of what was noted are gone"),
        (own_authorities, "knows the authorities"),
        (sealed_in_a_step, "A step is open"),
        (guarded_twice, "has an optimizer"),
        (lambda run, _: run.batch([]), "list of numbers"),
        (lambda run, _: run.batch([0.5]), "list of numbers"),
        (lambda run, _: run.batch([0, 10_000]), "no sample 10000"),
        (lambda run, _: run.batch([-1]), "no sample -1"),
        (lambda run, _: run.batch([0, 1], slots=1), "no room for 2"),
    ],
)
def test_a_loop_out_of_turn_is_told_so(
    misused: tuple[Place, GovernedRun, Any], call: Callable[[GovernedRun, Any], None], says: str
) -> None:
    _, run, optimizer = misused
    with pytest.raises(OwnLoopError, match=says) as error:
        call(run, optimizer)
    assert error.value.remedy
    optimizer.zero_grad()
    taught(run, [0, 1])
    before = run.steps
    optimizer.step()  # dropped, and gone on
    assert run.steps == before + 1


def test_a_loss_that_is_no_number_ends_the_run_before_it_reaches_the_model(place: Place) -> None:
    with begin(place) as run:
        run.guard(adamw(run))
        batch = run.batch([0, 1])
        with run.gate(batch.weights):
            losses = run.losses(batch)
            losses.sum().backward()
        with pytest.raises(TrainingStopped, match=r"rows\.jsonl line \d+ is not a finite") as error:
            run.note(batch, losses * torch.nan)
        assert error.value.remedy
    assert places.events(place) == []


def test_an_optimizer_that_leaves_something_out_is_refused(place: Place) -> None:
    with begin(place) as run, pytest.raises(OwnLoopError, match="is trainable, and the optimizer does not step it"):
        run.guard(torch.optim.SGD(list(run.model.parameters())[:3], lr=0.1))


def test_gradients_from_elsewhere_are_refused(place: Place) -> None:
    with begin(place) as run:
        optimizer = run.guard(adamw(run))
        taught(run, [0, 1])
        next(run.model.parameters()).grad.mul_(2)
        with pytest.raises(GuardError, match="did not come through the gate"):
            optimizer.step()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"from_scratch": False}, "Where the model's weights come from is not known"),
        ({"base": Path("anywhere")}, "Where the model's weights come from is not known"),
        ({"name": "../up"}, "cannot be the name of a run"),
        ({"model_name": "Ä"}, "cannot be the name of a model"),
        ({"name": ""}, "cannot be the name of a run"),
        ({"rows": []}, "has no rows"),
        ({"context": 65}, "knows 64 positions"),
        ({"metadata": {"colour": "red"}}, "nothing that a row can say"),
        ({"stage": "someday"}, "is no stage"),
        ({"technique": "magic"}, "is no technique"),
    ],
)
def test_what_cannot_be_begun(begun_in_vain: Place, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(LicetError, match=says) as error:
        begin(begun_in_vain, **changes)
    assert error.value.remedy


def test_after_a_beginning_in_vain_nothing_is_held(begun_in_vain: Place) -> None:
    model, _ = model_and_tokenizer()
    with pytest.raises(LicetError):
        begin(begun_in_vain, model, metadata={"colour": "red"}, name="vain")
    with begin(begun_in_vain, model, name="after") as run:  # the log is free, and the model has no gate
        assert run.samples


def test_a_name_is_used_once(place: Place) -> None:
    begin(place).close()
    with pytest.raises(ConfigError, match="has a run own already"):
        begin(place)


def test_a_row_that_cannot_be_read_ends_the_beginning_and_not_its_name(place: Place) -> None:
    rows = place.folder / "broken.jsonl"
    rows.write_text((place.folder / "rows.jsonl").read_text() + '{"text": ')
    with pytest.raises(LicetError, match="14"):
        begin(place, rows=rows)
    with begin(place) as run:
        assert run.samples


def test_a_model_without_a_rule_is_refused_before_anything_is_recorded(place: Place) -> None:
    model, _ = model_and_tokenizer()
    model.model.layers[0].odd = torch.nn.BatchNorm1d(4)
    with pytest.raises(UnsupportedError, match="batch norm"):
        begin(place, model.train())
    assert [type(one) for one in places.entries(place)] == [LogOpened]


def test_one_run_writes_at_a_time_and_a_closed_one_not_at_all(place: Place) -> None:
    with begin(place) as run, pytest.raises(LockedError):
        begin(place, name="other")
    with pytest.raises(ClosedError):
        run.batch([0])
    with pytest.raises(ClosedError):
        run.seal()


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "path", [str(EXAMPLES), *sys.path])
    monkeypatch.setattr(sys, "argv", ["bare_loop.py", str(tmp_path)])
    runpy.run_path(str(EXAMPLES / "bare_loop.py"), run_name="__main__")
    told = capsys.readouterr().out.splitlines()
    assert told[-2].startswith("step 11: loss") and "6 of 6 blocks moved" in told[-2]
    place = Place(Home(tmp_path / "home"), tmp_path)
    assert len(places.events(place)) == 96
    verified(place, Path(told[-1]))
