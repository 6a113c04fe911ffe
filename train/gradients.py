"""Small things done with gradients and other lists of tensors: set aside, dropped, copied, measured, read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from licet.train.gate.numerics import square

_PIECE = 1 << 17
"""Elements that stay in a processor's cache."""


@contextmanager
def set_aside(parameters: Sequence[nn.Parameter]) -> Iterator[dict[nn.Parameter, Tensor]]:
    """Take gradients off their parameters, and put them back after."""
    grads = {parameter: parameter.grad for parameter in parameters if parameter.grad is not None}
    drop(parameters)
    try:
        yield grads
    finally:
        for parameter, grad in grads.items():
            parameter.grad = grad


def drop(parameters: Sequence[nn.Parameter]) -> None:
    for parameter in parameters:
        parameter.grad = None


def wide(tensor: Tensor) -> Tensor:
    """A copy in which a small change is not rounded away."""
    return tensor.to(torch.float32) if tensor.dtype.itemsize < 4 else tensor.clone()


def moved(before: Sequence[Tensor], after: Sequence[Tensor]) -> Tensor:
    """The norm of a difference, piece by piece, so that no second copy is made of what is large."""
    pieces = []
    for old, new in zip(before, after, strict=True):
        if hasattr(new, "full_tensor"):  # sharded: the norm is taken over all shards
            pieces.append(norm([old - new]))
            continue
        piece = _PIECE if new.device.type == "cpu" else max(new.numel(), 1)
        for a, b in zip(torch.split(old.flatten(), piece), torch.split(new.detach().flatten(), piece), strict=True):
            pieces.append(torch.linalg.vector_norm(a - b).double())
    whole: Tensor = torch.linalg.vector_norm(torch.stack(pieces))
    return whole


def norm(tensors: Sequence[Tensor]) -> Tensor:
    """The norm of some tensors together; of a sharded one, over all shards."""
    squares = [_square(tensor) for tensor in tensors]
    if not squares:
        return torch.zeros((), dtype=torch.float64)
    return torch.stack([each.to(squares[0].device) for each in squares]).sum().sqrt()


def _square(tensor: Tensor) -> Tensor:
    if hasattr(tensor, "full_tensor"):
        whole = torch.linalg.vector_norm(tensor, dtype=torch.promote_types(tensor.dtype, torch.float32)).full_tensor()
        return whole.double().square()  # type: ignore[no-any-return]
    return square(tensor)


def read(values: Sequence[Tensor]) -> tuple[float, ...]:
    """Numbers off the device, all at once."""
    if not values:
        return ()
    device = next((value.device for value in values if value.device.type != "cpu"), values[0].device)
    return tuple(torch.stack([value.to(device) for value in values]).tolist())
