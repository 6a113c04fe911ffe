"""Bits per byte: each token paid once, in any batching, and never a nonsensical number."""

from __future__ import annotations

import math
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from licet.ledger.errors import FormatError
from licet.policies.policy import Policy
from licet.train.data.entropy import EntropyError, Measured, Reading, entropy_band, under_compression, under_model

torch.set_num_threads(1)
TEXTS = ["", "a", "the cat sat on the mat", "ü" * 40, "x" * 150, "Twas brillig, and the slithy toves " * 9]


class Bytes:
    """A tokenizer whose tokens are bytes, and which may have a token before each text."""

    def __init__(self, bos: int | None = 256) -> None:
        self.bos_token_id = bos
        self.eos_token_id = None

    def __call__(self, texts, *, add_special_tokens, split_special_tokens, verbose):
        assert not add_special_tokens
        return {"input_ids": [list(text.encode()) for text in texts]}


class Bigram(nn.Module):
    """The next byte's chances depend on the last byte only: windows must then make no difference at all."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(7)
        self.table = nn.Parameter(torch.randn(257, 257, generator=generator) * scale)
        self.config = SimpleNamespace(vocab_size=257)

    def forward(self, input_ids, attention_mask, use_cache):
        return SimpleNamespace(logits=self.table[input_ids])


def by_hand(model: Bigram, text: str) -> float:
    raw = [256, *text.encode()]
    chances = torch.log_softmax(model.table.detach().double(), -1)
    return -sum(chances[a, b].item() for a, b in pairwise(raw)) / math.log(2)


@pytest.fixture(scope="module")
def llama():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=257,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        attention_dropout=0.5,
    )
    return LlamaForCausalLM(config)


@pytest.mark.parametrize("reading", [Reading(), Reading(16, 1), Reading(16, 15), Reading(7, 3), Reading(2, 1)], ids=str)
@pytest.mark.parametrize("batch_tokens_max", [1, 50, 10_000])
def test_no_token_is_charged_twice_or_not_at_all(reading, batch_tokens_max):
    model = Bigram()
    reading = Reading(reading.window, reading.stride, batch_tokens_max)
    for text, measured in zip(TEXTS, under_model(model, Bytes(), TEXTS, reading), strict=True):
        assert measured.bytes == len(text.encode())
        assert measured.bits == pytest.approx(by_hand(model, text), rel=1e-5)


def test_a_transformer_gives_the_same_in_any_batching(llama):
    one = under_model(llama, Bytes(), TEXTS, Reading(32, 16, 1))
    for tokens in (40, 64, 500, 100_000):
        many = under_model(llama, Bytes(), TEXTS, Reading(32, 16, tokens))
        assert [m.bits for m in many] == pytest.approx([m.bits for m in one], rel=1e-5)
        assert many == under_model(llama, Bytes(), TEXTS, Reading(32, 16, tokens))
    turned = under_model(llama, Bytes(), TEXTS[::-1], Reading(32, 16, 500))[::-1]
    assert [m.bits for m in turned] == pytest.approx([m.bits for m in one], rel=1e-5)


def test_a_model_reads_no_further_than_its_positions(llama):
    (measured,) = under_model(llama, Bytes(), ["y" * 300], Reading(1024, 512))
    (fitted,) = under_model(llama, Bytes(), ["y" * 300], Reading(64, 32))
    assert measured == fitted


def test_measuring_leaves_the_model_as_it_was(llama):
    llama.train()
    llama.model.layers[0].eval()
    first = under_model(llama, Bytes(), TEXTS)
    assert first == under_model(llama, Bytes(), TEXTS)  # dropout would show
    assert llama.training
    assert llama.model.layers[1].training
    assert not llama.model.layers[0].training
    assert all(p.grad is None and p.requires_grad for p in llama.parameters())


def test_without_a_first_token_the_first_byte_costs_a_draw_from_the_vocabulary():
    model = Bigram()
    (measured,) = under_model(model, Bytes(bos=None), ["a"])
    assert measured.bits == pytest.approx(math.log2(257))
    (two,) = under_model(model, Bytes(bos=None), ["ab"])
    assert two.bits == pytest.approx(math.log2(257) + by_hand(model, "ab") - by_hand(model, "a"), rel=1e-5)


def test_without_a_first_token_and_a_vocabulary_nothing_is_measured():
    model = Bigram()
    model.config = None
    with pytest.raises(EntropyError, match="begin-of-text"):
        under_model(model, Bytes(bos=None), ["a"])


def test_no_texts_give_no_answers():
    assert under_model(Bigram(), Bytes(), []) == ()


def test_an_empty_text_holds_nothing():
    assert Measured(0.0, 0).bits_per_byte == 0.0
    assert under_model(Bigram(), Bytes(), [""]) == (Measured(0.0, 0),)
    assert under_compression("") == Measured(0.0, 0)


def test_damaged_weights_are_an_error_that_names_the_text():
    model = Bigram()
    with torch.no_grad():
        model.table[ord("b")] = math.nan
    with pytest.raises(EntropyError, match="text 1 "):
        under_model(model, Bytes(), ["aaa", "bbb"])


def test_half_a_character_is_refused():
    with pytest.raises(FormatError, match="Text 1 "):
        under_model(Bigram(), Bytes(), ["fine", "\ud800"])
    with pytest.raises(FormatError):
        under_compression("\ud800")


@pytest.mark.parametrize(("window", "stride"), [(1, 1), (8, 8), (8, 0), (8, 9)])
def test_windows_that_would_lose_tokens_are_refused(window, stride):
    with pytest.raises(EntropyError):
        Reading(window, stride)


def test_surprise_beyond_what_an_example_may_state_is_capped():
    (measured,) = under_model(Bigram(scale=2000), Bytes(), ["zq"])
    assert measured.bits > 2 * 64
    assert measured.bits_per_byte == 64.0


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=200))
@settings(max_examples=60)
def test_bits_are_finite_and_never_negative(text):
    for measured in (under_compression(text), *under_model(Bigram(), Bytes(), [text], Reading(8, 4))):
        assert 0 <= measured.bits_per_byte <= 64
    assert under_compression(text).bits_per_byte <= 8


def test_compression_ranks_repetition_below_prose_below_noise():
    import random

    prose = "It was the best of times, it was the worst of times, it was the age of wisdom. " + "We had all before us. "
    noise = "".join(random.Random(3).choices([chr(i) for i in range(33, 126)], k=400))
    figures = [under_compression(text).bits_per_byte for text in ("ab" * 200, prose, noise)]
    assert figures == sorted(figures)
    assert figures[0] < 0.5
    assert 4 < figures[1] < 6.2 < figures[2] < 7.2


def test_a_measurement_falls_into_a_band_of_the_policy():
    policy = Policy.read_default(Policy.defaults()[0])
    edges = [band.below for band in policy.document.entropy if band.below is not None]
    assert entropy_band(policy, 0.0) == policy.document.entropy[0]
    for edge, band, after in zip(edges, policy.document.entropy, policy.document.entropy[1:], strict=False):
        assert entropy_band(policy, math.nextafter(edge, 0)) == band
        assert entropy_band(policy, edge) == after


@pytest.mark.parametrize("bits", [-0.1, math.nan, math.inf])
def test_what_is_no_measurement_falls_into_no_band(bits):
    with pytest.raises(EntropyError):
        entropy_band(Policy.read_default(Policy.defaults()[0]), bits)
