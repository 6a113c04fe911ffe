"""Norm layers: Gₙ = Σ over positions of d ⊙ x̂ for the scale, Σ d for the shift.

Only layer norm has a function of its own; the others are split into the plain norm and a scale and shift by
broadcasting. Model families' own RMSNorm classes multiply by their weight, and come to `expanded` by themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from licet.train.gate.expanded import pointwise
from licet.train.gate.gradients import through_gate
from licet.train.gate.registry import handles
from licet.train.gate.rules import Use, rule
from licet.train.gate.targets import Target


class GatedLayerNorm(torch.autograd.Function):
    """Saves what torch's own saves: x and two numbers for each row."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        shape: tuple[int, ...],
        eps: float,
        for_weight: Target | None,
        for_bias: Target | None,
        serial: int,
    ) -> Tensor:
        out, mean, rstd = torch.native_layer_norm(x, shape, weight, bias, eps)
        ctx.save_for_backward(x, weight, bias, mean, rstd)
        ctx.shape, ctx.targets, ctx.serial = shape, (for_weight, for_bias), serial
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d: Tensor) -> tuple[Any, ...]:
        x, weight, bias, mean, rstd = ctx.saved_tensors
        for_weight, for_bias = ctx.targets
        dx = dw = db = None
        if ctx.needs_input_grad[0]:
            dx = torch.ops.aten.native_layer_norm_backward(
                d.contiguous(), x, ctx.shape, mean, rstd, weight, bias, [True, False, False]
            )[0]
        if ctx.needs_input_grad[1]:
            dw = through_gate("layer_norm", for_weight, ctx.serial, (x, mean, rstd, d), weight, weight.shape)
        if ctx.needs_input_grad[2]:
            db = through_gate("shift", for_bias, ctx.serial, (d,), bias, bias.shape)
        return dx, dw, db, None, None, None, None, None


@handles(F.layer_norm)
def layer_norm(
    net: Any,
    func: Any,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    for_weight, for_bias = net.target(weight), net.target(bias)
    if net.target(input) is not None:
        return net.derive(func, (input, normalized_shape, weight, bias, eps), {})  # type: ignore[no-any-return]
    net.placement.check(input.shape, (for_weight or for_bias).name)
    net.enter("layer_norm", for_weight)
    net.enter("shift", for_bias)
    if not torch.is_grad_enabled():
        return func(input, normalized_shape, weight, bias, eps)  # type: ignore[no-any-return]
    if input.is_cuda and torch.is_autocast_enabled("cuda"):
        input = input.float()  # autocast computes norms in float32 there
    return GatedLayerNorm.apply(  # type: ignore[no-any-return]
        input,
        net.source(weight),
        net.source(bias),
        tuple(normalized_shape),
        eps,
        for_weight,
        for_bias,
        net.step_of_use(),
    )


@handles(F.rms_norm, torch.rms_norm)
def rms_norm(
    net: Any,
    func: Any,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    if net.target(input) is not None or weight is None:
        return net.derive(func, (input, normalized_shape, weight, eps), {})  # type: ignore[no-any-return]
    plain = func(input, normalized_shape, None, eps)
    return pointwise(net, torch.mul, plain, weight)  # type: ignore[no-any-return]


@handles(F.group_norm)
def group_norm(
    net: Any,
    func: Any,
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    if net.target(input) is not None:
        return net.derive(func, (input, num_groups, weight, bias, eps), {})  # type: ignore[no-any-return]
    return _by_channel(net, func(input, num_groups, None, None, eps), weight, bias)


@handles(F.batch_norm)
def batch_norm(
    net: Any,
    func: Any,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if training:
        raise net.refuse(
            "a batch norm in training mixes the examples of a batch.", net.target(weight) or net.target(bias)
        )
    return _by_channel(net, func(input, running_mean, running_var, None, None, False, momentum, eps), weight, bias)


def _by_channel(net: Any, plain: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    out = plain
    for function, parameter in ((torch.mul, weight), (torch.add, bias)):
        if parameter is None:
            continue
        shape = (-1,) + (1,) * (plain.dim() - 2)
        if net.target(parameter) is None:
            out = function(out, parameter.view(shape))
        else:
            out = pointwise(net, function, out, net.derive(Tensor.view, (parameter, shape), {}))
    return out


# -- the rules


def _scale(use: Use, example: int) -> Tensor:
    x, mean, rstd, d = (use.placement.part(t, example).to(use.dtype) for t in use.tensors)
    return ((x - mean) * rstd).mul_(d).sum_to_size((1,) * (d.dim() - len(use.shape)) + use.shape).reshape(use.shape)


def _shift(use: Use, example: int) -> Tensor:
    d = use.placement.part(use.tensors[0], example).to(use.dtype)
    return d.sum_to_size((1,) * (d.dim() - len(use.shape)) + use.shape).reshape(use.shape)


rule("layer_norm", _scale)
rule("shift", _shift)
