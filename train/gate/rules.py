"""What a rule is: from what a layer saw and what came back to it, the gradient of one example.

A rule is named, because compiled code can carry a name and not a function.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from licet.train.gate.numerics import square
from licet.train.gate.placement import Placement


class Scratch:
    """Memory that one use after another writes over: asking for it each time costs more than the products."""

    def __init__(self) -> None:
        self._held: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def matrix(self, like: Tensor, dtype: torch.dtype, rows: int, columns: int) -> Tensor:
        """An uninitialised matrix, good until the next one is asked for."""
        key, size = (like.device, dtype), rows * columns
        held = self._held.get(key)
        if held is None or held.numel() < size:
            held = self._held[key] = torch.empty(size, dtype=dtype, device=like.device)
        return held[:size].view(rows, columns)


@dataclass(frozen=True, slots=True)
class Use:
    """One use of one parameter in one backward pass."""

    tensors: tuple[Tensor, ...]
    options: tuple[int, ...]
    shape: tuple[int, ...]
    placement: Placement
    scratch: Scratch

    @property
    def dtype(self) -> torch.dtype:
        """In what gradients and norms are summed: never less than float32."""
        return torch.float64 if self.tensors[-1].dtype == torch.float64 else torch.float32


@dataclass(frozen=True, slots=True)
class Share:
    """The examples that a block takes, and what each counts. One with weight 0 is not in it, and costs nothing."""

    examples: tuple[int, ...]
    weights: tuple[float, ...]


ExampleGradient = Callable[[Use, int], Tensor]
Combined = Callable[[Use, Share], tuple[Tensor, Tensor]]
AtRows = Callable[[Use, int, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Rule:
    """`gradient` gives an example's exact gradient; `combined` the weighted sum and the squared norms.

    `at_rows` is for gradients that are zero in most rows: an example's gradient in the given ones only.
    """

    name: str
    gradient: ExampleGradient
    combined: Combined
    at_rows: AtRows | None = None


RULES: dict[str, Rule] = {}


def rule(name: str, gradient: ExampleGradient, combined: Combined | None = None, at_rows: AtRows | None = None) -> Rule:
    """Enter a rule under its name."""
    RULES[name] = Rule(name, gradient, combined or one_by_one(gradient), at_rows)
    return RULES[name]


def one_by_one(gradient: ExampleGradient) -> Combined:
    """Σ wₙ Gₙ and ‖Gₙ‖², holding one example's gradient at a time."""

    def combined(use: Use, share: Share) -> tuple[Tensor, Tensor]:
        total: Tensor | None = None
        squares = []
        for example, weight in zip(share.examples, share.weights, strict=True):
            found = gradient(use, example)
            squares.append(square(found))
            total = found.mul_(weight) if total is None else total.add_(found, alpha=weight)
        assert total is not None, "a share without examples is answered before any rule is asked"
        return total, torch.stack(squares)

    return combined
