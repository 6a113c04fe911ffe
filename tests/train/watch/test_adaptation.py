"""Adaptation: the reading is what the model would say at each block, and none moves a profile out of its bounds."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from licet.policies.bands import Architecture, Layout, resolve
from licet.policies.policy import Policy
from licet.train.blocks import describe
from licet.train.watch.adaptation import AdaptationError, adapt, block_entropies, ceilings
from tests.policies.documents import policy

torch.set_num_threads(1)
SMALL = policy(adaptation={"enabled": True})
LAYOUT = resolve(SMALL, Architecture.uniform(6, embedding=9, layer=5, head=9))
SIZES = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4}
FALLING = (5.0, 4.5, 4.0, 3.0, 2.0, 1.5, 1.0, 1.0)
"""As in a network that has formed: the nearer to the top, the more is settled."""

BITS = st.lists(st.floats(0, 20), min_size=8, max_size=8)


def llama(**changes: object) -> nn.Module:
    return LlamaForCausalLM(LlamaConfig(**{**SIZES, "intermediate_size": 64, "num_key_value_heads": 2, **changes}))


def gpt2() -> nn.Module:
    return GPT2LMHeadModel(GPT2Config(vocab_size=61, n_embd=32, n_layer=4, n_head=4, n_positions=32))


def qwen() -> nn.Module:
    return Qwen2ForCausalLM(Qwen2Config(**SIZES, intermediate_size=64, num_key_value_heads=2, tie_word_embeddings=True))


def laid_out(model: nn.Module) -> tuple[Layout, dict[str, list[str]]]:
    architecture, prefixes = describe(model)
    return resolve(SMALL, architecture), prefixes


def sample() -> torch.Tensor:
    return torch.randint(0, 61, (3, 16), generator=torch.Generator().manual_seed(2))


# ---- the rule -------------------------------------------------------------------------------------------------------


@settings(max_examples=200)
@given(
    st.sampled_from(["low", "middle", "high"]),
    st.lists(st.integers(0, 15), min_size=8, max_size=8),
    BITS,
    st.one_of(st.none(), BITS),
    st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    st.sampled_from([0.07, 0.2, 1.0]),
)
def test_no_reading_leads_out_of_the_bounds(band, levels, entropies, previous, factor_min, step_max):
    rules = policy(adaptation={"enabled": True, "factor_min": factor_min, "step_max": step_max})
    highest = ceilings(rules, LAYOUT, band)
    found = adapt(rules, LAYOUT, band, levels, entropies, previous)
    for before, level, high in zip(levels, found, highest, strict=True):
        assert factor_min * high <= level + 1e-9 or level == high
        assert level <= high
        inside = min(max(before, math.ceil(factor_min * high - 1e-9)), high)
        assert abs(level - inside) <= step_max * 15 + 1  # one level: ceilings between two levels are rounded
    assert found == adapt(rules, LAYOUT, band, levels, entropies, previous)


@given(BITS)
def test_content_of_middling_information_keeps_its_ceiling(entropies):
    start = ceilings(SMALL, LAYOUT, "middle")
    assert adapt(SMALL, LAYOUT, "middle", start, entropies) == start


def moved(rules: Policy, band: str, entropies: tuple[float, ...], checkpoints: int = 20) -> tuple[int, ...]:
    levels = ceilings(rules, LAYOUT, band)
    for _ in range(checkpoints):
        levels = adapt(rules, LAYOUT, band, levels, entropies, entropies)
    return levels


def test_dense_content_leaves_the_settled_blocks_and_predictable_content_the_open_ones():
    rules = policy(
        adaptation={"enabled": True},
        entropy=[{"name": "low", "below": 2.0, "ceiling": {"*": 1.0}}, {"name": "high", "ceiling": {"*": 1.0}}],
    )
    dense, predictable = moved(rules, "high", FALLING), moved(rules, "low", FALLING)
    assert dense[:4] == (15,) * 4
    assert all(8 <= level < 12 for level in dense[-2:])
    assert all(8 <= level < 12 for level in predictable[:2])
    assert predictable[-4:] == (15,) * 4


def test_what_was_taken_comes_back_when_the_reading_turns():
    down = moved(SMALL, "high", FALLING)
    assert down != ceilings(SMALL, LAYOUT, "high")
    levels = down
    for _ in range(10):
        levels = adapt(SMALL, LAYOUT, "high", levels, FALLING[::-1], FALLING[::-1])
    assert levels[-2:] == ceilings(SMALL, LAYOUT, "high")[-2:]


def test_one_step_at_a_checkpoint():
    rules = policy(adaptation={"enabled": True, "factor_min": 0.0, "step_max": 0.07})
    start = ceilings(rules, LAYOUT, "high")
    once = adapt(rules, LAYOUT, "high", start, FALLING)
    assert sorted({a - b for a, b in zip(start, once, strict=True)}) == [0, 1]


def test_a_network_that_has_not_formed_moves_nothing():
    start = ceilings(SMALL, LAYOUT, "high")
    assert adapt(SMALL, LAYOUT, "high", start, (8.0, 7.9, 8.0, 7.8, 8.0, 7.9, 7.9, 8.0)) == start
    assert adapt(SMALL, LAYOUT, "high", start, (0.0,) * 8) == start


def test_one_odd_reading_counts_half():
    start = ceilings(SMALL, LAYOUT, "high")
    assert adapt(SMALL, LAYOUT, "high", start, FALLING, (5.0,) * 8) > adapt(SMALL, LAYOUT, "high", start, FALLING)


def test_a_policy_that_does_not_want_it():
    levels = (3,) * 8
    assert adapt(policy(), LAYOUT, "high", levels, FALLING) == levels


@pytest.mark.parametrize(
    ("band", "levels", "entropies", "said"),
    [
        ("unheard-of", (0,) * 8, FALLING, "no entropy band"),
        ("high", (0,) * 7, FALLING, "no levels"),
        ("high", (16,) * 8, FALLING, "no levels"),
        ("high", (-1,) * 8, FALLING, "no levels"),
        ("high", (0,) * 8, FALLING[:7], "no entropies"),
        ("high", (0,) * 8, (math.nan,) * 8, "no entropies"),
        ("high", (0,) * 8, (-0.1,) * 8, "no entropies"),
        ("high", (0,) * 8, (math.inf,) * 8, "no entropies"),
    ],
)
def test_what_cannot_be_adapted(band, levels, entropies, said):
    with pytest.raises(AdaptationError, match=said) as caught:
        adapt(SMALL, LAYOUT, band, levels, entropies)
    assert caught.value.remedy


# ---- the reading ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [llama, gpt2, qwen])
def test_the_reading_is_the_models_own_prediction_at_each_block(make):
    torch.manual_seed(4)
    model = make()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    layout, prefixes = laid_out(model)
    ids_BT = sample()
    found = dict(zip((b.name for b in layout.blocks), block_entropies(model, layout, prefixes, ids_BT), strict=True))

    def bits(logits: torch.Tensor) -> float:
        logs = torch.log_softmax(logits.double(), -1)
        return float(-(logs.exp() * logs).sum(-1).mean()) / math.log(2)

    model.eval()
    with torch.no_grad():
        output = model(input_ids=ids_BT, output_hidden_states=True)
        core = model.transformer if make is gpt2 else model.model
        norm = core.ln_f if make is gpt2 else core.norm
        for layer in range(3):  # the last hidden state that a model reports has its final norm already
            exit_BTV = model.lm_head(norm(output.hidden_states[layer + 1]))
            assert found[f"layer.{layer}"] == pytest.approx(bits(exit_BTV), abs=1e-4)
        below = bits(model.lm_head(norm(output.hidden_states[0])))
    assert found["layer.3"] == pytest.approx(bits(output.logits), abs=1e-4)
    if "head" in found and not any(b.is_embedding and b.is_head for b in layout.blocks):
        assert found["embedding"] == pytest.approx(below, abs=1e-4)
        assert found["head"] == pytest.approx(bits(output.logits), abs=1e-4)
    else:
        assert found["embedding"] == pytest.approx((below + bits(output.logits)) / 2, abs=1e-4)


def test_the_reading_leaves_the_model_as_it_was():
    model = llama(attention_dropout=0.5)
    model.train()
    layout, prefixes = laid_out(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    first, second = (block_entropies(model, layout, prefixes, sample()) for _ in range(2))
    assert first == second
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()] == hooks


def test_padding_does_not_count():
    model = llama()
    layout, prefixes = laid_out(model)
    ids_BT = sample()
    padded = torch.cat([ids_BT, torch.zeros(3, 5, dtype=torch.long)], 1)
    mask = torch.cat([torch.ones_like(ids_BT), torch.zeros(3, 5, dtype=torch.long)], 1)
    plain = block_entropies(model, layout, prefixes, ids_BT)
    assert block_entropies(model, layout, prefixes, padded, mask) == pytest.approx(plain, abs=1e-4)


def test_blocks_of_several_layers_are_read_where_they_end():
    torch.manual_seed(1)
    model = llama()
    architecture, prefixes = describe(model, 2)
    single = dict(zip(laid_out(model)[1], block_entropies(model, *laid_out(model), sample()), strict=True))
    double = block_entropies(model, resolve(policy(reserved=[]), architecture), prefixes, sample())
    assert double == (single["embedding"], single["layer.1"], single["layer.3"], single["head"])


def test_a_softened_prediction_is_read_by_its_representations():
    """The exit of norm and head is not this model's own, so it is not used."""

    class Softened(LlamaForCausalLM):
        def forward(self, *args: object, **kwargs: object) -> object:
            output = super().forward(*args, **kwargs)
            output.logits = 30 * torch.tanh(output.logits * 4 / 30) + 1
            return output

    torch.manual_seed(1)
    model = Softened(LlamaConfig(**SIZES, intermediate_size=64))
    layout, prefixes = laid_out(model)
    found = block_entropies(model, layout, prefixes, sample())
    assert all(0 < bits <= 5 for bits in found)  # no more than 32 directions
    same = block_entropies(model, layout, prefixes, torch.full((3, 16), 7))
    assert same[0] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    "ids", [torch.zeros(0, 4, dtype=torch.long), torch.zeros(4, dtype=torch.long), torch.zeros(2, 2)]
)
def test_no_sample(ids):
    model = llama()
    with pytest.raises(AdaptationError):
        block_entropies(model, *laid_out(model), ids)


def test_nothing_but_padding_broken_weights_and_a_wrapped_model():
    model = llama()
    layout, prefixes = laid_out(model)
    with pytest.raises(AdaptationError, match="no token"):
        block_entropies(model, layout, prefixes, sample(), torch.zeros(3, 16, dtype=torch.long))
    with pytest.raises(AdaptationError, match="no part"):
        block_entropies(nn.Sequential(model), layout, prefixes, sample())
    with pytest.raises(AdaptationError, match="not named"):
        block_entropies(model, layout, {**prefixes, "layer.1": []}, sample())
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight.fill_(math.nan)
    with pytest.raises(AdaptationError, match="not finite"):
        block_entropies(model, layout, prefixes, sample())
