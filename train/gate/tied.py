"""A parameter used several times in one step: the norm is that of the sum, so examples are kept until all have come.

The usual case, one weight as embedding and as head, keeps only the rows that an example looked up:
‖E + H‖² = ‖E‖² + ‖H‖² + 2⟨E, H⟩, and E is zero outside of them. Any other case keeps the whole gradient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from licet.train.gate.placement import Placement
from licet.train.gate.rules import square


class Several:
    """The gradients of one parameter by example, while they add up."""

    def __init__(self, uses: Mapping[str, int], looked_up: Sequence[Tensor], placement: Placement) -> None:
        # Only one dense use may be cut to rows: of a second one, the cross term would be needed in full.
        dense = sum(times for name, times in uses.items() if name != "embedding")
        self._by_row = dense == 1 and uses.get("embedding", 0) == len(looked_up) > 0
        self._looked_up = looked_up
        self._placement = placement
        self._rows: dict[int, Tensor] = {}
        self._embedded: dict[int, Tensor] = {}
        self._kept: dict[int, Tensor] = {}
        self._squares: dict[int, Tensor] = {}

    def add(self, rule: str, example: int, gradient: Tensor) -> None:
        if not self._by_row:
            _accumulate(self._kept, example, gradient)
            return
        rows = self._rows_of(example)
        if rule == "embedding":
            _accumulate(self._embedded, example, gradient.index_select(0, rows))
        else:
            self._squares[example] = square(gradient)
            self._kept[example] = gradient.index_select(0, rows)

    def arrived(self, rule: str) -> None:
        """Nothing to do once a use is complete; kept as a place for rules that finish late."""

    def squares(self) -> tuple[tuple[int, ...], Tensor]:
        """‖·‖² of each example's sum."""
        if not self._by_row:
            return tuple(self._kept), torch.stack([square(kept) for kept in self._kept.values()])
        examples = tuple(sorted({*self._kept, *self._embedded}))
        return examples, torch.stack([self._crossed(example) for example in examples])

    def _crossed(self, example: int) -> Tensor:
        looked_up, head = self._embedded.get(example), self._kept.get(example)
        if looked_up is None:
            return self._squares[example]
        if head is None:
            return square(looked_up)
        cross = (looked_up.double() * head.double()).sum()
        return self._squares[example] + square(looked_up) + 2 * cross

    def _rows_of(self, example: int) -> Tensor:
        found = self._rows.get(example)
        if found is None:
            parts = [self._placement.part(indices, example).reshape(-1) for indices in self._looked_up]
            found = self._rows[example] = torch.unique(torch.cat(parts))
        return found


def _accumulate(kept: dict[int, Tensor], example: int, gradient: Tensor) -> None:
    held = kept.get(example)
    kept[example] = gradient.clone() if held is None else held.add_(gradient)
