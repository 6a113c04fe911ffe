"""Hugging Face's Trainer under the gate: the same events and the same model as a loop of one's own."""

from __future__ import annotations

import copy
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import TrainerCallback, TrainingArguments

from licet.ledger import norms
from licet.ledger.home import Home
from licet.ledger.records import GradientApplied, StepTaken
from licet.train.own.huggingface import GovernedTrainer, TrainerError
from licet.train.own.run import GovernedRun
from tests.train import places
from tests.train.homes import Place
from tests.train.own_runs import EXAMPLES, adamw, begin, confined, verified


def arguments(place: Place, **changes: Any) -> TrainingArguments:
    said: dict[str, Any] = {
        "output_dir": str(place.folder / "trainer"),
        "max_steps": 3,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "learning_rate": 3e-3,
        "max_grad_norm": 0,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        **changes,
    }
    return TrainingArguments(**said)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return places.fresh(tmp_path)


@pytest.fixture(scope="module")
def waiting(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A place and a run that nothing comes of."""
    place = places.fresh(tmp_path_factory.mktemp("waiting"))
    with begin(place) as run:
        yield place, run


class Seen(TrainerCallback):
    """What the gate's norms were before each optimizer step."""

    def __init__(self, run: GovernedRun) -> None:
        self.run = run
        self.norms: list[np.ndarray] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        self.norms.append(self.run.gate.norms.double().numpy().copy())


def trained(place: Place, run: GovernedRun, **changes: Any) -> tuple[GovernedTrainer, Seen]:
    trainer = GovernedTrainer(run, arguments(place, **changes))
    seen = Seen(run)
    trainer.add_callback(seen)
    trainer.train()
    return trainer, seen


def test_events_are_what_the_gate_said_and_the_seal_is_good(place: Place) -> None:
    with begin(place) as run:
        trainer, seen = trained(place, run)
        lessons, names = run.lessons, run.gate.block_names
    events = places.events(place)
    assert [(e.step, e.microbatch, e.slot) for e in events] == [
        (step, half, slot) for step in range(3) for half in (0, 1) for slot in (0, 1)
    ]
    levels = {lesson.example: np.array(lesson.levels) for lesson in lessons.all}
    for step in range(3):
        mine = [event for event in events if event.step == step and event.microbatch == 1]
        for event, raw in zip(mine, seen.norms[step], strict=True):
            reached = levels[int(event.example)] != 0
            assert list(event.norms) == norms.encode(raw[reached]).tolist()
            assert np.isnan(raw[~reached]).all() and len(names) == len(raw)
    with places.training_log(place) as log:
        steps = [taken for _, taken in log.all_of(StepTaken)]
    said = [line for line in trainer.state.log_history if "grad_norm" in line]
    assert [one.loss for one in steps] == pytest.approx([line["loss"] for line in said], rel=1e-3)
    assert all(line["grad_norm"] > 0 for line in said)
    assert trainer.sealed is not None and trainer.sealed.name == "own-00000003"
    assert verified(place, trainer.sealed).history_known
    place.licet("seal", "verify", trainer.sealed)


def test_it_equals_a_loop_of_ones_own(place: Place) -> None:
    with begin(place, name="trainer") as run:
        drawn: list[list[int]] = []
        trainer = GovernedTrainer(run, arguments(place, weight_decay=0.0, optim="adamw_torch"))
        collate = trainer.data_collator
        trainer.data_collator = lambda features: (drawn.append(list(features)), collate(features))[1]
        trainer.train()
        ours = copy.deepcopy(run.model.state_dict())
    with places.training_log(place) as log:
        rates = [taken.learning_rate for _, taken in log.all_of(StepTaken)]
    with begin(place, name="bare") as run:
        optimizer = run.guard(torch.optim.AdamW(run.model.parameters(), lr=0.0, weight_decay=0.0))
        for step, rate in enumerate(rates):
            optimizer.param_groups[0]["lr"] = rate
            for samples in drawn[2 * step : 2 * step + 2]:
                batch = run.batch(samples, slots=4)
                with run.gate(batch.weights):
                    losses = run.losses(batch)
                    losses.sum().backward()
                run.note(batch, losses)
            optimizer.step()
        theirs = run.model.state_dict()
    assert rates[0] > rates[-1] > 0
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=1e-6)
    one, other = (
        [e for e in places.entries(place, name) if isinstance(e, GradientApplied)] for name in ("trainer", "bare")
    )
    assert [(e.step, e.microbatch, e.slot, e.norms) for e in one[:12]] == [
        (e.step, e.microbatch, e.slot, e.norms) for e in other[:12]
    ]


def test_what_was_excluded_reached_nothing(place: Place) -> None:
    """Trained on what is confined alone, the blocks that are closed to it stay as they were, to the bit."""
    with begin(place) as run:
        closed = run.lessons[int(run.lessons.of_sample[confined(run)[0]])].levels
        kept = confined(run)
        trainer = GovernedTrainer(run, arguments(place, weight_decay=0.1))
        trainer.train_dataset = kept  # type: ignore[assignment]  # numbers of samples, as any dataset of them
        before = {name: value.detach().clone() for name, value in run.model.named_parameters()}
        trainer.train()
        for name, parameter in run.model.named_parameters():
            assert torch.equal(before[name], parameter) == (closed[run.gate.block_of(parameter)] == 0), name


def test_a_save_is_a_seal_and_evaluation_goes_on_as_usual(place: Place) -> None:
    with begin(place) as run:
        rows = [{"input_ids": [5, 6, 7, 8], "labels": [5, 6, 7, 8]} for _ in range(3)]
        optimizer = adamw(run)
        trainer = GovernedTrainer(
            run,
            arguments(place, save_strategy="steps", save_steps=1, eval_strategy="steps", eval_steps=2, bf16=True),
            eval_dataset=rows,
            optimizers=(optimizer, None),
        )
        trainer.train()
        assert any("eval_loss" in line for line in trainer.state.log_history)
        assert optimizer.state and trainer.state.total_flos > 0
        trainer.save_model()
        with pytest.raises(TrainerError, match="would have no seal"):
            trainer.save_model(str(place.folder / "elsewhere"))
        with pytest.raises(TrainerError, match="was trained already"):
            trainer.train()
    models = place.home.path / "models" / "tiny"
    assert sorted(path.name for path in models.iterdir()) == [f"own-0000000{i}" for i in (1, 2, 3)]
    assert len(verified(place, models / "own-00000003").chain) == 3
    assert not list((place.folder / "trainer").glob("checkpoint-*"))


@pytest.mark.parametrize(
    ("setting", "value", "says"),
    [
        ("max_grad_norm", 1.0, "rescale another"),
        ("label_smoothing_factor", 0.1, "Losses are the run's objective's"),
        ("auto_find_batch_size", True, "begin again"),
        ("push_to_hub", True, "Push the sealed folder"),
        ("use_liger_kernel", True, "no rule"),
        ("train_sampling_strategy", "group_by_length", "Lengths of samples"),
        ("optim", "lomo", "no guard can stand"),
        ("fp16", True, "Use bf16"),
        ("deepspeed", "stage3.json", "does not see them"),
        ("fsdp", "full_shard", "sharded = true"),
        ("load_best_model_at_end", True, "other weights"),
    ],
)
def test_settings_that_would_make_the_record_untrue_are_refused(
    waiting: Any, setting: str, value: Any, says: str
) -> None:
    place, run = waiting
    args = arguments(place)
    setattr(args, setting, value)
    with pytest.raises(TrainerError, match=f"{setting}=.*cannot be governed.*{says}"):
        GovernedTrainer(run, args)


@pytest.mark.parametrize("given", ["model", "model_init", "train_dataset", "compute_loss_func"])
def test_what_is_the_runs_cannot_be_given_again(waiting: Any, given: str) -> None:
    place, run = waiting
    with pytest.raises(TrainerError, match=f"{given} cannot be given") as error:
        GovernedTrainer(run, arguments(place), **{given: object()})
    assert error.value.remedy


def test_a_checkpoint_is_not_resumed(waiting: Any) -> None:
    place, run = waiting
    with pytest.raises(TrainerError, match="not resumed"):
        GovernedTrainer(run, arguments(place)).train(resume_from_checkpoint=True)


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "path", [str(EXAMPLES), *sys.path])
    monkeypatch.setattr(sys, "argv", ["huggingface_trainer.py", str(tmp_path)])
    runpy.run_path(str(EXAMPLES / "huggingface_trainer.py"), run_name="__main__")
    place = Place(Home(tmp_path / "home"), tmp_path)
    with places.training_log(place) as log:
        steps = [taken for _, taken in log.all_of(StepTaken)]
    assert len(steps) == 8 and sum(one.events for one in steps) == len(places.events(place)) > 48
    verified(place, Path(capsys.readouterr().out.splitlines()[-1]))
