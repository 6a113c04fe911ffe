"""Linear layers: Gₙ = Dₙᵀ Xₙ, by the cheapest of three ways for the shape."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from licet.train.gate.gradients import through_gate
from licet.train.gate.numerics import autocast_type, cast, squared_pieces
from licet.train.gate.registry import handles
from licet.train.gate.rules import Share, Use, one_by_one, rule
from licet.train.gate.targets import Target

BATCHED_NUMBERS_MAX = 1 << 18
"""Below this many numbers, all examples' gradients fit the cache together, and one batched product is faster."""
TILED_TOKENS_MAX = 512
TILE_NUMBERS = 400_000
TILE_ROWS_MIN = 128
"""Of an example's gradient in a processor's cache. Products of narrower tiles lose more than they save."""
GHOST_RATIO = 4
"""By how much T must lie below pd / (p + d) before Gram matrices are cheaper than the gradients themselves."""


class GatedLinear(torch.autograd.Function):
    """y = x Wᵀ + b, or x W + b for `folded` weights. The gradient of x is never gated."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        for_weight: Target | None,
        for_bias: Target | None,
        folded: bool,
        serial: int,
    ) -> Tensor:
        w, b = cast(weight, x.dtype), cast(bias, x.dtype)
        assert w is not None, "a linear layer has a weight"
        ctx.save_for_backward(x if weight.requires_grad else None, w, weight, bias)
        ctx.targets, ctx.folded, ctx.serial = (for_weight, for_bias), folded, serial
        return F.linear(x, w.t() if folded else w, b)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d: Tensor) -> tuple[Any, ...]:
        x, w, weight, bias = ctx.saved_tensors
        for_weight, for_bias = ctx.targets
        dx = dw = db = None
        if ctx.needs_input_grad[0]:
            dx = d @ (w.t() if ctx.folded else w)
        if ctx.needs_input_grad[1]:
            left, right = (x, d) if ctx.folded else (d, x)
            dw = through_gate("linear", for_weight, ctx.serial, (left, right), weight, weight.shape)
        if ctx.needs_input_grad[2]:
            db = through_gate("bias", for_bias, ctx.serial, (d,), bias, bias.shape)
        return dx, dw, db, None, None, None, None


@handles(F.linear)
def linear(net: Any, func: Any, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return apply(net, func, (input, weight, bias), input, weight, bias, folded=False)


@handles(torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.mm, Tensor.mm)
def matmul(net: Any, func: Any, left: Tensor, right: Tensor) -> Tensor:
    if right.dim() != 2:
        return net.derive(func, (left, right), {})  # type: ignore[no-any-return]
    return apply(net, func, (left, right), left, right, None, folded=True)


@handles(torch.addmm, Tensor.addmm)
def addmm(net: Any, func: Any, bias: Tensor, left: Tensor, right: Tensor, **scales: Any) -> Tensor:
    if scales or bias.dim() != 1:
        return net.derive(func, (bias, left, right), scales)  # type: ignore[no-any-return]
    return apply(net, func, (bias, left, right), left, right, bias, folded=True)


def apply(
    net: Any, func: Any, args: tuple[Any, ...], x: Tensor, weight: Tensor, bias: Tensor | None, *, folded: bool
) -> Tensor:
    """The gated layer, unless nothing in it is to be gated here."""
    for_weight, for_bias = net.target(weight), net.target(bias)
    if net.target(x) is not None or (for_weight is None and for_bias is None):
        return net.derive(func, args, {})  # type: ignore[no-any-return]
    net.placement.check(x.shape, (for_weight or for_bias).name)
    net.enter("linear", for_weight)
    net.enter("bias", for_bias)
    if not torch.is_grad_enabled():
        return F.linear(x, weight.t() if folded else weight, bias)
    for value, target in ((weight, for_weight), (bias, for_bias)):
        if value is not None and target is None and value.requires_grad:
            raise net.refuse(
                "it is used beside a weight or bias that is computed from activations.", for_weight or for_bias
            )
    weight, bias = net.source(weight), net.source(bias)
    dtype = autocast_type(x)
    x = x if dtype is None else x.to(dtype)
    return GatedLinear.apply(x, weight, bias, for_weight, for_bias, folded, net.step_of_use())  # type: ignore[no-any-return]


# -- the rules


def _gradient(use: Use, example: int) -> Tensor:
    left, right = (use.placement.rows(t, example).to(use.dtype) for t in use.tensors)
    return left.t() @ right


def _bias(use: Use, example: int) -> Tensor:
    return use.placement.rows(use.tensors[0], example).sum(0, dtype=use.dtype)


def _combined(use: Use, share: Share) -> tuple[Tensor, Tensor]:
    if use.tensors[0].is_cuda and (found := _by_kernel(use, share)) is not None:
        return found
    parts = list(zip(*(use.placement.each(t, share.examples) for t in use.tensors), strict=True))
    p, k = use.tensors[0].shape[-1], use.tensors[1].shape[-1]
    lengths = {left.shape[0] for left, _ in parts}
    if max(lengths) * (p + k) * GHOST_RATIO <= p * k:
        return _ghost(parts, share, use.dtype)
    if len(lengths) == 1 and len(parts) * p * k <= BATCHED_NUMBERS_MAX:
        return _batched(parts, share, use.dtype)
    return _looped(parts, share, use)


def _by_kernel(use: Use, share: Share) -> tuple[Tensor, Tensor] | None:
    """On a GPU, where there is Triton."""
    try:
        from licet.train.gate import triton_linear  # noqa: PLC0415  not every build of torch brings Triton
    except ImportError:
        return None
    return triton_linear.combined(use, share) if triton_linear.applies(*use.tensors) else None


Parts = list[tuple[Tensor, ...]]


def _looped(parts: Parts, share: Share, use: Use) -> tuple[Tensor, Tensor]:
    """One example's gradient at a time, in one buffer; of short examples, a tile of it that stays in the cache."""
    p, k = (tensor.shape[-1] for tensor in use.tensors)
    total = parts[0][0].new_empty((p, k), dtype=use.dtype)
    rows = _tile_rows(p, k, max(left.shape[0] for left, _ in parts), total)
    held = use.scratch.matrix(total, use.dtype, rows, k)
    pieces: list[list[Tensor]] = [[] for _ in parts]
    for start in range(0, p, rows):
        tile = total[start : start + rows]
        for i, ((left, right), weight) in enumerate(zip(parts, share.weights, strict=True)):
            into = held[: len(tile)] if i else tile
            torch.mm(cast(left[:, start : start + rows], use.dtype).t(), cast(right, use.dtype), out=into)
            pieces[i] += squared_pieces(into)
            if i:
                tile.add_(into, alpha=weight)
            elif weight != 1:
                tile.mul_(weight)
    return total, torch.stack([torch.stack(own).double().sum() for own in pieces])


def _tile_rows(p: int, k: int, tokens: int, total: Tensor) -> int:
    """How many rows at once: all, where a product takes so long that passing over its result does not count."""
    if total.device.type != "cpu" or tokens > TILED_TOKENS_MAX:
        return p
    return min(p, max(TILE_NUMBERS // k, TILE_ROWS_MIN))


def _batched(parts: Parts, share: Share, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """All examples' gradients at once."""
    left, right = (torch.stack([part[i] for part in parts]).to(dtype) for i in (0, 1))
    each = torch.bmm(left.mT, right).flatten(1)
    weights = torch.tensor(share.weights, dtype=dtype, device=each.device)
    shape = (left.shape[-1], right.shape[-1])
    return (weights @ each).reshape(shape), torch.linalg.vector_norm(each, dim=1).double().square()


def _ghost(parts: Parts, share: Share, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """‖DᵀX‖² = ⟨DDᵀ, XXᵀ⟩, in float64: the sum cancels, and float32 would leave 1 % of error in it."""
    squares = []
    for left, right in parts:
        a, b = left.double(), right.double()
        squares.append(((a @ a.mT) * (b @ b.mT)).sum())
    scaled = torch.cat([left.to(dtype) * weight for (left, _), weight in zip(parts, share.weights, strict=True)])
    total = scaled.t() @ torch.cat([right for _, right in parts]).to(dtype)
    return total, torch.stack(squares).clamp_min(0)


rule("linear", _gradient, _combined)
rule("bias", _bias, one_by_one(_bias))
