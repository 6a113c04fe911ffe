"""The technique `attention` against its definition: hooks on what attention gives to its output projection."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from licet.train import Gate
from licet.train.blocks import describe
from licet.train.gate import UnsupportedError
from tests.train.gate.models import CASES, ROWS, Case, build
from tests.train.gate.test_residual import check_definition, profile

torch.set_num_threads(1)

OUTPUT = {
    "llama": "self_attn.o_proj",
    "llama-tied": "self_attn.o_proj",
    "qwen2": "self_attn.o_proj",
    "qwen3": "self_attn.o_proj",
    "gemma": "self_attn.o_proj",
    "gpt2": "attn.c_proj",
    "vit": "attention.o_proj",
}
BEFORE = ("q_proj", "k_proj", "v_proj", "q_norm", "k_norm", "input_layernorm", "ln_1", "c_attn", "layernorm_before")
"""What lies between the trunk and the products of attention."""


def attention_ends(layer: nn.Module, name: str, through: Callable[[Tensor], Tensor]) -> list:
    def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        args[0].register_hook(through)

    return [layer.get_submodule(OUTPUT[name]).register_forward_pre_hook(hook)]


def is_before_attention(name: str, parameter: str) -> bool:
    return any(part in BEFORE for part in parameter.split("."))


@pytest.mark.parametrize("kind", ["sdpa", "eager"])
@pytest.mark.parametrize("name", OUTPUT)
def test_gradients_and_realised_norms_are_those_of_the_definition(name: str, kind: str) -> None:
    case = build(name)
    case.model.set_attn_implementation(kind)
    check_definition(case, name, "attention", profile(case), attention_ends, is_before_attention)


def test_gpt2_with_its_own_upcast_attention() -> None:
    case = build("gpt2", torch.float32)
    case.model.set_attn_implementation("eager")
    for layer in case.model.transformer.h:
        layer.attn.reorder_and_upcast_attn = True
    weights = torch.full((ROWS, len(describe(case.model)[1])), 0.5)
    realised = []
    for technique in ("scale", "attention"):
        gate = Gate(case.model, describe(case.model)[1], technique)
        case.model.zero_grad()
        with gate(weights):
            case.losses().sum().backward()
        realised.append(gate.realised)
        gate.remove()
    assert not torch.allclose(realised[0][:, 0], realised[1][:, 0], rtol=1e-3), "something was attenuated"
    assert torch.allclose(realised[0][:, -1], realised[1][:, -1])


def test_attenuates_less_than_residual() -> None:
    """Below the layers a profile of zeros leaves the trunk alone, or the trunk and the feed-forwards."""
    found = {}
    for technique in ("scale", "residual", "attention"):
        case = build("llama")
        gate = Gate(case.model, describe(case.model)[1], technique)
        weights = torch.ones(ROWS, len(gate.block_names))
        weights[:, 1:3] = 0
        with gate(weights):
            case.losses().sum().backward()
        assert all(p.grad is None for p in case.model.model.layers.parameters())
        found[technique] = case.model.model.embed_tokens.weight.grad
    for technique in ("residual", "attention"):
        assert not torch.allclose(found[technique], found["scale"], rtol=1e-3)
    assert not torch.allclose(found["residual"], found["attention"], rtol=1e-3)


def test_lora_on_the_lowest_layers_feed_forward_only() -> None:
    """Nothing that feeds the first attention asks for a gradient there: nothing to attenuate, and no error."""
    from peft import LoraConfig, get_peft_model

    for kind in ("sdpa", "eager"):
        case = build("llama")
        case.model.set_attn_implementation(kind)
        adapted = get_peft_model(case.model, LoraConfig(r=2, target_modules=["down_proj"])).double()
        case = Case(adapted, case.batch, case.loss)
        gate = Gate(adapted, describe(adapted)[1], "attention")
        with gate(torch.full((ROWS, len(gate.block_names)), 0.5)):
            case.losses().sum().backward()
        assert any(p.grad is not None for p in adapted.parameters())


# -- refusals


class Attending(nn.Module):
    """A layer around one head of attention, written in a way of the test's choosing."""

    def __init__(self, way: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.norm, self.qkv, self.mlp, self.way = nn.LayerNorm(4), nn.Linear(4, 12), nn.Linear(4, 4), way

    def attend(self, x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(*self.qkv(x).chunk(3, dim=-1))

    def forward(self, x: Tensor) -> Tensor:
        return self.way(self, x)


class Stack(nn.Module):
    def __init__(self, way: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.layers = nn.ModuleList(Attending(way) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for layer in self.layers:
            x = layer(x)
        return x


def shared(layer: Attending, x: Tensor) -> Tensor:
    held = layer.norm(x)
    return x + layer.attend(held) + layer.mlp(held)


def linear_attention(layer: Attending, x: Tensor) -> Tensor:
    q, k, v = layer.qkv(x).chunk(3, dim=-1)
    return x + q @ (k.mT @ v)


@pytest.mark.parametrize(
    ("way", "says"),
    [
        (shared, r"In layers\.0 what feeds the attention feeds something else as well"),
        (linear_attention, r"layers\.0 has no attention that could be found"),
        (lambda m, x: x + m.mlp(m.norm(x)), r"layers\.0 has no attention that could be found"),
    ],
    ids=["parallel-behind-one-norm", "linear-attention", "none"],
)
def test_what_is_refused_by_name(way: Callable[[nn.Module, Tensor], Tensor], says: str) -> None:
    model = Stack(way)
    gate = Gate(model, {"first": ["first"], "all": ["layers"]}, "attention")
    with pytest.raises(UnsupportedError, match=says + ".*scale"), gate(torch.ones(3, 2)):
        model(torch.randn(3, 5, 4))
    assert all(p.grad is None for p in model.parameters())


WAYS = {
    "norm-behind-the-sum": lambda m, x: m.norm(x + m.attend(x)) * 2,
    "parallel-with-two-entries": lambda m, x: x + m.attend(m.norm(x)) + m.mlp(x),
    "by-hand": lambda m, x: x + by_hand(m, m.norm(x)),
}


def by_hand(m: Attending, x: Tensor) -> Tensor:
    q, k, v = m.qkv(x).chunk(3, dim=-1)
    return torch.bmm(F.dropout((q @ k.mT / 2).float().softmax(-1), 0.0).to(v.dtype), v)


def test_ways_to_attend() -> None:
    """The gradient of what lies below, against attention's operands scaled by hand."""
    for kind, way in WAYS.items():
        torch.manual_seed(2)
        model = Stack(way)
        x = torch.randn(3, 5, 4)
        weights = torch.tensor([[1.0, 0.5], [1.0, -0.2], [1.0, 0.0]])
        got = gradient_below(model, x, weights)
        expected = torch.zeros_like(got)
        for n in range(3):
            hooks = [
                layer.qkv.register_forward_hook(lambda m, a, out, w=float(weights[n, 1]): scaled(out, w))
                for layer in model.layers
            ]
            expected += torch.autograd.grad(model(x[n : n + 1]).square().sum(), model.first.weight)[0]
            for hook in hooks:
                hook.remove()
        assert torch.allclose(got, expected, rtol=1e-4, atol=1e-5), kind


def gradient_below(model: nn.Module, x: Tensor, weights: Tensor) -> Tensor:
    gate = Gate(model, {"first": ["first"], "all": ["layers"]}, "attention")
    try:
        with gate(weights):
            model(x).square().sum().backward()
        return model.first.weight.grad
    finally:
        model.zero_grad()
        gate.remove()


def scaled(out: Tensor, weight: float) -> Tensor:
    through = out.view_as(out)
    through.register_hook(lambda g: g * weight)
    return through


def test_every_family_of_the_gate_is_followed_or_refused_by_name() -> None:
    for name in CASES:
        case = build(name)
        gate = Gate(case.model, describe(case.model)[1], "attention")
        if name == "dit":
            with pytest.raises(UnsupportedError, match=r"In layers\.0"), gate(torch.ones(ROWS, 4)):
                case.losses()
            continue
        with gate(torch.full((ROWS, len(gate.block_names)), 0.5)):
            case.losses().sum().backward()
        assert bool((gate.realised >= 0).all())
