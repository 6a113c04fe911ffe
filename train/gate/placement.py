"""Where the examples of a batch lie in a tensor: a row each, several rows each, or by token in packed rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from licet.train.gate.errors import BatchError, WeightsError

Place = slice | Tensor


class Placement:
    """`lead` is the shape with which every gated tensor must begin: (rows,), or (rows, tokens) when packed."""

    __slots__ = ("_places", "_plain", "examples", "lead")

    def __init__(self, examples: int, example_ids: Tensor | None = None) -> None:
        self.examples = examples
        self._plain = example_ids is None
        if example_ids is None:
            self.lead: tuple[int, ...] = (examples,)
            self._places: list[Place] = [slice(n, n + 1) for n in range(examples)]
            return
        if example_ids.dim() not in (1, 2) or example_ids.dtype not in (torch.int32, torch.int64):
            raise WeightsError("Example ids are integers of shape [rows] or [rows, tokens], -1 for padding.")
        ids = example_ids.detach().reshape(-1)
        if ids.numel() == 0 or int(ids.max()) >= examples or int(ids.min()) < -1:
            raise WeightsError(
                f"Example ids run from 0 to {examples - 1}, one for each row of the weights; -1 is padding."
            )
        self.lead = tuple(example_ids.shape)
        self._places = [_place(torch.nonzero(ids == n).flatten()) for n in range(examples)]

    @property
    def packed(self) -> bool:
        return len(self.lead) == 2

    def check(self, shape: Sequence[int], name: str) -> None:
        if tuple(shape[: len(self.lead)]) != self.lead:
            raise BatchError(
                f"{name} is used on a tensor of shape {list(shape)}, but the examples of this step lie along "
                f"{list(self.lead)}.",
                remedy="Keep the batch in front (and the tokens second, if packed), with as many rows as were told.",
            )

    def part(self, tensor: Tensor, example: int) -> Tensor:
        """What belongs to one example, [its rows or tokens, everything behind the lead]."""
        flat = tensor.flatten(0, 1) if self.packed else tensor
        place = self._places[example]
        return flat[place] if isinstance(place, slice) else flat.index_select(0, place.to(flat.device))

    def rows(self, tensor: Tensor, example: int) -> Tensor:
        """The same with every axis but the last one flattened, [positions, features]."""
        return self.each(tensor, (example,))[0]

    def each(self, tensor: Tensor, examples: Sequence[int]) -> list[Tensor]:
        """The rows of several examples."""
        if self._plain:
            split = tensor.reshape(self.examples, -1, tensor.shape[-1]).unbind(0)
            return [split[n] for n in examples]
        return [part.reshape(-1, part.shape[-1]) for part in (self.part(tensor, n) for n in examples)]


def _place(positions: Tensor) -> Place:
    """A slice where the positions are contiguous: then a part is a view."""
    count = positions.numel()
    if count == 0:
        return slice(0, 0)
    first, last = int(positions[0]), int(positions[-1])
    return slice(first, last + 1) if last - first + 1 == count else positions
