"""A parameter used several times in one step: the norm is that of the sum, so examples are kept until all have come.

The usual case, one weight as embedding and as head, keeps only the rows that an example looked up:
‖E + H‖² = ‖E‖² + ‖H‖² + 2⟨E, H⟩, and E is zero outside of them. Any other case keeps the whole gradient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from licet.train.gate.numerics import square
from licet.train.gate.placement import Placement


class Several:
    """The gradients of one parameter by example, while they add up."""

    def __init__(self, uses: Mapping[str, int], looked_up: Sequence[Tensor], placement: Placement) -> None:
        # Only one dense use may be cut to rows: of a second one, the cross term would be needed in full.
        dense = sum(times for name, times in uses.items() if name != "embedding")
        self.by_row = dense == 1 and uses.get("embedding", 0) == len(looked_up) > 0
        self._looked_up = looked_up
        self._placement = placement
        self._rows: dict[int, Tensor] = {}
        self._embedded: dict[int, Tensor] = {}
        self._kept: dict[int, Tensor] = {}
        self._squares: dict[int, Tensor] = {}

    def add(self, example: int, gradient: Tensor) -> None:
        """A dense gradient."""
        if self.by_row:
            self._squares[example] = square(gradient)
            gradient = gradient.index_select(0, self.rows(example))
        _accumulate(self._kept, example, gradient)

    def add_rows(self, example: int, gradient: Tensor) -> None:
        """The rows that the example looked up, in the order of `rows`."""
        _accumulate(self._embedded, example, gradient)

    def squares(self, examples: Sequence[int]) -> Tensor:
        """‖·‖² of each example's sum."""
        return torch.stack([self._crossed(n) if self.by_row else square(self._kept[n]) for n in examples])

    def _crossed(self, example: int) -> Tensor:
        looked_up, head = self._embedded.get(example), self._kept.get(example)
        if looked_up is None:
            return self._squares[example]
        if head is None:
            return square(looked_up)
        return self._squares[example] + square(looked_up) + 2 * (looked_up.double() * head.double()).sum()

    def rows(self, example: int) -> Tensor:
        """What an example looked up, sorted."""
        found = self._rows.get(example)
        if found is None:
            parts = [self._placement.part(indices, example).reshape(-1) for indices in self._looked_up]
            found = self._rows[example] = torch.unique(torch.cat(parts))
        return found


def _accumulate(kept: dict[int, Tensor], example: int, gradient: Tensor) -> None:
    held = kept.get(example)
    kept[example] = gradient.clone() if held is None else held.add_(gradient)
