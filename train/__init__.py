"""The gate inside the backward pass, the trainer, and seals."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from licet.train.gate import Gate
    from licet.train.optimizer import GuardedOptimizer
    from licet.train.own.huggingface import GovernedTrainer
    from licet.train.own.run import GovernedRun

__all__ = ["Gate", "GovernedRun", "GovernedTrainer", "GuardedOptimizer"]

_HOMES = {
    "Gate": "licet.train.gate",
    "GovernedRun": "licet.train.own.run",
    "GovernedTrainer": "licet.train.own.huggingface",
    "GuardedOptimizer": "licet.train.optimizer",
}


def __getattr__(name: str) -> object:
    """These need torch, and reading a file of rows does not: each is loaded when it is asked for."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
