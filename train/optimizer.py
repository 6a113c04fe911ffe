"""The guarded optimizer: between gradients and `step()`, so that a block nobody was admitted to does not move.

A gradient of zeros is not "no update": momentum, weight decay and the step counter of bias correction would go on. So
blocks are stepped one by one, each with only its own gradients in place, and a block without gradients is not stepped
at all. Stepping block by block also gives the norm of each block's change with a copy of that block only.

It does not know examples, policies or the ledger: the gate says which gradients it made, and the caller which rights
stood behind each block in this batch.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.optim import Optimizer

from licet.ledger.errors import ConfigError, LicetError
from licet.train.gradients import drop, moved, norm, read, set_aside, wide
from licet.train.step_report import StepReport

__all__ = ["GatedParameters", "GuardError", "GuardedOptimizer", "NotFinite"]


class GuardError(ConfigError):
    """A step that may not be taken. Nothing was changed, unless the message says otherwise."""


class NotFinite(StrEnum):
    """What happens on a gradient with NaN or infinity: leave out its block, leave out the step, or stop."""

    SKIP_BLOCK = "skip-block"
    SKIP_STEP = "skip-step"
    REFUSE = "refuse"


class GatedParameters(Protocol):
    """What the guard needs to know of a gate."""

    @property
    def block_names(self) -> Sequence[str]: ...
    def block_of(self, parameter: Tensor) -> int: ...
    def came_through(self, parameter: Tensor) -> bool: ...


class GuardedOptimizer(Optimizer):
    """Any torch optimizer whose state is kept per parameter, behind the guard. Schedulers take it as an optimizer.

    `reserved` names the rights that a block asks for (`rights.reserved_rights`). `clip_norm` bounds each block's own
    gradient, because one bound for all would let an example admitted to one block rescale another. `model` is for
    messages. With `group`, all its ranks must have gradients in the same blocks.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        gate: GatedParameters,
        *,
        model: nn.Module | None = None,
        reserved: Mapping[str, Collection[str]] | None = None,
        clip_norm: float | Mapping[str, float] | None = None,
        not_finite: NotFinite | str = NotFinite.SKIP_BLOCK,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        # Not Optimizer.__init__: groups, state and hooks are the wrapped optimizer's.
        if isinstance(optimizer, (GuardedOptimizer, torch.optim.LBFGS)):
            raise GuardError(
                f"{type(optimizer).__name__} cannot be guarded: it is guarded already, or evaluates the loss anew.",
                remedy="Pass an optimizer whose step needs no closure, as AdamW.",
            )
        self.inner = optimizer
        self.blocks = tuple(gate.block_names)
        self._gate = gate
        self._known_names = {p: name for name, p in model.named_parameters()} if model is not None else {}
        self._names: dict[nn.Parameter, str] = {}
        self._members: dict[str, tuple[nn.Parameter, ...]] = dict.fromkeys(self.blocks, ())
        self._reserved = _known(self.blocks, {b: frozenset(rights) for b, rights in (reserved or {}).items()})
        bounds = clip_norm if isinstance(clip_norm, Mapping) else dict.fromkeys(self.blocks, clip_norm)
        self._bounds = {block: _bound(value) for block, value in _known(self.blocks, bounds).items()}
        self._not_finite = NotFinite(not_finite)
        self._group = group
        self._take_up(self._placed(optimizer.param_groups))

    def step(  # type: ignore[override]  # a report, not a loss
        self, closure: None = None, *, authorities: Mapping[str, Collection[str]] | None = None
    ) -> StepReport:
        """Step the blocks that have gradients.

        `authorities` says in which blocks the batch had admitted examples, and which rights stood behind all of them
        there (`rights.batch_rights`). Without it no reserved block may be written to.

            1. refuse gradients that the gate did not make, and blocks without the authority they ask for
            2. leave out what is not finite, and clip each block by itself
            3. step block by block
            4. refuse an optimizer that touched what it was not given
        """
        if closure is not None:
            raise GuardError(
                "A closure would make gradients behind the gate's back.", remedy="Call backward first, then step()."
            )
        given = {block: self._given(block) for block in self.blocks}
        self._check_authority(given, authorities)
        self._check_ranks(given)
        norms = read([norm(_gradients(given[block])) for block in self.blocks])
        bad = tuple(block for block, size in zip(self.blocks, norms, strict=True) if not size < math.inf)
        for block in self._left_out(bad):
            drop(given[block])
            given[block] = ()
        sizes = dict(zip(self.blocks, norms, strict=True))
        factors = tuple(self._clip(block, given[block], sizes[block]) for block in self.blocks)
        with (
            self._watched(block for block in self.blocks if not given[block]),
            set_aside([parameter for block in self.blocks for parameter in given[block]]) as grads,
        ):
            deltas = [self._step_block(given[block], grads) for block in self.blocks]
        stepped = tuple(bool(given[block]) for block in self.blocks)
        return StepReport(self.blocks, stepped, norms, factors, read(deltas), bad)

    # -- what a torch optimizer is asked

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        return self.inner.param_groups

    @property
    def state(self) -> Any:  # type: ignore[override]
        return self.inner.state

    @property
    def defaults(self) -> dict[str, Any]:  # type: ignore[override]
        return self.inner.defaults

    def state_dict(self) -> dict[str, Any]:
        """The wrapped optimizer's: a guard has no state of its own."""
        return self.inner.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.inner.load_state_dict(state_dict)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        params = param_group.get("params", ())
        one = {**param_group, "params": [params] if isinstance(params, Tensor) else list(params)}
        placed = list(self._placed([one]))
        self.inner.add_param_group(one)
        self._take_up(placed)

    def zero_grad(self, set_to_none: bool = True) -> None:
        if not set_to_none:
            raise GuardError(
                "Gradients of zero would still move weights, by momentum and decay.",
                remedy="Call zero_grad() without set_to_none=False.",
            )
        for parameters in self._members.values():
            drop(parameters)

    # -- 1. what is refused

    def _given(self, block: str) -> tuple[nn.Parameter, ...]:
        """The parameters of a block that have a gradient."""
        found = tuple(p for p in self._members[block] if p.grad is not None)
        for parameter, gradient in zip(found, _gradients(found), strict=True):
            if not self._gate.came_through(parameter):
                raise GuardError(
                    f"The gradient of {self._names[parameter]} did not come through the gate.",
                    remedy="Run backward inside `with gate(weights):`, and let nothing else write to .grad.",
                )
            if gradient.is_sparse:
                raise GuardError(f"The gradient of {self._names[parameter]} is sparse.", remedy="Use sparse=False.")
        return found

    def _check_authority(
        self, given: Mapping[str, Sequence[nn.Parameter]], authorities: Mapping[str, Collection[str]] | None
    ) -> None:
        if authorities is not None:
            _known(self.blocks, authorities)
        for block in (block for block in self.blocks if given[block]):
            name = self._names[given[block][0]]
            if authorities is not None and block not in authorities:
                raise GuardError(
                    f"{name} has a gradient, and no example of this batch was admitted to the block {block}.",
                    remedy="Name in `authorities` each block that the batch's weights reach.",
                )
            held = frozenset(authorities[block]) if authorities is not None else frozenset()
            lacking = self._reserved.get(block, frozenset()) - held
            if lacking:
                raise GuardError(
                    f"{name} lies in the reserved block {block}, and not all of the batch has the right to "
                    f"{' and '.join(sorted(lacking))} it.",
                    remedy="Leave the block out (weight zero), or train on examples of a source with that right.",
                )

    def _check_ranks(self, given: Mapping[str, Sequence[nn.Parameter]]) -> None:
        """Blocks are stepped on all ranks or on none: a weight that moves on one only is two models from then on."""
        if self._group is None:
            return
        device = next(iter(self._names)).device
        mine = torch.tensor([bool(given[block]) for block in self.blocks], dtype=torch.int32, device=device)
        low, high = mine.clone(), mine.clone()
        dist.all_reduce(low, dist.ReduceOp.MIN, group=self._group)
        dist.all_reduce(high, dist.ReduceOp.MAX, group=self._group)
        for block, differs in zip(self.blocks, (low != high).tolist(), strict=True):
            if differs:
                raise GuardError(
                    f"Some ranks have gradients in the block {block} and others have none.",
                    remedy="Agree on the admitted blocks of a step first, and give the others gradients of zero.",
                )

    def _placed(self, groups: Sequence[Mapping[str, Any]]) -> Iterator[tuple[nn.Parameter, str, str]]:
        """Each parameter that the optimizer steps, its name and its block. Another optimizer may step the others."""
        for g, group in enumerate(groups):
            said = group.get("param_names") or [f"number {i} of group {g}" for i in range(len(group["params"]))]
            for parameter, called in zip(group["params"], said, strict=True):
                name = self._known_names.get(parameter, called)
                try:
                    yield parameter, name, self.blocks[self._gate.block_of(parameter)]
                except LicetError as error:
                    raise GuardError(
                        f"The parameter {name} of the optimizer is in no block of the gate.",
                        remedy="Put it into a block, or leave it out of the optimizer.",
                    ) from error

    def _take_up(self, placed: Iterable[tuple[nn.Parameter, str, str]]) -> None:
        for parameter, name, block in placed:
            self._names[parameter] = name
            self._members[block] = (*self._members[block], parameter)

    # -- 2. what is left out or made smaller

    def _left_out(self, bad: tuple[str, ...]) -> frozenset[str]:
        if bad and self._not_finite is NotFinite.REFUSE:
            raise GuardError(
                f"The gradient of the block {bad[0]} is not finite.",
                remedy="Lower the learning rate or look at the batch; not_finite='skip-block' goes on without it.",
            )
        return frozenset(self.blocks if bad and self._not_finite is NotFinite.SKIP_STEP else bad)

    def _clip(self, block: str, parameters: Sequence[nn.Parameter], size: float) -> float:
        bound = self._bounds.get(block)
        if not parameters or bound is None or size <= bound:
            return 1.0
        with torch.no_grad():
            for gradient in _gradients(parameters):
                gradient.mul_(bound / size)
        return bound / size

    # -- 3. and 4. the step itself

    def _step_block(self, parameters: Sequence[nn.Parameter], grads: Mapping[nn.Parameter, Tensor]) -> Tensor:
        """Step some parameters; the norm of what they changed by."""
        if not parameters:
            return torch.zeros((), dtype=torch.float64)
        with torch.no_grad():
            before = [wide(p.detach()) for p in parameters]
            shared = _shared_settings(self.inner)
            for parameter in parameters:
                parameter.grad = grads[parameter]
            self.inner.step()
            drop(parameters)
            self._check_settings(shared)
            return moved(before, parameters)

    def _check_settings(self, before: list[dict[str, Any]]) -> None:
        after = _shared_settings(self.inner)
        changed = [key for a, b in zip(before, after, strict=True) for key in b if _differs(a.get(key), b[key])]
        odd = [key for key in self.inner.state if not isinstance(key, Tensor)]
        if changed or odd:
            raise GuardError(
                f"{type(self.inner).__name__} keeps {(changed or odd)[0]!r} for all parameters together, so a block "
                "nobody was admitted to cannot stand still. The first block of this step was already changed.",
                remedy="Use an optimizer whose state is each parameter's own, as those of torch.optim; load the seal.",
            )

    @contextmanager
    def _watched(self, blocks: Iterable[str]) -> Iterator[None]:
        """Raise if a parameter of a block that was not to be stepped was written to."""
        versions = [(parameter, parameter._version) for block in blocks for parameter in self._members[block]]
        yield
        for parameter, version in versions:
            if parameter._version != version:
                raise GuardError(
                    f"{type(self.inner).__name__} changed {self._names[parameter]}, which had no gradient.",
                    remedy="Load the last seal, and use an optimizer that passes over parameters without a gradient.",
                )


def _gradients(parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def _known(blocks: Sequence[str], said: Mapping[str, Any]) -> Mapping[str, Any]:
    unknown = [name for name in said if name not in blocks]
    if unknown:
        raise GuardError(f"The gate has no block {unknown[0]}.", remedy=f"Its blocks are {', '.join(blocks)}.")
    return said


def _bound(value: float | None) -> float | None:
    if value is not None and not 0 < value < math.inf:
        raise GuardError(f"A gradient cannot be clipped to the norm {value}.", remedy="Give a positive number.")
    return value


def _differs(before: Any, after: Any) -> bool:
    return before is not after and not (isinstance(after, (bool, int, float, str)) and before == after)


def _shared_settings(optimizer: Optimizer) -> list[dict[str, Any]]:
    """What an optimizer's groups say beside their parameters. A step must leave it alone."""
    return [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
