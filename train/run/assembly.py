"""The parts of a run, put together: model, gate, guarded optimizer, watch and loop, as the run file says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from licet.ledger.records import ProfileAdapted, Stage
from licet.train.data.lessons import Lessons
from licet.train.data.tokens import TokenStore
from licet.train.gate import Gate
from licet.train.objectives import (
    ChatObjective,
    Objective,
    PreferenceObjective,
    PretrainingObjective,
    adapter_reference,
    frozen_reference,
)
from licet.train.rights import reserved_rights
from licet.train.run import models
from licet.train.run.file import RunFile
from licet.train.run.loop import Loop
from licet.train.run.optimizers import guarded
from licet.train.run.planning import Plan, described, phases_of
from licet.train.run.ranks import Ranks, like, spread
from licet.train.run.recorder import Recorder
from licet.train.run.schedule import Schedule
from licet.train.run.state import RunState
from licet.train.run.teaching import Teaching, repeats_max
from licet.train.seals.weights import load_weights
from licet.train.watch.adapting import Adapting
from licet.train.watch.watching import Watching


@dataclass(frozen=True, slots=True)
class Assembled:
    """A loop, and the model that it trains, without what several ranks or compilation put around it."""

    loop: Loop
    model: nn.Module
    adapting: Adapting

    def facts(self) -> dict[str, Any]:
        """What has to be kept beside weights and optimizer for the run to go on."""
        return {
            "teaching": self.loop.teaching.state(),
            "watching": self.loop.watching.state(),
            "adapting": self.adapting.state(),
        }

    def restore(self, state: RunState) -> None:
        self.loop.teaching.restore(state.facts["teaching"])
        self.loop.watching.restore(state.facts["watching"])
        self.adapting.restore(state.facts["adapting"])
        optimizer = self.loop.optimizer
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        placed = {
            index: {
                name: like(value, parameters[index]) if torch.is_tensor(value) else value
                for name, value in held.items()
            }
            for index, held in state.optimizer["state"].items()
        }
        optimizer.load_state_dict({**state.optimizer, "state": placed})


def assemble(
    plan: Plan,
    tokenizer: Any,
    lessons: Lessons,
    store: TokenStore,
    ranks: Ranks,
    recorder: Recorder | None,
    state: RunState | None = None,
    weights: Path | None = None,
) -> Assembled:
    """Everything for steps to be taken. With a state, from the sealed weights that it belongs to."""
    file, model = plan.run.file, plan.base.model
    models.check_context(model, file.objective.context)
    prefixes = plan.prefixes
    if file.method == "lora":
        model = models.with_adapters(model, file.lora, file.seed)
        prefixes = described(model, file)[1]
    objective = objective_of(file, tokenizer, model)
    if weights is not None:
        load_weights(model, weights)
    model = models.prepare(model, file.model)
    ranks.check(file.schedule.batch // file.schedule.accumulate)
    outer = spread(model, ranks, sharded=file.model.sharded)
    gate = Gate(model, prefixes, technique=file.technique)
    reserved = reserved_rights(plan.gate.policies, plan.gate.layouts) if file.stage is Stage.ENFORCE else {}
    optimizer = guarded(file.optimizer, model, gate, reserved=reserved)
    schedule = Schedule(file.schedule, lessons.samples, file.seed)
    teaching = Teaching(
        lessons,
        plan.layout,
        phases_of(file),
        steps=schedule.steps,
        repeats_max=repeats_max(plan.gate.policies, file.stage),
    )
    loop = Loop(
        model=torch.compile(outer) if file.model.compile else outer,
        gate=gate,
        optimizer=optimizer,
        objective=objective,
        store=store,
        lessons=lessons,
        schedule=schedule,
        teaching=teaching,
        watching=Watching.of(plan.policy, teaching, lessons, plan.layout, file.stage),
        recorder=recorder,
        stage=file.stage,
        learning_rate=file.optimizer.learning_rate,
        width=file.objective.context,
        seed=file.seed,
        ranks=ranks,
        autocast=torch.bfloat16 if file.model.autocast == "bfloat16" else None,
    )
    run = recorder.run if recorder is not None else 0
    known = recorder.ledger.all_of(ProfileAdapted) if recorder is not None else []
    adapting = Adapting(plan.policy, plan.layout, prefixes, run, [adapted for _, adapted in known])
    assembled = Assembled(loop, model, adapting)
    if state is not None:
        assembled.restore(state)
    return assembled


def objective_of(file: RunFile, tokenizer: Any, model: nn.Module | None = None) -> Objective:
    """What is learned. Preferences are held against the model as it begins."""
    part = file.objective
    match part.kind:
        case "pretraining":
            return PretrainingObjective(tokenizer, part.context)
        case "chat":
            return ChatObjective(tokenizer, part.context)
        case "preference":
            reference = None
            if model is not None:
                reference = adapter_reference(model) if file.method == "lora" else frozen_reference(model)
            return PreferenceObjective(tokenizer, part.context, beta=part.beta, reference=reference)
