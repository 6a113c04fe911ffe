"""The models of studies: a small Llama, and the gate over it with the weights that an arm gives to the source."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.studies.arms import BANDS, Arm
from licet.ledger.norms import LEVELS
from licet.policies.bands import quantised, resolve, spread
from licet.policies.policy import Policy
from licet.train import Gate
from licet.train.blocks import describe

CONTEXT = 128
BANDS_FROM = "open-source-code"
"""The default policy whose bands the arms speak of."""
_ADAPTERS = "adapters"


@dataclass(frozen=True, slots=True)
class Settings:
    """What all arms of a study share."""

    forming_steps: int = 200
    steps: int = 200
    slots: int = 10
    hot_slots: int = 5
    broad_slots: int = 2
    clean_chunks: int = 12
    """Of the hot part, those without canaries: extraction is measured on them."""
    vocabulary: int = 1024
    width: int = 96
    layers: int = 6
    heads: int = 4
    feed_forward: int = 256
    learning_rate: float = 3e-3
    weight_decay: float = 0.01
    clip_norm: float = 0.5


def make_model(settings: Settings, seed: int) -> nn.Module:
    """A Llama with random weights; head and embedding are two matrices, so that bands can tell them apart."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=settings.vocabulary,
        hidden_size=settings.width,
        intermediate_size=settings.feed_forward,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.heads,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
    )
    return LlamaForCausalLM(config)


def gate_for(model: nn.Module, arm: Arm) -> tuple[Gate, Tensor, Tensor]:
    """The gate, and the weights of the protected source and of the others in its blocks."""
    architecture, prefixes = describe(model)
    if arm.adapter is not None:
        blocks = _with_adapters(model, prefixes, arm.adapter)
        base = torch.tensor([float(name != _ADAPTERS) for name in blocks])
        return Gate(model, blocks), 1 - base, base
    policy = Policy.read_default(BANDS_FROM)
    layout = resolve(policy, architecture)
    ceilings = dict(zip(BANDS, arm.ceilings, strict=True))
    found = spread([ceilings[band] for band in layout.names], layout, policy.document.falloff).weights
    weights = torch.tensor([quantised(weight) / LEVELS for weight in found])
    return Gate(model, prefixes), weights, torch.ones(len(weights))


def _with_adapters(model: nn.Module, prefixes: dict[str, list[str]], rank: int) -> dict[str, list[str]]:
    """Low-rank adapters on every linear layer but the head, as a block of their own."""
    from peft import LoraConfig, inject_adapter_in_model

    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear"), model)
    names = [name for name, _ in model.named_parameters()]
    model.requires_grad_(True)
    blocks = {
        block: [n for n in names if "lora_" not in n and any(n.startswith(f"{p}.") or n == p for p in members)]
        for block, members in prefixes.items()
    }
    return {**blocks, _ADAPTERS: [name for name in names if "lora_" in name]}
