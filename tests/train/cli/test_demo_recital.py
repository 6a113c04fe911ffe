"""What a model recites is measured against what really follows."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from licet.train.cli.demo_recital import PREFIX_TOKENS, PROMPTS_MAX, RECITED_TOKENS_MAX, agreeing, continued, recite
from licet.train.data.tokenizer import train

LETTERS = "abcdefghijklmnopqrstuvwxyz"
ids = st.lists(st.integers(0, 3), max_size=12)


@pytest.fixture(scope="module")
def bytewise():
    return train(iter(()), 259, "bytes")


class Alphabet(nn.Module):
    """Knows one thing by heart: the letter after each letter."""

    def __init__(self, tokenizer):
        super().__init__()
        (self.of,) = (tokenizer(LETTERS, add_special_tokens=False)["input_ids"],)
        self.size = len(tokenizer)

    def forward(self, input_ids, past_key_values=None, use_cache=True):
        following = dict(zip(self.of, [*self.of[1:], self.of[0]], strict=True))
        last = torch.tensor([[following.get(int(i), 0) for i in row] for row in input_ids])
        logits = torch.nn.functional.one_hot(last, self.size).float()
        return type("Out", (), {"logits": logits, "past_key_values": None})()


@given(ids, ids)
def test_agreement_is_the_common_beginning(true, said):
    count = agreeing(true, said)
    assert true[:count] == said[:count]
    assert count == min(len(true), len(said)) or true[count] != said[count]


def test_what_is_known_by_heart_comes_back_whole(bytewise):
    (found,) = recite(Alphabet(bytewise), bytewise, [LETTERS * 8])
    assert found.longest == found.possible == RECITED_TOKENS_MAX
    assert found.prefix + found.said in LETTERS * 8


def test_a_run_ends_at_the_first_difference(bytewise):
    text = (LETTERS * 3)[: PREFIX_TOKENS + 9] + "!" + LETTERS
    (found,) = recite(Alphabet(bytewise), bytewise, [text])
    assert (LETTERS * 3).startswith(found.prefix) or found.prefix in text
    assert found.longest < found.possible
    assert "!" not in found.said


def test_texts_are_told_apart(bytewise):
    known, other = recite(Alphabet(bytewise), bytewise, [LETTERS * 4, "zyx" * 40])
    assert known.longest > 40
    assert other.longest == 0
    assert other.mean == 0.0


@pytest.mark.parametrize("text", ["", "short"])
def test_a_text_that_is_no_longer_than_a_prefix_gives_nothing(bytewise, text):
    (found,) = recite(Alphabet(bytewise), bytewise, [text])
    assert (found.longest, found.possible, found.said) == (0, 0, "")


def test_a_long_text_is_tried_at_few_places(bytewise):
    model = Alphabet(bytewise)
    seen = []
    model.register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs["input_ids"].shape), with_kwargs=True)
    recite(model, bytewise, [LETTERS * 100, LETTERS * 2])
    assert seen[0] == (PROMPTS_MAX + 1, PREFIX_TOKENS)
    assert all(shape == (PROMPTS_MAX + 1, 1) for shape in seen[1:]), "what was said is not computed again"


def test_a_real_model_says_the_same_with_its_cache_as_without(bytewise):
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(bytewise), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
        )
    )
    prefixes = [bytewise(text)["input_ids"][:PREFIX_TOKENS] for text in (LETTERS * 2, "zyx" * 20)]
    said = [list(prefix) for prefix in prefixes]
    with torch.inference_mode():
        for _ in range(4):
            for one, token in zip(said, model(torch.tensor(said)).logits[:, -1].argmax(-1).tolist(), strict=True):
                one.append(token)
    assert continued(model, prefixes, 4).tolist() == [one[PREFIX_TOKENS:] for one in said]
