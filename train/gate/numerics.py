"""In which types layers compute under autocast, and how squares are summed without losing digits."""

from __future__ import annotations

from typing import overload

import torch
from torch import Tensor

PIECE_NUMBERS = 1 << 16
"""On a CPU torch adds up float32 in float32: over millions of numbers a norm would lose three digits of its seven."""


def autocast_type(x: Tensor) -> torch.dtype | None:
    """The type to which autocast would bring a product with x, or None where it would not."""
    kind = x.device.type
    if not torch.is_autocast_enabled(kind) or not x.is_floating_point() or x.dtype == torch.float64:
        return None
    return torch.get_autocast_dtype(kind)


@overload
def cast(tensor: Tensor, dtype: torch.dtype | None) -> Tensor: ...
@overload
def cast(tensor: None, dtype: torch.dtype | None) -> None: ...
def cast(tensor: Tensor | None, dtype: torch.dtype | None) -> Tensor | None:
    """The tensor in a type, itself where it has it already. Never through autocast's cache of weights."""
    if tensor is None or dtype is None or tensor.dtype == dtype:
        return tensor
    return tensor.to(dtype)


def squared_pieces(tensor: Tensor) -> list[Tensor]:
    """‖·‖² of a contiguous tensor, piece by piece, to be summed in float64."""
    flat = tensor.view(-1)
    size = PIECE_NUMBERS if flat.device.type == "cpu" else max(len(flat), 1)
    pieces = (piece.float() if piece.dtype.itemsize < 4 else piece for piece in flat.split(size))
    return [torch.dot(piece, piece) for piece in pieces]


def square(tensor: Tensor) -> Tensor:
    """‖·‖² as a float64 scalar."""
    return torch.stack(squared_pieces(tensor.contiguous())).double().sum()
