"""The types in which layers compute under autocast."""

from __future__ import annotations

from typing import overload

import torch
from torch import Tensor


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
