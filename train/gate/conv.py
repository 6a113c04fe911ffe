"""Convolutions: each example's weight gradient from torch's own backward, on that example alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from licet.train.gate.gradients import through_gate
from licet.train.gate.numerics import autocast_type, cast
from licet.train.gate.registry import handles
from licet.train.gate.rules import Use, rule
from licet.train.gate.targets import Target

Geometry = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], bool, tuple[int, ...], int]
"""Stride, padding, dilation, transposed, output padding, groups."""


class GatedConvolution(torch.autograd.Function):
    """Any convolution with its batch in front."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        geometry: Geometry,
        for_weight: Target | None,
        for_bias: Target | None,
        serial: int,
    ) -> Tensor:
        w = cast(weight, x.dtype)
        ctx.save_for_backward(x, w, weight, bias)
        ctx.geometry, ctx.targets, ctx.serial = geometry, (for_weight, for_bias), serial
        return torch.convolution(x, w, cast(bias, x.dtype), *geometry)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d: Tensor) -> tuple[Any, ...]:
        x, w, weight, bias = ctx.saved_tensors
        for_weight, for_bias = ctx.targets
        dx = dw = db = None
        if ctx.needs_input_grad[0]:
            dx = _backward(d, x, w, ctx.geometry, (True, False, False))[0]
        if ctx.needs_input_grad[1]:
            dw = through_gate("conv", for_weight, ctx.serial, (x, d), weight, weight.shape, _packed(ctx.geometry))
        if ctx.needs_input_grad[2]:
            db = through_gate("channels", for_bias, ctx.serial, (d,), bias, bias.shape)
        return dx, dw, db, None, None, None, None


@handles(F.conv1d, F.conv2d, F.conv3d)
def convolution(
    net: Any,
    func: Any,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    args = (input, weight, bias, stride, padding, dilation, groups)
    axes = weight.dim() - 2
    if padding == "same":
        input, padding = _padded_alike(input, weight, _each(dilation, axes)), 0
    geometry = (
        _each(stride, axes),
        _each(0 if padding == "valid" else padding, axes),
        _each(dilation, axes),
        False,
        (0,) * axes,
        groups,
    )
    return _apply(net, func, args, input, geometry)


@handles(F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
def transposed_convolution(
    net: Any,
    func: Any,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Tensor:
    args = (input, weight, bias, stride, padding, output_padding, groups, dilation)
    stride, padding, output_padding, dilation = (
        _each(value, weight.dim() - 2) for value in (stride, padding, output_padding, dilation)
    )
    return _apply(net, func, args, input, (stride, padding, dilation, True, output_padding, groups))


def _apply(net: Any, func: Any, args: tuple[Any, ...], x: Tensor, geometry: Geometry) -> Tensor:
    original, weight, bias = args[:3]
    for_weight, for_bias = net.target(weight), net.target(bias)
    target = for_weight or for_bias
    if net.target(original) is not None or target is None:
        return net.derive(func, args, {})  # type: ignore[no-any-return]
    if net.placement.packed:
        raise net.refuse("a convolution looks across the examples of a packed row.", target)
    if x.dim() != weight.dim():
        raise net.refuse("a convolution without a batch axis.", target)
    net.placement.check(x.shape, target.name)
    net.enter("conv", for_weight)
    net.enter("channels", for_bias)
    if not torch.is_grad_enabled():
        return func(*args)  # type: ignore[no-any-return]
    for value, known in ((weight, for_weight), (bias, for_bias)):
        if value is not None and known is None and value.requires_grad:
            raise net.refuse("it is used beside a weight or bias that is computed from activations.", target)
    dtype = autocast_type(x)
    x = x if dtype is None else x.to(dtype)
    return GatedConvolution.apply(  # type: ignore[no-any-return]
        x, net.source(weight), net.source(bias), geometry, for_weight, for_bias, net.step_of_use()
    )


def _each(value: int | Sequence[int], axes: int) -> tuple[int, ...]:
    if isinstance(value, int):
        return (value,) * axes
    return tuple(value) * axes if len(value) == 1 else tuple(value)


def _padded_alike(x: Tensor, weight: Tensor, dilation: Sequence[int]) -> Tensor:
    """What padding="same" means: the odd one goes to the end."""
    pads = []
    for size, spread in zip(reversed(weight.shape[2:]), reversed(dilation), strict=True):
        total = spread * (size - 1)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads)


# -- the rules


def _backward(d: Tensor, x: Tensor, w: Tensor, geometry: Geometry, mask: tuple[bool, bool, bool]) -> Any:
    stride, padding, dilation, transposed, output_padding, groups = geometry
    return torch.ops.aten.convolution_backward(
        d, x, w, None, stride, padding, dilation, transposed, output_padding, groups, mask
    )


def _packed(geometry: Geometry) -> tuple[int, ...]:
    """As integers, because an operator's options are."""
    stride, padding, dilation, transposed, output_padding, groups = geometry
    return (len(stride), *stride, *padding, *dilation, int(transposed), *output_padding, groups)


def _unpacked(options: Sequence[int]) -> Geometry:
    axes, *rest = options
    stride, padding, dilation = (tuple(rest[i * axes : (i + 1) * axes]) for i in range(3))
    return stride, padding, dilation, bool(rest[3 * axes]), tuple(rest[3 * axes + 1 : 4 * axes + 1]), rest[-1]


def _gradient(use: Use, example: int) -> Tensor:
    x, d = (use.placement.part(t, example).to(use.dtype) for t in use.tensors)
    only_its_shape = x.new_empty(use.shape)
    found: Tensor = _backward(d, x, only_its_shape, _unpacked(use.options), (False, True, False))[1]
    return found


def _channels(use: Use, example: int) -> Tensor:
    d = use.placement.part(use.tensors[0], example).to(use.dtype)
    return d.transpose(0, 1).flatten(1).sum(1)


rule("conv", _gradient)
rule("channels", _channels)
