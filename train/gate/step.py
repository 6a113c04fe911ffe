"""One `with gate(weights)`: who counts how much where, and the norms as they come in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import count

import torch
from torch import Tensor

from licet.train.gate.errors import GateError, WeightsError
from licet.train.gate.numerics import square
from licet.train.gate.placement import Placement
from licet.train.gate.residual import Factors
from licet.train.gate.rules import Rule, Scratch, Share, Use
from licet.train.gate.slots import Slot
from licet.train.gate.targets import Target
from licet.train.gate.tied import Several

_serials = count(1)


class Step:
    """What the backward functions report to. Weights are read once, when it begins."""

    def __init__(
        self,
        weights: Tensor,
        placement: Placement,
        slots: Sequence[Slot],
        blocks: Sequence[str],
        *,
        admitted: Tensor | None = None,
        usual: Sequence[Mapping[str, int]] | None = None,
    ) -> None:
        table = checked(weights, len(blocks), admitted)
        self.serial = next(_serials)
        self.placement = placement
        self.slots = slots
        self.scratch = Scratch()
        self.shares = [_share(row[b] for row in table) for b in range(len(blocks))]
        self._table = torch.tensor(table, dtype=torch.float64)
        self._factors: dict[int, Factors] = {}
        self.admitted = [bool(s.examples) for s in self.shares] if admitted is None else admitted.tolist()
        self.uses: list[dict[str, int]] = [{} for _ in slots]
        self._usual = usual
        self.looked_up: dict[int, list[Tensor]] = {}
        self.received = [0] * len(slots)
        self._several: dict[int, Several] = {}
        self._squares: list[list[Tensor]] = [[] for _ in blocks]
        """Of each block, squared norms in the order of its share's examples."""

    def receive(self, target: Target, rule: Rule, use: Use) -> Tensor | None:
        """The gradient that the parameter may have from this use; its norms are noted on the way."""
        share = self.shares[target.block]
        for slot in target.slots:
            self._arrived(slot)
        if not share.examples:
            if not self.admitted[target.block]:
                return None
            return use.tensors[-1].new_zeros(use.shape)  # admitted elsewhere: ranks must agree on who has a gradient
        if target.path is None and self._once(target.slots[0]):
            total, squares = rule.combined(use, share)
            self._squares[target.block].append(squares)
            return total
        return self._one_by_one(target, rule, use, share)

    def norms(self) -> Tensor:
        """Raw norms, float32 [examples, blocks]; NaN where a weight is zero."""
        for index, several in self._several.items():
            self._squares[self.slots[index].block].append(
                several.squares(self.shares[self.slots[index].block].examples)
            )
        found = torch.full((self.placement.examples, len(self.shares)), torch.nan)
        for block, (share, squares) in enumerate(zip(self.shares, self._squares, strict=True)):
            if share.examples:
                found[list(share.examples), block] = 0.0
            if squares:
                total = torch.stack(squares).sum(0).cpu()
                found[list(share.examples), block] = total.clamp_min(0).sqrt().float()
        return found

    def realised(self, norms: Tensor) -> Tensor:
        """What each example contributed to each block, |w|·norm, float32; 0 where it was excluded."""
        return torch.where(self._table == 0, 0, self._table.abs() * norms.double()).float()

    def factors(self, block: int) -> Factors:
        """The weights of a block, spread over the rows of the batch."""
        found = self._factors.get(block)
        if found is None:
            found = self._factors[block] = Factors(self._table[:, block].tolist(), self.placement)
        return found

    def _expected(self, slot: Slot) -> dict[str, int]:
        """Its uses: as counted in this step, or as in steps before, because compiled code counts nothing."""
        seen = self.uses[slot.index]
        usual = self._usual[slot.index] if self._usual is not None else {}
        return {rule: max(seen.get(rule, 0), usual.get(rule, 0)) for rule in {**usual, **seen}}

    def _once(self, slot: Slot) -> bool:
        return sum(self._expected(slot).values()) <= 1

    def _arrived(self, slot: Slot) -> None:
        self.received[slot.index] += 1
        if self.received[slot.index] > sum(self._expected(slot).values()):
            raise GateError(
                f"{slot.name} received more gradients in this step than it was used in the forward pass.",
                remedy="Run the forward pass inside `with gate(weights)`, and one backward pass for each.",
            )

    def _one_by_one(self, target: Target, rule: Rule, use: Use, share: Share) -> Tensor:
        """For a parameter used several times, or by way of another tensor: the norm is that of a sum."""
        if target.path is None and rule.at_rows is not None:
            several = self._gathered(target.slots[0])
            if several.by_row:
                for example in share.examples:
                    several.add_rows(example, rule.at_rows(use, example, several.rows(example)))
                return rule.combined(use, share)[0]
        total: Tensor | None = None
        squares: dict[int, list[Tensor]] = {}
        for example, weight in zip(share.examples, share.weights, strict=True):
            found = rule.gradient(use, example)
            for slot, gradient in target.lifted(found):
                if self._once(slot):
                    squares.setdefault(slot.index, []).append(square(gradient))
                else:
                    self._gathered(slot).add(example, gradient)
            total = found * weight if total is None else total.add_(found, alpha=weight)
        assert total is not None, "a share without examples was answered above"
        self._squares[target.block] += [torch.stack(each) for each in squares.values()]
        return total

    def _gathered(self, slot: Slot) -> Several:
        found = self._several.get(slot.index)
        if found is None:
            rows = self.looked_up.get(slot.index, [])
            found = self._several[slot.index] = Several(self._expected(slot), rows, self.placement)
        return found


def checked(weights: Tensor, blocks: int, admitted: Tensor | None) -> list[list[float]]:
    """The weights as numbers; the one place where a step waits for the device."""
    if not isinstance(weights, Tensor) or not weights.is_floating_point():
        raise WeightsError("The gate's weights are a tensor of floats, [examples, blocks].")
    if weights.dim() != 2 or weights.shape[1] != blocks or weights.shape[0] < 1:
        raise WeightsError(f"The gate's weights are [examples, {blocks}], not {list(weights.shape)}.")
    if admitted is not None and (admitted.dtype != torch.bool or tuple(admitted.shape) != (blocks,)):
        raise WeightsError(f"`admitted` says of each of the {blocks} blocks whether any rank admits an example to it.")
    weights = weights.detach().double().cpu()
    if not bool(torch.isfinite(weights).all()):
        raise WeightsError("The gate's weights hold a NaN or an infinity.", remedy="Weights are finite; 0 excludes.")
    if admitted is not None and bool(((weights != 0).any(0) & ~admitted.cpu()).any()):
        raise WeightsError("A block that this rank admits an example to is missing from `admitted`.")
    return weights.tolist()  # type: ignore[no-any-return]


def _share(weights: Iterable[float]) -> Share:
    held = [(n, weight) for n, weight in enumerate(weights) if weight != 0]
    return Share(tuple(n for n, _ in held), tuple(weight for _, weight in held))
