"""What one guarded optimizer step did, block by block: the facts that a `StepTaken` entry states."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StepReport:
    """One optimizer step. Each tuple has a value for each block, in the order of `blocks`."""

    blocks: tuple[str, ...]
    stepped: tuple[bool, ...]
    gradient_norms: tuple[float, ...]
    """Of the gated gradient, before clipping; 0 where there was none."""
    clip_factors: tuple[float, ...]
    """What the gradient was multiplied by; 1 where nothing was clipped."""
    delta_norms: tuple[float, ...]
    """How far the block's parameters moved; 0 where it was not stepped."""
    not_finite: tuple[str, ...]
    """The blocks whose gradient was not finite."""
