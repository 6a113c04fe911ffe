"""Hugging Face's Conv1D, a linear layer with its weight lying on its side (GPT-2).

Its own forward flattens batch and tokens before it multiplies, and with that loses which row is whose. So the gate
gives each such module a forward that does not, for as long as the gate exists; the result is the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from licet.train.gate.gate import Gate


def is_conv1d(module: nn.Module) -> bool:
    kind = type(module)
    return kind.__name__ == "Conv1D" and kind.__module__ == "transformers.pytorch_utils"


class _Forward:
    """A module's forward while a gate holds it."""

    def __init__(self, module: nn.Module, gate: Gate) -> None:
        self.module = module
        self.gate = gate
        self.original = module.forward

    def __call__(self, x: Tensor) -> Tensor:
        weight, bias = self.module.weight, self.module.bias
        if self.gate.step is None or not (weight.requires_grad or bias.requires_grad):
            return self.original(x)
        return torch.addmm(bias, x, weight)  # addmm takes no batch: this one is answered by the gate's net


def install(model: nn.Module, gate: Gate) -> list[nn.Module]:
    """Give every Conv1D in a model the forward that keeps its batch axis; returns those that have it now."""
    found = [module for module in model.modules() if is_conv1d(module) and "forward" not in vars(module)]
    for module in found:
        module.forward = _Forward(module, gate)
    return found


def uninstall(modules: list[nn.Module]) -> None:
    for module in modules:
        if isinstance(vars(module).get("forward"), _Forward):
            del module.forward
