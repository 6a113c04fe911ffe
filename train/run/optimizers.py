"""The optimizer of a run, behind the guard."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import distributed as dist
from torch import nn

from licet.train.gate import Gate
from licet.train.optimizer import GuardedOptimizer, NotFinite
from licet.train.run.file import OptimizerPart
from licet.train.run.models import trainable


def guarded(
    part: OptimizerPart,
    model: nn.Module,
    gate: Gate,
    *,
    reserved: Mapping[str, Collection[str]],
    group: dist.ProcessGroup | None = None,
) -> GuardedOptimizer:
    """The optimizer that a run asks for. Norms and biases do not decay."""
    named = trainable(model)
    groups = [
        {"params": [p for _, p in named if p.ndim >= 2], "weight_decay": part.weight_decay},
        {"params": [p for _, p in named if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    inner: torch.optim.Optimizer
    if part.kind == "adamw":
        inner = torch.optim.AdamW(groups, lr=part.learning_rate, betas=part.betas)
    else:
        inner = torch.optim.SGD(groups, lr=part.learning_rate, momentum=part.momentum)
    return GuardedOptimizer(
        inner,
        gate,
        model=model,
        reserved=reserved,
        clip_norm=part.clip_norm,
        not_finite=NotFinite.REFUSE,
        group=group,
    )


def set_rate(optimizer: GuardedOptimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
