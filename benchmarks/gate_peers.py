"""Ways to take one training step on the same model: plain, through the gate, and as others weigh single examples.

Each arm holds the model only between `attach()` and `detach()`, so that all of them take turns on one model and one
optimizer. Opacus' ghost clipping and `torch.func` give each example one weight for the whole model, not one per block;
what they need for one per block would be a backward pass, or a sum, for each block.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from licet.ledger.background import BackgroundWriter
from licet.ledger.events import Events
from licet.ledger.log import Ledger, now_ms
from licet.ledger.note import SigningKey
from licet.ledger.records import (
    AttestationMentioned,
    Block,
    Determination,
    Digest,
    ExampleAdmitted,
    ProfileDeclared,
    Ref,
    RunStarted,
    Signed,
    Stage,
    StepTaken,
    Technique,
)
from licet.train import Gate
from licet.train.blocks import describe
from licet.train.optimizer import GuardedOptimizer

LEARNING_RATE = 1e-5
CLIP_NORM = 1.0
_LEVELS = 15


@dataclass(frozen=True, slots=True)
class Shape:
    """A decoder, and a batch for it."""

    family: str
    width: int
    layers: int
    vocabulary: int
    batch: int
    length: int
    device: str = "cpu"


@dataclass(frozen=True, slots=True)
class Task:
    """What every arm works on."""

    shape: Shape
    model: nn.Module
    optimizer: torch.optim.Optimizer
    tokens_NT: Tensor

    @classmethod
    def of(cls, shape: Shape) -> Task:
        torch.manual_seed(0)
        model = _model(shape).to(shape.device)
        tokens_NT = torch.randint(0, shape.vocabulary, (shape.batch, shape.length), device=shape.device)
        return cls(shape, model, torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE), tokens_NT)

    def losses(self) -> Tensor:
        return next_token_losses(self.model(input_ids=self.tokens_NT).logits, self.tokens_NT)

    def finish(self) -> None:
        """What a plain step does with its gradients."""
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad()


class Arm(Protocol):
    """One way to take a step. `norms` is [examples], over the whole model, or None where it has none."""

    norms: Tensor | None

    def attach(self) -> None: ...
    def step(self) -> None: ...
    def detach(self) -> None: ...


def next_token_losses(logits_NTV: Tensor, tokens_NT: Tensor) -> Tensor:
    losses_NT = F.cross_entropy(logits_NTV[:, :-1].transpose(1, 2), tokens_NT[:, 1:], reduction="none")
    return losses_NT.mean(1)


def example_weights(batch: int, *, excluded: bool = False) -> Tensor:
    """Some of the sixteen levels in turn; with `excluded`, every second example counts nowhere."""
    levels = [(15, 10, 5)[n % 3] for n in range(batch)]
    return torch.tensor([0 if excluded and n % 2 else level for n, level in enumerate(levels)]) / _LEVELS


class Plain:
    """The same model and optimizer, and nobody asks whose gradient it is."""

    norms: Tensor | None = None

    def __init__(self, task: Task) -> None:
        self._task = task

    def attach(self) -> None: ...

    def step(self) -> None:
        self._task.losses().sum().backward()
        self._task.finish()

    def detach(self) -> None: ...


class Gated:
    """Licet: gate, guarded optimizer, and every application recorded."""

    def __init__(self, task: Task, folder: Path, *, excluded: bool = False) -> None:
        self._task = task
        self.norms: Tensor | None = None
        architecture, self._blocks = describe(task.model)
        weights = example_weights(task.shape.batch, excluded=excluded)
        self._weights = weights[:, None].expand(-1, len(self._blocks)).contiguous().to(task.shape.device)
        self._record = Record(folder, weights, {block.name: block.parameters for block in architecture.blocks})
        self._gate: Gate | None = None
        self._guard: GuardedOptimizer | None = None

    def attach(self) -> None:
        self._gate = Gate(self._task.model, self._blocks)
        self._guard = GuardedOptimizer(
            self._task.optimizer, self._gate, model=self._task.model, clip_norm=CLIP_NORM, reserved={}
        )

    def step(self) -> None:
        assert self._gate is not None and self._guard is not None, "attach() comes first"
        with self._gate(self._weights):
            loss = self._task.losses().sum()
            loss.backward()
        report = self._guard.step()
        self._guard.zero_grad()
        assert self._gate.norms is not None, "the gate gives norms"
        self._record.take(self._gate.norms.numpy(), report.delta_norms, loss.item())
        self.norms = self._gate.norms.double().square().sum(1).sqrt()

    def detach(self) -> None:
        assert self._gate is not None, "attach() comes first"
        self._gate.remove()
        self._gate = self._guard = None

    def close(self) -> None:
        self._record.close()


class Record:
    """A training log with the batch's examples admitted, ready for steps."""

    def __init__(self, folder: Path, weights: Tensor, blocks: dict[str, int]) -> None:
        self._ledger = Ledger.create(folder / "training", SigningKey.generate("bench.example/training"))
        parts = tuple(Block(name, ("all",), parameters) for name, parameters in blocks.items())
        started = RunStarted("bench", "bench", parts, Technique.SCALE, Stage.ENFORCE, None, None, None, now_ms())
        self._run = Ref(self._ledger.append(started))
        self._attestation = self._ledger.append(AttestationMentioned(_digest(0), "source.0"))
        levels = [round(weight * _LEVELS) for weight in weights.tolist()]
        rows = [self._admit(n, level, len(blocks)) for n, level in enumerate(levels)]
        self._rows = np.array(rows, np.int64)
        self._ledger.commit()
        self._writer = BackgroundWriter(self._ledger, checkpoint_s=60)
        self._step = 0

    def take(self, norms: np.ndarray[Any, Any], delta_norms: tuple[float, ...], loss: float) -> None:
        events = Events.of(
            example=self._rows[:, 0],
            attestation=self._attestation,
            profile=self._rows[:, 1],
            step=self._step,
            slot=np.arange(len(self._rows)),
            norms_raw=norms,
        )
        taken = StepTaken(self._run, self._step, LEARNING_RATE, loss, len(self._rows), delta_norms, now_ms())
        self._writer.submit([events, taken])
        self._step += 1

    def close(self) -> None:
        self._writer.flush()  # raises what went wrong with any of the steps
        self._writer.close()
        self._ledger.close()

    def _admit(self, number: int, level: int, blocks: int) -> tuple[int, int]:
        profile = Ref(self._ledger.append(ProfileDeclared(self._run, (Signed(level),) * blocks, ("full",) * blocks)))
        admitted = ExampleAdmitted(
            _digest(number + 1),
            _digest(number + 1),
            Ref(self._attestation),
            None,
            profile,
            Determination.ADMITTED,
            (),
            "ordinary",
            3.5,
            0,
            ("pretraining",),
            _digest(number + 1),
        )
        return self._ledger.append(admitted), profile


class Ghost:
    """Opacus' ghost clipping as it comes, with given weights where it would put its clipping coefficients."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self.norms: Tensor | None = None
        self._wrapped: Any = None

    def attach(self) -> None:
        from opacus.grad_sample import GradSampleModuleFastGradientClipping

        weights = example_weights(self._task.shape.batch).to(self._task.shape.device)

        class Weighted(GradSampleModuleFastGradientClipping):  # type: ignore[misc]
            def get_clipping_coef(self) -> Tensor:
                self.get_norm_sample()
                return weights

        # Not strict: rotary embeddings keep constants in buffers, which is all that it would refuse.
        self._wrapped = Weighted(self._task.model, loss_reduction="sum", strict=False)

    def step(self) -> None:
        from opacus.utils.fast_gradient_clipping_utils import DPTensorFastGradientClipping

        tokens_NT = self._task.tokens_NT
        losses = next_token_losses(self._wrapped(input_ids=tokens_NT).logits, tokens_NT)
        DPTensorFastGradientClipping(self._wrapped, self._task.optimizer, losses, "sum").backward()
        self.norms = self._wrapped.per_sample_gradient_norms
        self._task.finish()

    def detach(self) -> None:
        self._wrapped.to_standard_module()
        self._wrapped = None


class Functional:
    """torch.func: vmap over grad, a few examples at a time, because all of their gradients are there at once."""

    CHUNK = 2

    def __init__(self, task: Task) -> None:
        self._task = task
        self.norms: Tensor | None = None
        self._weights = example_weights(task.shape.batch).to(task.shape.device)

    def attach(self) -> None: ...

    def step(self) -> None:
        model, tokens_NT = self._task.model, self._task.tokens_NT
        parameters = {name: p.detach() for name, p in model.named_parameters()}

        def loss(values: dict[str, Tensor], tokens_T: Tensor) -> Tensor:
            out = torch.func.functional_call(model, values, kwargs={"input_ids": tokens_T[None]})
            return next_token_losses(out.logits, tokens_T[None])[0]

        each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))
        squares = []
        for tokens, weights in zip(tokens_NT.split(self.CHUNK), self._weights.split(self.CHUNK), strict=True):
            found = each(parameters, tokens)
            squares.append(sum(g.flatten(1).square().sum(1) for g in found.values()))
            for name, parameter in model.named_parameters():
                total = torch.tensordot(weights, found.pop(name), dims=1)
                parameter.grad = total if parameter.grad is None else parameter.grad.add_(total)
        self.norms = torch.cat(squares).sqrt()
        self._task.finish()

    def detach(self) -> None: ...


PEERS: dict[str, Callable[[Task], Arm]] = {"opacus ghost clipping": Ghost, "torch.func vmap(grad)": Functional}


def _digest(number: int) -> Digest:
    return Digest(number.to_bytes(32, "big"))


def _model(shape: Shape) -> nn.Module:
    """Random weights, no dropout. Llama's three feed-forward matrices hold what GPT-2's two do."""
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    heads = max(1, shape.width // 64)
    if shape.family == "gpt2":
        config = GPT2Config(
            vocab_size=shape.vocabulary,
            n_positions=shape.length,
            n_embd=shape.width,
            n_layer=shape.layers,
            n_head=heads,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            use_cache=False,
        )
        return GPT2LMHeadModel(config)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=shape.vocabulary,
            hidden_size=shape.width,
            intermediate_size=shape.width * 8 // 3,
            num_hidden_layers=shape.layers,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            max_position_embeddings=shape.length,
            tie_word_embeddings=False,
            use_cache=False,
        )
    )
