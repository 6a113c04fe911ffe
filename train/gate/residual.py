"""The technique `residual`: each residual branch of a layer is gated going back; the forward pass stays the same.

A layer adds branches to what passes straight through it, its trunk. The weight of the layer's block multiplies all
that flows back into a branch. Going back is linear, and examples do not mix, so it makes no difference whether that
happens where a branch ends or where it begins. Here it happens where it begins: the parameters inside have their weight
from the exact gate, and what leaves the branch downwards is multiplied by an `Attenuate` at its entry. Hence:

    every parameter   gets Σₙ w[n, b] Gₙ, where Gₙ is what arrived; where all weights of its block are 0 it gets None
    what lies below   sees of each example the trunk, plus each branch above times that branch's weight
    outside of layers (embedding, head, last norm) a parameter has the exact gate over what arrived

So the head and the last norm are exact. Further down Gₙ is not ∇ℓₙ, unless all weights above are 1, and the realised
weight |w|·‖Gₙ‖ / ‖∇ℓₙ‖ is not |w|. A negative weight turns the sign of what its branch hands down.

The trunk is found by following it: what enters the layer, and every sum with it. A layer that returns something else
(a norm behind the sum, a scaled trunk) is refused by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

from licet.train.blocks import examine, plain_name
from licet.train.gate.errors import BlockError, GateError, UnsupportedError
from licet.train.gate.placement import Placement

if TYPE_CHECKING:
    from licet.train.gate.gate import Gate

SUMS = frozenset({torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__radd__, Tensor.__iadd__})
COPIES = frozenset(
    {Tensor.to, Tensor.contiguous, Tensor.type, Tensor.type_as, Tensor.clone, torch.clone}
    | {Tensor.float, Tensor.half, Tensor.bfloat16, Tensor.double}
)
"""Functions whose result is the trunk again, perhaps in another type."""


class Factors:
    """What each row (or token, if packed) counts in one block; 1 where nobody owns it."""

    def __init__(self, weights: Sequence[float], placement: Placement) -> None:
        places = torch.arange(int(torch.Size(placement.lead).numel())).view(placement.lead)
        flat = torch.ones(places.numel(), dtype=torch.float64)
        for example, weight in enumerate(weights):
            flat[placement.part(places, example).flatten()] = weight
        self.table = flat.view(placement.lead)
        self.all_one = bool((self.table == 1).all())
        self._cast: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def times(self, d: Tensor) -> Tensor:
        """A gradient, weighted. An excluded row becomes 0 even where it holds an infinity."""
        if self.all_one:
            return d
        dtype = torch.float64 if d.dtype == torch.float64 else torch.float32
        held = self._cast.get((d.device, dtype))
        if held is None:
            held = self._cast[d.device, dtype] = self.table.to(d.device, dtype)
        factor = held.view(*held.shape, *(1,) * (d.dim() - held.dim()))
        return (d * factor).masked_fill(factor == 0, 0).to(d.dtype)


class Entry:
    """Where a branch begins."""

    __slots__ = ("applies", "factors")

    def __init__(self, factors: Factors, applies: bool) -> None:
        self.factors = factors
        self.applies = applies


class Attenuate(torch.autograd.Function):
    """The same tensor; on the way back each example's gradient times its weight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, entry: Entry) -> Tensor:
        ctx.entry = entry
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor, None]:
        return (ctx.entry.factors.times(d) if ctx.entry.applies else d), None


class Follower(TorchFunctionMode):
    """Follows the trunk through one call of a layer, and hands every other user of it an attenuated one."""

    remedy: ClassVar[str] = "Use the technique `scale`, which is exact for any layer."

    def __init__(self, name: str, trunk: Tensor, factors: Factors, *, cuts: bool) -> None:
        super().__init__()
        self.name = name
        self.factors = factors
        self.start = trunk
        self._shape = trunk.shape
        self._cuts = cuts and trunk.requires_grad
        self._trunks: dict[int, Tensor] = {id(trunk): trunk}  # kept alive: a freed tensor's id would be used again

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = {} if kwargs is None else kwargs
        if not any(self._is_trunk(value) for value in flat((args, kwargs))):
            return self.call(func, args, kwargs)
        if func in SUMS:
            found = self._sum(func, args, kwargs)
            if found is not None:
                return found
        elif func in COPIES and self._is_trunk(args[0]):
            return self._followed(func(*args, **kwargs))
        elif getattr(func, "__name__", "") == "__get__" and not isinstance(out := func(*args, **kwargs), Tensor):
            return out  # its shape, type, device
        return self.call(func, self._entered(args), self._entered(kwargs))

    def call(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Any function inside a branch."""
        return func(*args, **kwargs)

    def entry(self) -> Entry:
        return Entry(self.factors, applies=True)

    def enter(self, tensor: Tensor) -> Tensor:
        """A tensor as a branch sees it."""
        if not (torch.is_grad_enabled() and tensor.requires_grad):
            return tensor
        entered: Tensor = Attenuate.apply(tensor, self.entry())
        return entered

    def leave(self, out: Any) -> None:
        """The layer has returned."""
        first = next((value for value in flat(out) if isinstance(value, Tensor)), None)
        if not self._is_trunk(first):
            raise UnsupportedError(
                f"{self.name} does not return the sum of its input and its branches, so they cannot be gated.",
                remedy=self.remedy,
            )

    # -- inside

    def _is_trunk(self, value: object) -> bool:
        return self._trunks.get(id(value)) is value and value is not None

    def _sum(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor | None:
        """The trunk with a branch added is the trunk from here on; None if it takes another shape by that."""
        tensors = [value for value in flat((args, kwargs)) if isinstance(value, Tensor)]
        if torch.broadcast_shapes(*(tensor.shape for tensor in tensors)) != self._shape:
            return None
        if self._cuts:  # nobody was admitted: what would go back into the branch is not even computed
            args = [v.detach() if isinstance(v, Tensor) and not self._is_trunk(v) else v for v in args]
        return self._followed(func(*args, **kwargs))

    def _followed(self, trunk: Tensor) -> Tensor:
        self._trunks[id(trunk)] = trunk
        return trunk

    def _entered(self, value: Any) -> Any:
        if self._is_trunk(value):
            return self.enter(value)
        if type(value) in (list, tuple):
            return type(value)(self._entered(v) for v in value)
        return {k: self._entered(v) for k, v in value.items()} if type(value) is dict else value


class Layer:
    """A layer's forward while a gate of this technique holds it."""

    def __init__(self, module: nn.Module, name: str, block: int, gate: Gate, follower: type[Follower]) -> None:
        self.name = name
        self.block = block
        self.gate = gate
        self.follower = follower
        self.original = module.forward
        self.replaced = vars(module).get("forward")
        self.__wrapped__ = self.original  # who asks for the signature gets the layer's own

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        step = self.gate.step
        if step is None:
            return self.original(*args, **kwargs)
        trunk = next((v for v in flat((args, kwargs)) if isinstance(v, Tensor) and v.is_floating_point()), None)
        if trunk is None:
            raise UnsupportedError(f"{self.name} was called without an activation.", remedy=self.follower.remedy)
        step.placement.check(trunk.shape, self.name)
        # Data parallelism waits for a gradient of every parameter, even if it is None.
        cuts = not step.admitted[self.block] and not (dist.is_available() and dist.is_initialized())
        follower = self.follower(self.name, trunk, step.factors(self.block), cuts=cuts)
        with follower:
            args, kwargs = self._beside(args, follower), self._beside(kwargs, follower)
            out = self.original(*args, **kwargs)
        follower.leave(out)
        return out

    def _beside(self, value: Any, follower: Follower) -> Any:
        """What else enters the layer with a gradient (a condition, another stack's output) goes into branches only."""
        if isinstance(value, Tensor):
            if value is follower.start or not value.requires_grad:
                return value
            placement = self.gate.step.placement if self.gate.step is not None else None
            assert placement is not None, "a layer is followed only within a step"
            placement.check(value.shape, f"An input of {self.name}")
            return follower.enter(value)
        if type(value) in (list, tuple):
            return type(value)(self._beside(v, follower) for v in value)
        return {k: self._beside(v, follower) for k, v in value.items()} if type(value) is dict else value


def install(model: nn.Module, gate: Gate, follower: type[Follower]) -> list[nn.Module]:
    """Give every layer of a model the forward that follows its trunk; returns those that have it now."""
    try:
        paths = examine(model).layers
    except BlockError as error:
        raise UnsupportedError(f"The layers cannot be told: {error.message}", remedy=follower.remedy) from error
    modules = {plain_name(path): module for path, module in model.named_modules()}  # of wrappers, what they wrap
    chosen: list[tuple[nn.Module, str, int]] = []
    for path in paths:
        module = modules[path]
        blocks = {gate.block_of(parameter) for parameter in module.parameters() if parameter.requires_grad}
        if len(blocks) > 1:
            titles = " and ".join(gate.block_names[block] for block in sorted(blocks))
            raise BlockError(f"{path} lies in more than one block: {titles}.", remedy=follower.remedy)
        if isinstance(vars(module).get("forward"), Layer):
            raise GateError(f"{path} is held by another gate.", remedy="Call remove() on that one first.")
        chosen += [(module, path, block) for block in blocks]
    if not chosen:
        raise UnsupportedError("No layer of the model has a trainable parameter.", remedy=follower.remedy)
    for module, path, block in chosen:
        module.forward = Layer(module, path, block, gate, follower)
    return [module for module, _, _ in chosen]


def uninstall(modules: Iterable[nn.Module]) -> None:
    for module in modules:
        held = vars(module).get("forward")
        if isinstance(held, Layer):
            if held.replaced is None:
                del module.forward
            else:
                module.forward = held.replaced


def flat(value: Any) -> Iterator[Any]:
    """What lists, tuples and dicts hold."""
    if isinstance(value, list | tuple):
        for v in value:
            yield from flat(v)
    elif isinstance(value, dict):
        for v in value.values():
            yield from flat(v)
    else:
        yield value
