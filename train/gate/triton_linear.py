"""The weight gradient of linear layers on a GPU: every example's Gₙ = Dₙᵀ Xₙ in registers only, and no atomics.

One program for each tile of the gradient. It goes through the examples in their order; each has a fresh float32
accumulator, from which come its weighted part of the sum and what its tile adds to ‖Gₙ‖². A second kernel adds the
tiles up, in their order. So the same inputs give the same bits, nothing of size [examples, p, d] is ever written, and
an example with weight 0 costs nothing: its rows are not read.

Import this only where there is Triton; on the CPU it runs under TRITON_INTERPRET=1 alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

import torch
import triton
import triton.language as tl
from torch import Tensor

from licet.train.gate.errors import BatchError, WeightsError
from licet.train.gate.rules import Share, Use

TYPES = (torch.float32, torch.bfloat16, torch.float16)
TILES_TO_SUM = 1024
"""How many tiles the second kernel reads at once."""
REMEDY = "Pass x [examples, tokens, d] and d [examples, tokens, p], or [tokens, …] of both with offsets."


@dataclass(frozen=True, slots=True)
class Tiles:
    """How the work is cut. Another cut rounds otherwise, so it is never chosen by a clock while training."""

    p: int = 128
    k: int = 128
    tokens: int = 32
    warps: int = 8
    stages: int = 3


DEFAULT_TILES = Tiles()


def applies(left: Tensor, right: Tensor) -> bool:
    """Whether the kernel can take these operands; float64 and mixed types go the usual way."""
    return left.is_cuda and left.device == right.device and left.dtype == right.dtype and left.dtype in TYPES


def combined(use: Use, share: Share) -> tuple[Tensor, Tensor]:
    """What the rule `linear` answers, for operands to which the kernel applies."""
    left, right = use.tensors
    placement = use.placement
    if placement.packed or placement.lead != (placement.examples,):
        lefts, rights = (placement.each(tensor, share.examples) for tensor in (left, right))
        offsets = [0, *accumulate(part.shape[0] for part in lefts)]
        weights = _on_device(share.weights, left.device)
        at = torch.tensor(offsets, device=left.device)
        total, norms = weight_gradient(torch.cat(rights), torch.cat(lefts), weights, offsets=at)
        return total, norms.double().square()
    spread = [0.0] * placement.examples
    for example, weight in zip(share.examples, share.weights, strict=True):
        spread[example] = weight
    d_NTp, x_NTd = (tensor.reshape(placement.examples, -1, tensor.shape[-1]) for tensor in (left, right))
    total, norms = weight_gradient(x_NTd, d_NTp, _on_device(tuple(spread), left.device))
    return total, norms[_indices(share.examples, left.device)].double().square()


def weight_gradient(
    x_NTd: Tensor, d_NTp: Tensor, weights_N: Tensor, *, offsets: Tensor | None = None, tiles: Tiles = DEFAULT_TILES
) -> tuple[Tensor, Tensor]:
    """Σ wₙ Dₙᵀ Xₙ as float32 [p, d], and ‖Dₙᵀ Xₙ‖ as float32 [N], 0 where wₙ is 0 and the norm was not computed.

    With `offsets` [N + 1], rising, the operands are [tokens, d] and [tokens, p], and example n has the tokens from
    offsets[n] to offsets[n + 1]. Offsets on a GPU are taken as they are: to look at them would mean to wait for it.
    """
    _check(x_NTd, d_NTp, weights_N, offsets)
    x, d = (tensor.flatten(0, -2) if tensor.dim() == 3 else tensor for tensor in (x_NTd, d_NTp))
    weights = weights_N.to(torch.float32).contiguous()
    count, p, k = weights.numel(), d.shape[1], x.shape[1]
    grid = (triton.cdiv(p, tiles.p), triton.cdiv(k, tiles.k))
    number = grid[0] * grid[1]
    grad = torch.empty((p, k), dtype=torch.float32, device=x.device)
    scales, sums = torch.empty((2, count, number), dtype=torch.float32, device=x.device).unbind(0)
    norms = torch.empty(count, dtype=torch.float32, device=x.device)
    with _device(x):
        _gradient_tiles[grid](
            *(x, d, grad, scales, sums, weights, weights if offsets is None else offsets),
            *(count, 0 if offsets is not None else x_NTd.shape[1], p, k),
            *(x.stride(0), x.stride(1), d.stride(0), d.stride(1)),
            SEGMENTED=offsets is not None,
            PRECISION=_precision(x.dtype),
            WIDEN=not x.is_cuda,
            TILE_P=tiles.p,
            TILE_K=tiles.k,
            TILE_T=tiles.tokens,
            num_warps=tiles.warps,
            num_stages=tiles.stages,
        )
        _sum_tiles[(count,)](scales, sums, norms, number, TILE=TILES_TO_SUM)
    return grad, norms


@triton.jit
def _gradient_tiles(
    x,  # noqa: ANN001 a kernel's arguments are pointers and numbers
    d,  # noqa: ANN001
    grad,  # noqa: ANN001
    scales,  # noqa: ANN001
    sums,  # noqa: ANN001
    weights,  # noqa: ANN001
    offsets,  # noqa: ANN001
    count,  # noqa: ANN001
    length,  # noqa: ANN001
    p,  # noqa: ANN001
    k,  # noqa: ANN001
    x_row,  # noqa: ANN001
    x_column,  # noqa: ANN001
    d_row,  # noqa: ANN001
    d_column,  # noqa: ANN001
    SEGMENTED: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
    TILE_P: tl.constexpr,
    TILE_K: tl.constexpr,
    TILE_T: tl.constexpr,
) -> None:
    """One tile of the gradient, over all examples."""
    at_p = (tl.program_id(0) * TILE_P + tl.arange(0, TILE_P)).to(tl.int64)
    at_k = (tl.program_id(1) * TILE_K + tl.arange(0, TILE_K)).to(tl.int64)
    tile = tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)
    tiles = tl.num_programs(0) * tl.num_programs(1)
    total = tl.zeros((TILE_P, TILE_K), dtype=tl.float32)
    for n in range(count):
        weight = tl.load(weights + n)
        if SEGMENTED:
            begin = tl.load(offsets + n)
            end = tl.load(offsets + n + 1)
        else:
            begin = n * length
            end = begin + length
        end = tl.where(weight == 0, begin, end)  # excluded: no row of it is read
        held = tl.zeros((TILE_P, TILE_K), dtype=tl.float32)
        for start in range(begin, end, TILE_T):
            at_t = (start + tl.arange(0, TILE_T)).to(tl.int64)
            inside = at_t < end
            d_tile = tl.load(
                d + at_p[:, None] * d_column + at_t[None, :] * d_row,
                mask=(at_p[:, None] < p) & inside[None, :],
                other=0.0,
            )
            x_tile = tl.load(
                x + at_t[:, None] * x_row + at_k[None, :] * x_column,
                mask=inside[:, None] & (at_k[None, :] < k),
                other=0.0,
            )
            if WIDEN:  # the interpreter multiplies the bits of bfloat16 as if they were integers
                d_tile, x_tile = d_tile.to(tl.float32), x_tile.to(tl.float32)
            held = tl.dot(d_tile, x_tile, held, input_precision=PRECISION)
        total += weight * held
        # Squares of float32 would overflow at 1e19: they are taken in units of the tile's largest number.
        scale = tl.max(tl.max(tl.abs(held), axis=1), axis=0)
        unit = tl.where(scale == 0, 1.0, scale)
        in_units = held / unit
        tl.store(scales + n * tiles + tile, scale)
        tl.store(sums + n * tiles + tile, tl.sum(tl.sum(in_units * in_units, axis=1), axis=0))
    into = grad + at_p[:, None] * k + at_k[None, :]
    tl.store(into, total, mask=(at_p[:, None] < p) & (at_k[None, :] < k))


@triton.jit
def _sum_tiles(
    scales,  # noqa: ANN001
    sums,  # noqa: ANN001
    norms,  # noqa: ANN001
    tiles,  # noqa: ANN001
    TILE: tl.constexpr,
) -> None:
    """One example's norm, from its tiles, always in the same order."""
    n = tl.program_id(0)
    held = tl.zeros((TILE,), dtype=tl.float64)
    for start in range(0, tiles, TILE):
        at = start + tl.arange(0, TILE)
        scale = tl.load(scales + n * tiles + at, mask=at < tiles, other=0.0).to(tl.float64)
        held += tl.load(sums + n * tiles + at, mask=at < tiles, other=0.0).to(tl.float64) * scale * scale
    tl.store(norms + n, tl.sqrt(tl.sum(held, axis=0)).to(tl.float32))


def _check(x: Tensor, d: Tensor, weights: Tensor, offsets: Tensor | None) -> None:
    """What the kernels take for granted. Out of bounds they would read foreign memory, and say nothing."""
    axes = 3 if offsets is None else 2
    if x.dim() != axes or d.dim() != axes or x.shape[:-1] != d.shape[:-1]:
        raise BatchError(f"No weight gradient of {list(x.shape)} and {list(d.shape)}.", remedy=REMEDY)
    if x.shape[-1] == 0 or d.shape[-1] == 0:
        raise BatchError("A weight gradient without features.", remedy=REMEDY)
    if x.dtype != d.dtype or x.dtype not in TYPES:
        raise BatchError(f"No kernel for {x.dtype} and {d.dtype}.", remedy="Use float32, bfloat16 or float16 for both.")
    if any(tensor.device != x.device for tensor in (d, weights, offsets) if tensor is not None):
        raise BatchError("The operands lie on different devices.", remedy="Move them to one.")
    if not x.is_cuda and not triton.knobs.runtime.interpret:
        raise BatchError(f"The kernel does not run on {x.device}.", remedy="Use a GPU, or the rule of linear.py.")
    if weights.dim() != 1 or weights.numel() < 1 or not weights.is_floating_point():
        raise WeightsError("The kernel's weights are floats, one for each example.")
    if offsets is None:
        if weights.numel() != x.shape[0]:
            raise WeightsError(f"{weights.numel()} weights for {x.shape[0]} examples.")
        return
    if offsets.dtype not in (torch.int32, torch.int64) or tuple(offsets.shape) != (weights.numel() + 1,):
        raise WeightsError(f"Offsets are integers, {weights.numel() + 1} of them for {weights.numel()} examples.")
    if not offsets.is_contiguous():
        raise WeightsError("Offsets lie next to each other.", remedy="Call contiguous().")
    if offsets.device.type == "cpu":
        steps = offsets.diff()
        if int(offsets[0]) < 0 or int(offsets[-1]) > x.shape[0] or bool((steps < 0).any()):
            raise WeightsError(f"Offsets rise from 0 to at most {x.shape[0]}.")


def _precision(dtype: torch.dtype) -> str:
    """float32 exactly, unless the user allows less for all products."""
    return "ieee" if dtype != torch.float32 or torch.get_float32_matmul_precision() == "highest" else "tf32"


def _device(tensor: Tensor) -> torch.cuda.device:
    return torch.cuda.device(tensor.device if tensor.is_cuda else -1)  # -1: stay where we are


@lru_cache(maxsize=256)
def _on_device(weights: tuple[float, ...], device: torch.device) -> Tensor:
    """The layers of a block share their weights: one copy to the device for all of them."""
    return torch.tensor(weights, dtype=torch.float32, device=device)


@lru_cache(maxsize=256)
def _indices(examples: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(examples, dtype=torch.int64, device=device)
