"""The exact gate: each example's gradient, multiplied by its weight in each block, in one backward pass.

Under the techniques `residual` and `attention` what flows below a block is attenuated as well; their files say how.

It does not know what the weights mean, where they came from, or what becomes of the norms.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import count
from sys import modules as loaded

import torch
from torch import Tensor, nn

from licet.ledger.records import Technique
from licet.policies.bands import Layout
from licet.train.blocks import blocks_for, plain_name
from licet.train.gate import conv1d, residual
from licet.train.gate.attention import AttentionFollower
from licet.train.gate.errors import BlockError, GateError, UngatedError, UnsupportedError
from licet.train.gate.gradients import register
from licet.train.gate.interception import Net, keep_uncompiled
from licet.train.gate.placement import Placement
from licet.train.gate.slots import Prefix, Slot, assign, trainable
from licet.train.gate.step import Step
from licet.train.gate.targets import Target

_numbers = count(1)
FOLLOWERS = {Technique.RESIDUAL: residual.Follower, Technique.ATTENTION: AttentionFollower}


class Gate:
    """Holds a model until `remove()`. Blocks are named lists of modules or prefixes, or a policy's layout."""

    def __init__(
        self,
        model: nn.Module,
        blocks: Mapping[str, Sequence[Prefix]] | Layout,
        technique: Technique | str = Technique.SCALE,
        *,
        allow_ungated: bool = False,
    ) -> None:
        self.technique = _technique(technique)
        if isinstance(blocks, Layout):
            blocks = blocks_for(model, blocks)
        assigned = assign(model, blocks)
        self.block_names: tuple[str, ...] = tuple(blocks)
        self.step: Step | None = None
        self.norms: Tensor | None = None
        """Of the last step: float32 [examples, blocks], before the weight; NaN where the weight is zero.

        Raw under `scale`. Under the other techniques what flowed down had been attenuated in the layers above.
        """
        self.realised: Tensor | None = None
        """Of the last step: float32 [examples, blocks], what each example contributed to each block; 0 if excluded."""
        self._model = model
        self._allow_ungated = allow_ungated
        self._parameters = [parameter for parameter, _ in assigned]
        self.slots: tuple[Slot, ...] = tuple(slot for _, slot in assigned)
        self._first_key = register(self, next(_numbers))
        self._of_slot = [
            Target(self._first_key + slot.index, self, (slot,), (parameter,)) for parameter, slot in assigned
        ]
        self.targets: dict[int, Target] = {id(t.parameters[0]): t for t in self._of_slot}
        self._uses: list[dict[str, int]] | None = None
        self._marks: dict[int, tuple[weakref.ref[Tensor], int]] = {}
        self._net = Net(self)
        self._batch_norms = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        self._refuse_batch_norms()
        follower = FOLLOWERS.get(self.technique)
        self._followed = [] if follower is None else residual.install(model, self, follower)
        self._patched = conv1d.install(model, self)
        self._hooks = [
            parameter.register_post_accumulate_grad_hook(partial(_accumulated, weakref.ref(self), slot))
            for parameter, slot in assigned
        ]

    def remove(self) -> None:
        """Give the model back as it was."""
        if self.step is not None:
            raise GateError("The gate is in use.", remedy="Leave `with gate(weights)` before remove().")
        conv1d.uninstall(self._patched)
        residual.uninstall(self._followed)
        for hook in self._hooks:
            hook.remove()
        self._patched, self._followed, self._hooks = [], [], []

    @contextmanager
    def __call__(
        self, weights: Tensor, *, example_ids: Tensor | None = None, admitted: Tensor | None = None
    ) -> Iterator[Gate]:
        """One forward and backward pass under the weights [examples, blocks].

        `example_ids`, [rows] or [rows, tokens], says which example a row or a token belongs to, -1 for padding.
        `admitted` says of each block whether any rank has a weight in it: such a block gets a gradient on all ranks.
        """
        self._refuse_changes()
        examples = weights.shape[0] if isinstance(weights, Tensor) and weights.dim() == 2 else 1
        placement = Placement(examples, example_ids)
        step = Step(weights, placement, self.slots, self.block_names, admitted=admitted, usual=self._uses)
        before = [parameter.grad for parameter in self._parameters]
        sound = [grad is None or self._marked(slot, grad) for slot, grad in zip(self.slots, before, strict=True)]
        with ExitStack() as stack:
            self._prepare_compiler(stack)
            self._net.begin(placement, step.serial)
            self.step, self.norms, self.realised = step, None, None
            try:
                with self._net:
                    yield self
                self._take_zeros_out(step, before)
                self.norms = step.norms()
                self.realised = step.realised(self.norms)
                self._learn(step)
                self._mark(sound)
            finally:
                self.step = None
                self._net.end()

    def came_through(self, parameter: Tensor) -> bool:
        """Whether the parameter's gradient is the gate's work and nobody has changed it since."""
        target = self.targets.get(id(parameter))
        return target is not None and parameter.grad is not None and self._marked(target.slots[0], parameter.grad)

    def block_of(self, parameter: Tensor) -> int:
        """The index of a trainable parameter's block."""
        target = self.targets.get(id(parameter))
        if target is None:
            raise BlockError("This parameter is not one of the gate's.", remedy="Only trainable ones are.")
        return target.block

    def unused(self) -> tuple[str, ...]:
        """Trainable parameters that the model has not used in any step so far, such as a mask token's."""
        return tuple(s.name for s, uses in zip(self.slots, self._uses or (), strict=False) if not uses)

    @property
    def compiles(self) -> bool:
        """Whether torch.compile has an effect on steps from now on; see `_prepare_compiler`."""
        return self._uses is not None and not self._net.derives and not self._followed

    # -- for the net and the backward functions

    def target_of(self, key: int) -> Target:
        return self._of_slot[key - self._first_key]

    def stand_in(self, parameter: Tensor) -> Target | None:
        """A parameter that is not one we met: FSDP2 puts another in its place while a layer computes."""
        if not parameter.requires_grad or torch.compiler.is_compiling():
            return None
        names = {slot.name: slot for slot in self.slots}
        for met, aliases in trainable(self._model).items():
            if met is parameter:
                slot = next((names[name] for name in aliases if name in names), None)
                if slot is None:
                    raise UnsupportedError(f"{aliases[0]} is trainable and was not when the gate was made.")
                self.targets[id(parameter)] = Target(self._first_key + slot.index, self, (slot,), (parameter,))
                return self.targets[id(parameter)]
        return None

    # -- inside

    def _refuse_changes(self) -> None:
        if self.step is not None:
            raise GateError("`with gate(...)` inside of itself.", remedy="Leave the first one before the next.")
        if not self._hooks:
            raise GateError("This gate was removed.", remedy="Make a new one.")
        for slot, parameter in zip(self.slots, self._parameters, strict=True):
            if not parameter.requires_grad:
                raise GateError(f"{slot.name} was frozen after the gate was made.", remedy="Make a new gate.")
        self._refuse_batch_norms()

    def _refuse_batch_norms(self) -> None:
        for name, module in self._batch_norms:
            if module.training:
                raise UnsupportedError(
                    f"{plain_name(name)} is a batch norm in training: it mixes the examples of a batch.",
                    remedy="Put it into evaluation mode, or use a layer norm or group norm.",
                )

    def _prepare_compiler(self, stack: ExitStack) -> None:
        """The first step runs without compilation, so that the net sees how often each parameter is used.

        A model that makes tensors of its parameters before it uses them stays without, and one whose layers are
        followed: which of a layer's tensors is the trunk is not known to compiled code.
        """
        if "torch._dynamo" in loaded:
            keep_uncompiled()
            if not self.compiles:
                stack.enter_context(torch.compiler.set_stance("force_eager"))

    def _take_zeros_out(self, step: Step, before: Sequence[Tensor | None]) -> None:
        """Compiled code and data parallelism write zeros where there is no gradient; None is what was promised."""
        for slot, parameter, grad in zip(self.slots, self._parameters, before, strict=True):
            if grad is None and not step.admitted[slot.block]:
                parameter.grad = None

    def _learn(self, step: Step) -> None:
        if self._uses is None:
            self._uses = [{} for _ in self.slots]
        for known, seen in zip(self._uses, step.uses, strict=True):
            known.update({rule: max(times, known.get(rule, 0)) for rule, times in seen.items()})

    def _marked(self, slot: Slot, grad: Tensor) -> bool:
        mark = self._marks.get(slot.index)
        return mark is not None and mark[0]() is grad and mark[1] == grad._version

    def _mark(self, sound: Sequence[bool]) -> None:
        for slot, parameter, was_sound in zip(self.slots, self._parameters, sound, strict=True):
            grad = parameter.grad
            if grad is not None and was_sound:
                self._marks[slot.index] = (weakref.ref(grad), grad._version)
            else:
                self._marks.pop(slot.index, None)

    def _check(self, slot: Slot) -> None:
        """A gradient was added to the parameter: was it ours?"""
        if self.step is not None and self.step.received[slot.index]:
            return
        self._marks.pop(slot.index, None)
        if not self._allow_ungated:
            raise UngatedError(
                f"{slot.name} received a gradient that did not come through the gate.",
                remedy="Run the model and backward() inside `with gate(weights)`, or call gate.remove() first.",
            )


def _technique(name: Technique | str) -> Technique:
    try:
        return Technique(name)
    except ValueError:
        known = ", ".join(technique.value for technique in Technique)
        raise GateError(f"{name!r} is no technique.", remedy=f"Choose one of {known}.") from None


def _accumulated(held: weakref.ref[Gate], slot: Slot, parameter: Tensor) -> None:
    gate = held()
    if gate is not None:
        gate._check(slot)
