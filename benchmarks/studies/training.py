"""The training of one arm: a small Llama behind the gate, the protected source in some slots and others in the rest.

The others' slots are one example to the gate: nobody asks for their norms one by one.

A network is formed by the others' text alone, in all slots. Then comes the lesson, with the source in some of them.
Every arm of a seed begins it with the same network and sees the same texts of the others in the same slots and order.
Where the source may not be taught its slots are null, so nothing else changes.
"""

from __future__ import annotations

import copy
import sys
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.studies.arms import Arm
from benchmarks.studies.measures import mean_loss
from benchmarks.studies.models import Settings, gate_for, make_model
from benchmarks.studies.pupil import Lesson, Pupil
from licet.train.optimizer import GuardedOptimizer

WARM_UP_STEPS = 20
CURVE_POINTS = 8
CURVE_STRIDE = 3
"""On the way only every third chunk of unseen text is looked at."""
NEIGHBOURS_EVERY = 8


@dataclass(slots=True)
class Taught:
    """How a run went."""

    model: nn.Module
    times: list[int]
    """Of each of the source's examples, hot before broad, how often it was taught."""
    curve: list[tuple[int, float, float]] = field(default_factory=list)
    """Steps done, loss on unseen text of the source, and of the others."""


@dataclass(slots=True)
class Forming:
    """One seed's network before anybody was taught the source: the same, bit for bit, in every arm that waits."""

    marks: frozenset[int]
    """The steps at which some arm begins."""
    states: dict[int, tuple[dict[str, Any], dict[str, Any], list[tuple[int, float, float]]]] = field(
        default_factory=dict
    )


def teach(arm: Arm, lesson: Lesson, settings: Settings, seed: int, forming: Forming | None = None) -> Taught:
    """Train one arm from the beginning, or from where another arm of the same seed had waited to."""
    model = make_model(settings, seed)
    gate, protected_row, others_row = gate_for(model, arm)
    inner = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, betas=(0.9, 0.95), weight_decay=settings.weight_decay
    )
    optimizer = GuardedOptimizer(inner, gate, model=model, clip_norm=settings.clip_norm)
    pupil = Pupil(arm, lesson, settings, seed)
    begins, end = settings.forming_steps + arm.first_step(settings.steps), settings.forming_steps + settings.steps
    taught = Taught(model, pupil.times)
    waits = forming is not None and arm.adapter is None
    first = _take_up(taught, inner, forming, begins) if waits else 0
    pupil.skip(first)
    for step in range(first, end):
        if waits and step in forming.marks and step <= begins:
            state = (model.state_dict(), inner.state_dict(), taught.curve)
            forming.states[step] = copy.deepcopy(state)
        if arm.gap is not None and step % NEIGHBOURS_EVERY == 0:
            pupil.neighbours_loss = mean_loss(model, lesson.neighbours)
        rows_NT, shares = pupil.batch(step)
        placed = torch.arange(settings.slots).clamp(max=len(shares))
        with gate(torch.stack([*(share * protected_row for share in shares), others_row]), example_ids=placed):
            losses_NT = _token_losses(model, rows_NT)
            withheld = pupil.withheld(rows_NT, shares)
            # What is withheld counts as nothing, and the denominators do not depend on it.
            (losses_NT.masked_fill(withheld, 0.0).mean(1).sum() / settings.slots).backward()
        pupil.saw(losses_NT.detach().mean(1), shares)
        for group in inner.param_groups:
            group["lr"] = settings.learning_rate * _rate(step, settings)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step >= settings.forming_steps and (end - step - 1) % max(1, settings.steps // CURVE_POINTS) == 0:
            part = slice(None, None, CURVE_STRIDE)
            seen = (mean_loss(model, lesson.unseen[part]), mean_loss(model, lesson.others_unseen[part]))
            taught.curve.append((step + 1 - settings.forming_steps, *seen))
            _say(arm, seed, taught.curve[-1], pupil)
    gate.remove()
    return taught


def _say(arm: Arm, seed: int, point: tuple[int, float, float], pupil: Pupil) -> None:
    """Progress, for whoever waits."""
    step, unseen, others = point
    facts = f"unseen {unseen:.2f}  others {others:.2f}  taught {pupil.loss:.2f}, {pupil.times_mean:.1f} times"
    sys.stderr.write(f"{arm.name}, seed {seed}, step {step}: {facts}\n")


def _take_up(taught: Taught, inner: torch.optim.Optimizer, forming: Forming, until: int) -> int:
    """Load the latest state that the arm has in common with one before it; the step that comes next."""
    step = max((step for step in forming.states if step <= until), default=0)
    if step:
        weights, moments, curve = copy.deepcopy(forming.states[step])
        taught.model.load_state_dict(weights)
        inner.load_state_dict(moments)
        taught.curve.extend(curve)
    return step


def _token_losses(model: nn.Module, rows_NT: Tensor) -> Tensor:
    logits = model(input_ids=rows_NT[:, :-1]).logits
    return cross_entropy(logits.transpose(1, 2), rows_NT[:, 1:], reduction="none")


def _rate(step: int, settings: Settings) -> float:
    """Rises at first, stays while the network forms, then falls to a tenth in a straight line."""
    fall = max(0, step - settings.forming_steps) / settings.steps
    return min(1.0, (step + 1) / WARM_UP_STEPS) * (1 - 0.9 * fall)
