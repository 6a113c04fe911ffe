"""Embeddings: an example's gradient is, for each token, the sum of what came back to its places."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from licet.train.gate.gradients import through_gate
from licet.train.gate.numerics import square
from licet.train.gate.registry import handles
from licet.train.gate.rules import Share, Use, rule
from licet.train.gate.targets import Target


class GatedEmbedding(torch.autograd.Function):
    """Rows of a table."""

    @staticmethod
    def forward(ctx: Any, indices: Tensor, weight: Tensor, padding: int, target: Target, serial: int) -> Tensor:
        ctx.save_for_backward(indices, weight)
        ctx.padding, ctx.target, ctx.serial = padding, target, serial
        return F.embedding(indices, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d: Tensor) -> tuple[Any, ...]:
        indices, weight = ctx.saved_tensors
        options = (ctx.padding,)
        found = through_gate("embedding", ctx.target, ctx.serial, (indices, d), weight, weight.shape, options)
        return None, found, None, None, None


@handles(F.embedding)
def embedding(
    net: Any,
    func: Any,
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    target = net.target(weight)
    if target is None or max_norm is not None or scale_grad_by_freq or sparse:
        raise net.refuse("an embedding with max_norm, scale_grad_by_freq or sparse has no rule.", target)
    if padding_idx is not None and padding_idx < 0:
        padding_idx += weight.shape[0]
    lead = net.placement.lead
    if input.dim() >= len(lead) and input.shape[0] == 1 < lead[0] and tuple(input.shape[1 : len(lead)]) == lead[1:]:
        input = input.expand(lead[0], *input.shape[1:])  # one row of positions for the whole batch
    if tuple(input.shape[: len(lead)]) != lead:
        return net.derive(func, (input, weight, padding_idx), {})  # type: ignore[no-any-return]
    if input.dim() == 1 and _counts_up(input):
        raise net.refuse("indices 0, 1, 2… without a batch axis: positions, or one label each?", target)
    net.enter("embedding", target, input)
    if not torch.is_grad_enabled():
        return func(input, weight, padding_idx)  # type: ignore[no-any-return]
    padding = -1 if padding_idx is None else padding_idx
    return GatedEmbedding.apply(input, net.source(weight), padding, target, net.step_of_use())  # type: ignore[no-any-return]


def _counts_up(indices: Tensor) -> bool:
    """With as many positions as rows, a table of positions cannot be told from one label per example."""
    if indices.numel() < 2 or torch.compiler.is_compiling():
        return False
    return torch.equal(indices, torch.arange(indices.numel(), device=indices.device, dtype=indices.dtype))


# -- the rule


def _tokens(use: Use, example: int) -> tuple[Tensor, Tensor]:
    indices, d = use.tensors
    tokens = use.placement.part(indices, example).reshape(-1)
    rows = use.placement.part(d, example).reshape(-1, d.shape[-1])
    padding = use.options[0]
    if padding >= 0:
        rows = rows.masked_fill((tokens == padding)[:, None], 0)
    return tokens, rows.to(use.dtype)


def _at_rows(use: Use, example: int, rows: Tensor) -> Tensor:
    """`rows` is sorted and holds every token of the example."""
    tokens, d = _tokens(use, example)
    return add_rows(d.new_zeros(rows.numel(), d.shape[-1]), torch.searchsorted(rows, tokens), d)


def _gradient(use: Use, example: int) -> Tensor:
    tokens, d = _tokens(use, example)
    return add_rows(d.new_zeros(use.shape), tokens, d)


def _combined(use: Use, share: Share) -> tuple[Tensor, Tensor]:
    total = use.tensors[1].new_zeros(use.shape, dtype=use.dtype)
    squares = []
    for example, weight in zip(share.examples, share.weights, strict=True):
        tokens, d = _tokens(use, example)
        rows, inverse = torch.unique(tokens, return_inverse=True)
        held = add_rows(d.new_zeros(rows.numel(), d.shape[-1]), inverse, d)
        squares.append(square(held))
        total[rows] += held.mul_(weight)
    return total, torch.stack(squares)


def add_rows(into: Tensor, where: Tensor, rows: Tensor) -> Tensor:
    """Sum rows into places. On a GPU by sorting: adding by atomics would differ from run to run."""
    if into.is_cuda:
        return into.index_put_((where,), rows, accumulate=True)
    return into.index_add_(0, where, rows)


rule("embedding", _gradient, _combined, _at_rows)
