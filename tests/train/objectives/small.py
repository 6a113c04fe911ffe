"""A small tokenizer and a small Llama with random weights, for objectives to work on; and one gated step compared."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from licet.train import Gate
from licet.train.data.tokenizer import train
from licet.train.data.tokens import Sample
from licet.train.objectives import Inputs, Objective

TEXTS = [f"The {i}th text says that it is permitted, and to whom.\n" for i in range(40)]


@cache
def tokenizer() -> Any:
    return train(iter(TEXTS), 320, "bpe")


def llama(dtype: torch.dtype = torch.float32, **changes: Any) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 256,
        "vocab_size": len(tokenizer()),
        "tie_word_embeddings": False,
        "attn_implementation": "sdpa",
    }
    torch.manual_seed(1)
    return LlamaForCausalLM(LlamaConfig(**sizes | changes)).to(dtype).train()


BLOCKS = {
    "embedding": ["model.embed_tokens"],
    "layer.0": ["model.layers.0"],
    "layer.1": ["model.layers.1"],
    "head": ["model.norm", "lm_head"],
}


def samples_of(objective: Objective, parts: Sequence[Any]) -> list[Sample]:
    return [sample for one in parts for sample in objective.samples(one)]


def width_of(samples: Sequence[Sample | None]) -> int:
    return max(len(sequence) for sample in samples for sequence in sample or ())


def batch(objective: Objective, samples: Sequence[Sample | None], width: int | None = None) -> Inputs:
    return objective.inputs(samples, width or width_of(samples))


def gated_like_one_by_one(model: nn.Module, objective: Objective, samples: list[Sample], gate: Gate) -> None:
    """One gated step on all slots, the second of them null, against plain autograd on each sample alone, unpadded."""
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    slots: list[Sample | None] = [samples[0], None, *samples[1:]]
    generator = torch.Generator().manual_seed(5)
    weights = torch.randint(-3, 16, (len(slots), len(gate.block_names)), generator=generator).double() / 15
    weights[1] = 0
    expected = {name: torch.zeros_like(p) for name, p in parameters.items()}
    norms = torch.zeros(weights.shape, dtype=torch.float64)
    each = torch.zeros(len(slots), dtype=torch.float64)
    for n, sample in enumerate(slots):
        if sample is None:
            continue
        loss = objective.losses(model, batch(objective, [sample])).squeeze()
        each[n] = loss.detach()
        grads = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        for (name, parameter), grad in zip(parameters.items(), grads, strict=True):
            if grad is not None:
                block = gate.block_of(parameter)
                expected[name] += weights[n, block] * grad
                norms[n, block] += grad.double().square().sum()
    inputs = batch(objective, slots)
    with gate(weights, example_ids=inputs.example_ids_R):
        losses = objective.losses(model, inputs)
        losses.sum().backward()
    assert losses.shape == (len(slots),) and losses[1] == 0
    assert torch.allclose(losses.detach(), each, rtol=1e-12, atol=1e-13)
    for name, parameter in parameters.items():
        assert_close(parameter.grad, expected[name])
    assert gate.norms is not None
    kept = weights != 0
    assert torch.isfinite(gate.norms[kept]).all()
    assert torch.allclose(gate.norms[kept].double(), norms.sqrt()[kept], rtol=1e-5, atol=1e-7)


def assert_close(found: Tensor | None, expected: Tensor) -> None:
    assert found is not None
    assert float((found - expected).norm()) <= 1e-11 * max(float(expected.norm()), 1e-6)
