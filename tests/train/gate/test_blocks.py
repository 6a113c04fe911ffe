"""Blocks of real models, and a policy's bands on them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from licet.policies.bands import Architecture, Layout
from licet.train import Gate
from licet.train.blocks import blocks_for, describe
from licet.train.gate import BlockError
from tests.train.gate.models import CASES, build

torch.set_num_threads(1)

SHAPES = {
    "llama": (["embedding", "layer.0", "layer.1", "head"], ["model.embed_tokens"], ["model.norm", "lm_head"]),
    "llama-tied": (["embedding", "layer.0", "layer.1", "head"], ["model.embed_tokens", "lm_head"], ["model.norm"]),
    "gpt2": (
        ["embedding", "layer.0", "layer.1", "head"],
        ["transformer.wte", "transformer.wpe", "lm_head"],
        ["transformer.ln_f"],
    ),
    "vit": (["embedding", "layer.0", "layer.1", "head"], ["vit.embeddings"], ["vit.layernorm", "classifier"]),
    "dit": (["embedding", "layer.0", "layer.1", "head"], ["places", "table", "patches", "label", "time"], ["out"]),
}


@pytest.mark.parametrize("name", SHAPES)
def test_ends_and_ties(name: str) -> None:
    names, embedding, head = SHAPES[name]
    architecture, blocks = describe(build(name).model)
    assert list(blocks) == names == [block.name for block in architecture.blocks]
    assert (blocks["embedding"], blocks["head"]) == (embedding, head)
    first, last = architecture.blocks[0], architecture.blocks[-1]
    assert first.is_embedding and last.is_head
    assert first.is_head == ("lm_head" in embedding)


@pytest.mark.parametrize("name", CASES)
def test_every_parameter_is_counted_once(name: str) -> None:
    model = build(name).model
    architecture, _ = describe(model)
    assert sum(block.parameters for block in architecture.blocks) == sum(p.numel() for p in model.parameters())


def test_blocks_of_several_layers() -> None:
    architecture, blocks = describe(build("llama").model, layers_per_block=2)
    assert blocks["layers.0-1"] == ["model.layers.0", "model.layers.1"]
    assert architecture.blocks[1].layers == (0, 1)


def layout_of(architecture: Architecture) -> Layout:
    nothing = tuple(() for _ in architecture.blocks)
    return Layout(architecture.blocks, nothing, nothing, nothing, 0, (), ())


@pytest.mark.parametrize("name", CASES)
def test_a_gate_on_a_layout_is_the_gate_on_its_blocks(name: str) -> None:
    model = build(name).model
    architecture, blocks = describe(model)
    layout = layout_of(architecture)
    assert {k: sorted(v) for k, v in blocks_for(model, layout).items()} == {k: sorted(v) for k, v in blocks.items()}
    assert Gate(model, layout).block_names == tuple(blocks)


def test_a_default_policy_resolves_on_a_real_model() -> None:
    from licet.policies.bands import resolve
    from licet.policies.policy import Policy

    policy = Policy.read_default("publisher-licensing")
    model = build("gpt2").model
    layout = resolve(policy, describe(model)[0])
    assert Gate(model, layout).block_names == ("embedding", "layer.0", "layer.1", "head")


def test_a_layout_of_another_model_is_refused() -> None:
    model = build("llama").model
    other = Architecture.uniform(5, embedding=1, layer=1, head=1)
    with pytest.raises(BlockError, match="layers 2 to 2"):
        Gate(model, layout_of(other))
    with pytest.raises(BlockError, match="has 1 layers, the model 2"):
        Gate(model, layout_of(Architecture.uniform(1, embedding=1, layer=1, head=1)))


def test_models_without_one_stack_of_layers_are_refused() -> None:
    with pytest.raises(BlockError, match="No list of layers"):
        describe(nn.Linear(2, 2))
    two = nn.ModuleDict({name: nn.ModuleList(nn.Linear(4, 4) for _ in range(2)) for name in ("encoder", "decoder")})
    with pytest.raises(BlockError, match="two stacks of layers, encoder and decoder"):
        describe(two)
