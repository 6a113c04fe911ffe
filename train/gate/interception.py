"""The net: while a step is open, no function of torch gets a trainable parameter without passing here.

A function with a handler is answered by it. Any other may make a tensor from parameters alone (a view, a cast); that
tensor is then watched in their place. Everything else is refused, with the function's and the parameter's name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import _engine_run_backward
from torch.overrides import TorchFunctionMode

from licet.train.gate.errors import UnsupportedError
from licet.train.gate.placement import Placement
from licet.train.gate.registry import HANDLERS
from licet.train.gate.targets import Target

if TYPE_CHECKING:
    from licet.train.gate.gate import Gate


class Net(TorchFunctionMode):
    """Pushed by `with gate(weights)`; torch.compile traces through it."""

    def __init__(self, gate: Gate) -> None:
        super().__init__()
        self._gate = gate
        self._watched: dict[int, tuple[Tensor, Target]] = {}
        self.placement = Placement(1)
        self.serial = 0
        self.derives = False
        """Whether a tensor was ever made of parameters; compiled code could not be watched doing that."""

    def begin(self, placement: Placement, serial: int) -> None:
        self._watched.clear()
        self.placement = placement
        self.serial = serial

    def end(self) -> None:
        self._watched.clear()

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = {} if kwargs is None else kwargs
        if func is Tensor.backward or func is torch.autograd.backward:
            return self._backward(*args, **kwargs)
        if not self._touched(args, kwargs):
            return func(*args, **kwargs)
        handler = HANDLERS.get(func)
        if handler is None:
            return self.derive(func, args, kwargs)
        return handler(self, func, *args, **kwargs)

    # -- for handlers

    def target(self, value: object) -> Target | None:
        """What stands behind an argument: a trainable parameter, or a tensor made of them."""
        if isinstance(value, nn.Parameter):
            return self._gate.targets.get(id(value)) or self._gate.stand_in(value)
        if isinstance(value, Tensor) and not torch.compiler.is_compiling():
            watched = self._watched.get(id(value))
            return None if watched is None else watched[1]
        return None

    def source(self, value: Any) -> Any:
        """The tensor itself, where `value` is a watched one."""
        target = self.target(value)
        return value if target is None or target.path is None else target.path

    def enter(self, rule: str, target: Target | None, looked_up: Tensor | None = None) -> None:
        """Count a use, so that the backward pass knows how many gradients make up the parameter's norm.

        Compiled code goes by what the first, uncompiled step counted; recomputation of a checkpoint counts nothing.
        """
        if target is None or torch.compiler.is_compiling() or torch._C._current_graph_task_id() != -1:
            return
        step = self._gate.step
        if step is not None:
            for slot in target.slots:
                uses = step.uses[slot.index]
                uses[rule] = uses.get(rule, 0) + 1
                if looked_up is not None and target.path is None:
                    step.looked_up.setdefault(slot.index, []).append(looked_up)

    def step_of_use(self) -> int:
        return 0 if torch.compiler.is_compiling() else self.serial

    def derive(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Run a function that has no rule; what it makes from parameters alone is watched in their place."""
        inputs = list(_tensors((args, kwargs)))
        behind = {id(x): t for x in inputs if (t := self.target(x)) is not None}
        if not torch.is_grad_enabled():
            if torch.compiler.is_compiling():
                return func(*args, **kwargs)
            return self._followed(func(*args, **kwargs), list(behind.values()), len(behind) == len(inputs))
        # The watched tensors refuse gradients of their own; the function must see what is behind them.
        args, kwargs = self._unwatched(args), self._unwatched(kwargs)
        out = func(*args, **kwargs)
        made = [t for t in _tensors(out) if t.requires_grad and id(t) not in behind]
        if not made:
            return out
        name = getattr(func, "__qualname__", str(func))
        targets = list(behind.values())
        if any(x.requires_grad and id(x) not in behind for x in inputs):
            raise UnsupportedError(
                f"There is no rule for {name} on the trainable parameter {targets[0].name}.",
                remedy="Freeze it, or use the parameter through a layer that has a rule (docs of licet.train.gate).",
            )
        if torch.compiler.is_compiling():
            torch._dynamo.graph_break(msg=f"{name} on {targets[0].name} cannot be compiled with the gate")
        return self._watch(out, targets, name)

    def refuse(self, why: str, target: Target) -> UnsupportedError:
        return UnsupportedError(f"{target.name}: {why}", remedy="Freeze the parameter, or change how it is used.")

    # -- inside

    def _backward(
        self,
        tensors: Any,
        gradient: Any = None,
        retain_graph: bool | None = None,
        create_graph: bool = False,
        inputs: Any = None,
        **others: Any,
    ) -> None:
        """What torch.autograd.backward does, with the net up: checkpoints run their forward pass again in there.

        A mode is off while it answers, and torch offers no way to its engine that would not come back to the mode.
        """
        if create_graph:
            raise UnsupportedError("The gate has no gradients of gradients.", remedy="Leave create_graph out.")
        gradient = others.get("grad_tensors", gradient)
        roots = _sequence(tensors)
        seeds = (None,) * len(roots) if gradient is None else _sequence(gradient)
        cotangents = tuple(_seed(root, seed) for root, seed in zip(roots, seeds, strict=True))
        ends = () if inputs is None else _sequence(inputs)
        with self:
            _engine_run_backward(
                roots, cotangents, bool(retain_graph), False, ends, allow_unreachable=True, accumulate_grad=True
            )

    def _touched(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        for value in args:
            if isinstance(value, Tensor):
                if self.target(value) is not None:
                    return True
            elif isinstance(value, list | tuple) and any(self.target(v) is not None for v in value):
                return True
        return bool(kwargs) and any(self.target(v) is not None for v in kwargs.values())

    def _unwatched(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self.source(value)
        if isinstance(value, list | tuple):
            return type(value)(self._unwatched(v) for v in value) if type(value) in (list, tuple) else value
        return {k: self._unwatched(v) for k, v in value.items()} if isinstance(value, dict) else value

    def _followed(self, out: Any, targets: Sequence[Target], alone: bool) -> Any:
        """Without gradients nothing needs a rule, but a reentrant checkpoint's first pass has to be counted."""
        slots = tuple(dict.fromkeys(slot for target in targets for slot in target.slots))
        if alone and slots and torch._C._current_graph_task_id() == -1 and len({slot.block for slot in slots}) == 1:
            for made in _tensors(out):
                if self.target(made) is None:
                    self._watched[id(made)] = (made, Target(targets[0].key, self._gate, slots, (), made))
        return out

    def _watch(self, out: Any, targets: Sequence[Target], name: str) -> Any:
        if isinstance(out, list | tuple):
            return type(out)([self._watch(v, targets, name) for v in out]) if type(out) in (list, tuple) else out
        if not isinstance(out, Tensor) or not out.requires_grad:
            return out
        slots = tuple(dict.fromkeys(slot for target in targets for slot in target.slots))
        if len({slot.block for slot in slots}) > 1:
            raise UnsupportedError(f"{name} joins parameters of two blocks, {slots[0].name} and {slots[-1].name}.")
        parameters = {s: p for t in targets for s, p in zip(t.slots, t.parameters, strict=True)}
        self.derives = True
        target = Target(targets[0].key, self._gate, slots, tuple(parameters[s] for s in slots), out)
        seen: Tensor = _Watched.apply(out, target)
        self._watched[id(seen)] = (seen, target)
        return seen


def keep_uncompiled() -> None:
    """Where compiled code breaks off, the compiler would take up the net's own functions, one by one; let it not.

    What it makes of them then answers one attribute of a tensor with another's value. Tracing through the net, as part
    of the model, is not affected.
    """
    from torch._C._dynamo.eval_frame import set_code_exec_strategy  # noqa: PLC0415 only where the compiler is in use
    from torch._dynamo.types import FrameAction, FrameExecStrategy  # noqa: PLC0415

    strategy = FrameExecStrategy(FrameAction.SKIP, FrameAction.SKIP)
    set_code_exec_strategy(Net.__torch_function__.__code__, strategy)


class _Watched(torch.autograd.Function):
    """A tensor made of parameters, as the model sees it: rules take what is behind it, anything else is an error."""

    @staticmethod
    def forward(ctx: Any, behind: Tensor, target: Target) -> Tensor:
        ctx.target = target
        return behind.view_as(behind)

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor, None]:
        raise UnsupportedError(
            f"A gradient reached {ctx.target.name} by a way for which there is no rule.",
            remedy="Freeze the parameter, or use it through a layer that has a rule.",
        )


def _sequence(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def _seed(root: Any, seed: Tensor | None) -> Tensor | None:
    if seed is not None or not isinstance(root, Tensor) or not root.requires_grad:
        return seed
    if root.numel() != 1:
        raise RuntimeError("grad can be implicitly created only for scalar outputs")  # torch's own words
    return torch.ones_like(root, memory_format=torch.preserve_format)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for v in value:
            yield from _tensors(v)
    elif isinstance(value, dict):
        for v in value.values():
            yield from _tensors(v)
