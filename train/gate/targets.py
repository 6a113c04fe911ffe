"""What a gradient is for: a parameter, or a tensor made from parameters alone (a view, a cast, a sum with a constant).

Of such a tensor the weighted gradient simply flows back to the parameter, because going back is linear. Only the norm
is asked at the parameter, so each example's gradient is taken there on its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from licet.train.gate.slots import Slot

if TYPE_CHECKING:
    from licet.train.gate.gate import Gate


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """`path` is None for a parameter itself; otherwise the tensor made from `parameters`, with its own history."""

    key: int
    gate: Gate
    slots: tuple[Slot, ...]
    parameters: tuple[Tensor, ...]
    path: Tensor | None = None

    @property
    def block(self) -> int:
        return self.slots[0].block

    @property
    def name(self) -> str:
        return " and ".join(slot.name for slot in self.slots)

    def lifted(self, gradient: Tensor) -> Iterator[tuple[Slot, Tensor]]:
        """One example's gradient, at each parameter."""
        if self.path is None:
            yield self.slots[0], gradient
            return
        cotangent = gradient.reshape(self.path.shape).to(self.path.dtype)
        found = torch.autograd.grad(self.path, self.parameters, cotangent, retain_graph=True)
        yield from zip(self.slots, (g.to(gradient.dtype) for g in found), strict=True)
