"""The general rule: a parameter used by broadcasting is handed out as one copy per example, and its gradients come back
one by one.

The copies are a view; nothing is copied. It covers norms' scales of any model family, class tokens, position tables
and layer scales: whatever torch broadcasts over the batch axis.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from licet.train.gate.gradients import through_gate
from licet.train.gate.registry import handles
from licet.train.gate.rules import Use, rule
from licet.train.gate.targets import Target

POINTWISE = (
    *(torch.add, torch.sub, torch.mul, torch.div, torch.true_divide, torch.addcmul, torch.lerp, torch.where),
    *(Tensor.add, Tensor.sub, Tensor.mul, Tensor.div, Tensor.true_divide, Tensor.addcmul, Tensor.lerp, Tensor.where),
    *(Tensor.__add__, Tensor.__radd__, Tensor.__sub__, Tensor.__rsub__, Tensor.__mul__, Tensor.__rmul__),
    *(Tensor.__truediv__, Tensor.__rtruediv__, Tensor.add_, Tensor.sub_, Tensor.mul_, Tensor.div_),
    *(Tensor.__iadd__, Tensor.__isub__, Tensor.__imul__, Tensor.__itruediv__, torch.rsub),
)


class Expand(torch.autograd.Function):
    """A parameter, once for every row (and token, if packed)."""

    @staticmethod
    def forward(ctx: Any, parameter: Tensor, shape: tuple[int, ...], lead: int, target: Target, serial: int) -> Tensor:
        ctx.save_for_backward(parameter)
        ctx.lead, ctx.target, ctx.serial = lead, target, serial
        behind = parameter.shape[max(0, parameter.dim() - len(shape) + lead) :]
        return parameter.reshape((1,) * (len(shape) - len(behind)) + tuple(behind)).expand(
            *shape[:lead], *((-1,) * (len(shape) - lead))
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d: Tensor) -> tuple[Any, ...]:
        (parameter,) = ctx.saved_tensors
        found = through_gate("expanded", ctx.target, ctx.serial, (d,), parameter, parameter.shape)
        return found, None, None, None, None


@handles(*POINTWISE)
def pointwise(net: Any, func: Any, *args: Any, **kwargs: Any) -> Any:
    tensors = [a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)]
    shape = torch.broadcast_shapes(*(t.shape for t in tensors))
    lead = net.placement.lead
    known = [net.target(t) for t in tensors]
    others = [t for t, target in zip(tensors, known, strict=True) if target is None]
    # Without an activation among the arguments, a tensor is made of parameters and constants, and has no example axis.
    if not others or tuple(shape[: len(lead)]) != lead or not any(_leads(t, shape, lead) for t in others):
        return net.derive(func, args, kwargs)
    args = tuple(_expanded(net, a, shape) for a in args)
    kwargs = {name: _expanded(net, a, shape) for name, a in kwargs.items()}
    return func(*args, **kwargs)


@handles(Tensor.expand, Tensor.expand_as, Tensor.repeat)
def expand(net: Any, func: Any, parameter: Tensor, *sizes: Any, **kwargs: Any) -> Any:
    target, lead = net.target(parameter), net.placement.lead
    shape = _asked(func, parameter, sizes)
    spreads = target is not None and not kwargs and len(lead) == 1 and shape is not None and shape[0] == lead[0]
    if not spreads or (len(shape) == parameter.dim() and parameter.shape[0] != 1):
        return net.derive(func, (parameter, *sizes), kwargs)
    return _expanded(net, parameter, shape).expand(shape)


def _asked(func: Any, parameter: Tensor, sizes: tuple[Any, ...]) -> tuple[int, ...] | None:
    """The shape that was asked for; None where it is more than a repetition along the batch axis."""
    if func is Tensor.expand_as:
        return tuple(sizes[0].shape)
    flat = tuple(sizes[0]) if len(sizes) == 1 and not isinstance(sizes[0], int) else sizes
    if len(flat) < parameter.dim():
        return None
    own = (1,) * (len(flat) - parameter.dim()) + tuple(parameter.shape)
    if func is Tensor.repeat:
        return (flat[0] * own[0], *own[1:]) if all(n == 1 for n in flat[1:]) else None
    return tuple(o if n == -1 else n for n, o in zip(flat, own, strict=True))


def _leads(tensor: Tensor, shape: torch.Size, lead: tuple[int, ...]) -> bool:
    return tensor.dim() == len(shape) and tuple(tensor.shape[: len(lead)]) == lead


def _expanded(net: Any, value: Any, shape: Any) -> Any:
    target = net.target(value) if isinstance(value, Tensor) else None
    if target is None:
        return value
    lead = len(net.placement.lead)
    aligned = (1,) * (len(shape) - value.dim()) + tuple(value.shape)
    if any(size != 1 for size in aligned[:lead]):
        raise net.refuse(f"of shape {list(value.shape)}, it does not broadcast over the examples.", target)
    net.enter("expanded", target)
    if not torch.is_grad_enabled():
        return value
    return Expand.apply(net.source(value), tuple(shape), lead, target, net.step_of_use())


# -- the rule


def _gradient(use: Use, example: int) -> Tensor:
    part = use.placement.part(use.tensors[0], example)
    return part.sum(0, dtype=use.dtype).reshape(use.shape)


rule("expanded", _gradient)
