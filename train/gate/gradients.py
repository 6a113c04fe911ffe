"""The one place through which every gated gradient passes, on its way from a backward function to its parameter.

Compiled code sees a single opaque operator instead: what happens here depends on the weights, and cannot be traced.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from licet.train.gate.errors import UngatedError
from licet.train.gate.rules import RULES, Use
from licet.train.gate.targets import Target

if TYPE_CHECKING:
    from licet.train.gate.gate import Gate

_KEYS_PER_GATE = 1 << 32
_GATES: WeakValueDictionary[int, Gate] = WeakValueDictionary()
"""Not thread-local: on a GPU the backward pass runs in threads of its own."""


def register(gate: Gate, number: int) -> int:
    """Make a gate known to compiled code; returns the key of its first slot."""
    _GATES[number] = gate
    return number * _KEYS_PER_GATE


def through_gate(
    rule: str,
    target: Target,
    serial: int,
    tensors: Sequence[Tensor],
    parameter: Tensor,
    shape: Sequence[int],
    options: Sequence[int] = (),
) -> Tensor | None:
    """The share of a parameter in what came back to one of its uses; None where nobody has one.

    `shape` is that of the parameter as the layer saw it, `serial` the step of the forward pass, 0 if compiled.
    """
    if torch.compiler.is_compiling():
        out: Tensor = torch.ops.licet.gated(
            rule, list(tensors), list(shape), list(options), parameter.dtype, target.key
        )
        return out
    return _receive(rule, target, serial, tensors, parameter.dtype, shape, options)


def _receive(
    rule: str,
    target: Target,
    serial: int,
    tensors: Sequence[Tensor],
    dtype: torch.dtype,
    shape: Sequence[int],
    options: Sequence[int],
) -> Tensor | None:
    step = target.gate.step
    if step is None or (serial and step.serial != serial):
        raise UngatedError(
            f"A gradient for {target.name} arrived outside of the `with gate(weights)` of its forward pass.",
            remedy="Call backward() inside the same `with` as the model.",
        )
    use = Use(tuple(tensors), tuple(options), tuple(shape), step.placement, step.scratch)
    # Without DisableTorchFunction the net would look at every product in here.
    with torch._C.DisableTorchFunction(), torch.no_grad(), torch.autocast(tensors[-1].device.type, enabled=False):
        found = step.receive(target, RULES[rule], use)
    return None if found is None else found.to(dtype).reshape(tuple(shape))


@torch.library.custom_op("licet::gated", mutates_args=())
def _gated(
    rule: str, tensors: Sequence[Tensor], shape: Sequence[int], options: Sequence[int], dtype: torch.dtype, key: int
) -> Tensor:
    gate = _GATES.get(key // _KEYS_PER_GATE)
    if gate is None:
        raise UngatedError("Compiled code calls a gate that is gone.", remedy="Compile the model anew, with its gate.")
    found = _receive(rule, gate.target_of(key), 0, tensors, dtype, shape, options)
    # An operator has to return something; Gate takes these zeros out again where there was no gradient before.
    return tensors[-1].new_zeros(tuple(shape), dtype=dtype) if found is None else found.clone()


@_gated.register_fake
def _(
    rule: str, tensors: Sequence[Tensor], shape: Sequence[int], options: Sequence[int], dtype: torch.dtype, key: int
) -> Tensor:
    return tensors[-1].new_empty(tuple(shape), dtype=dtype)
