"""The technique `attention`: a block's weight scales what flows back into its attention weights and value projections.

As in `residual`, going back is linear: scaling dA and dV comes to the same as scaling where the attention's input was
taken from the trunk, and giving the parameters on the way (queries, keys, values, the norm before them) their weight by
the exact gate. So the parameters are as safe as there, and only what flows below through the attention is attenuated;
what flows through the other branches of a layer is not, and the realised weights stay closer to the profile.

Which entry into a layer leads to its attention is read off the graph: back from the queries, keys and values of
`scaled_dot_product_attention`, or of a product with a softmax. A layer without either is refused by name, and so is one
in which the same entry also leads elsewhere (attention and feed-forward behind one norm): there the two cannot be told
apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from licet.train.gate.errors import UnsupportedError
from licet.train.gate.residual import Attenuate, Entry, Factors, Follower, flat

FUSED = F.scaled_dot_product_attention
PRODUCTS = frozenset({torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, Tensor.bmm})
STEPS_FROM_SOFTMAX_MAX = 8
"""Casts, dropout, reshapes: so many may lie between a softmax and the product with the values."""


class AttentionFollower(Follower):
    """Attenuates those users of the trunk that lead to attention."""

    remedy = "Use the technique `scale`, or `residual`; or load the model with attn_implementation='sdpa'."

    def __init__(self, name: str, trunk: Tensor, factors: Factors, *, cuts: bool) -> None:
        super().__init__(name, trunk, factors, cuts=False)
        self._ends: list[Any] = []
        """The graph's nodes behind which attention lies."""
        self._met = False

    def entry(self) -> Entry:
        return Entry(self.factors, applies=False)

    def call(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        out = func(*args, **kwargs)
        if func is FUSED or (func in PRODUCTS and _is_softmax(args[0])):
            self._met = True
            operands = [*args, *kwargs.values()]
            for entry in _entries(_nodes(operands), ends=()):
                entry.applies = True
            self._ends += _nodes([out])
        return out

    def leave(self, out: Any) -> None:
        if not (torch.is_grad_enabled() and self.start.requires_grad):
            return  # nothing flows below
        if not self._met:
            raise UnsupportedError(f"{self.name} has no attention that could be found.", remedy=self.remedy)
        hidden = [value for value in flat(out) if isinstance(value, Tensor)][:1]
        beside = _entries(_nodes(hidden), ends=[*self._ends, *_nodes([self.start])])
        if any(entry.applies for entry in beside):
            raise UnsupportedError(
                f"In {self.name} what feeds the attention feeds something else as well; they cannot be told apart.",
                remedy=self.remedy,
            )


def _is_softmax(operand: object) -> bool:
    """Whether a tensor is a softmax's output, after no more than dropout, casts and reshapes."""
    node = getattr(operand, "grad_fn", None)
    for _ in range(STEPS_FROM_SOFTMAX_MAX):
        if node is None:
            return False
        if node.name().startswith("SoftmaxBackward"):
            return True
        node = node.next_functions[0][0] if node.next_functions else None
    return False


def _entries(roots: Iterable[Any], ends: Sequence[Any]) -> Iterator[Entry]:
    """The entries that a graph leads back to, not looking behind `ends` or behind an entry that applies."""
    seen = {id(node): node for node in ends}  # kept alive: a freed node's id would be used again
    waiting = [node for node in roots if id(node) not in seen]
    while waiting:
        node = waiting.pop()
        if node is None or id(node) in seen:
            continue
        seen[id(node)] = node
        if isinstance(node, Attenuate._backward_cls):
            yield node.entry  # may be made to apply by who asked
            if node.entry.applies:
                continue
        waiting += [behind for behind, _ in node.next_functions]


def _nodes(values: Iterable[object]) -> list[Any]:
    return [v.grad_fn for v in values if isinstance(v, Tensor) and v.grad_fn is not None]
