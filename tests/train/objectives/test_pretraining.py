"""Texts: every token counts once, losses are transformers' own, and the gate gets each example's."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from licet.ledger.errors import FormatError
from licet.train import Gate
from licet.train.data.rows import Chat, Message, Text
from licet.train.data.tokenizer import TokenizerError, tokenize
from licet.train.objectives import ObjectiveError, PretrainingObjective
from tests.train.objectives.small import BLOCKS, TEXTS, batch, gated_like_one_by_one, llama, samples_of, tokenizer


def scored(samples):
    return [int(i) for (one,) in samples for i in one.ids[one.scored]]


@given(st.text("abc permitted\n", min_size=1, max_size=80), st.integers(2, 12))
def test_each_token_and_the_end_count_exactly_once(text, context):
    samples = samples_of(PretrainingObjective(tokenizer(), context), [Text(text)])
    assert scored(samples) == [*tokenize(tokenizer(), text), 2]
    assert all(2 <= len(one) <= context for (one,) in samples)
    assert samples[0][0].ids[0] == 1
    for (before,), (after,) in pairwise(samples):
        assert after.ids[0] == before.ids[-1]


def test_a_short_text_is_one_sample():
    ((only,),) = samples_of(PretrainingObjective(tokenizer(), 64), [Text("It is permitted.")])
    assert only.ids.tolist() == [1, *tokenize(tokenizer(), "It is permitted."), 2]
    assert samples_of(PretrainingObjective(tokenizer(), 64), [Text("")]) == []


def test_control_tokens_in_a_text_are_text():
    ((only,),) = samples_of(PretrainingObjective(tokenizer(), 64), [Text("a<|end|>b")])
    assert only.ids.tolist().count(2) == 1 and only.ids[-1] == 2


def test_without_a_token_to_begin_with_the_first_one_is_not_predicted():
    from transformers import PreTrainedTokenizerFast

    inner = tokenizer().backend_tokenizer
    ending = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|end|>")
    assert samples_of(PretrainingObjective(ending, 64), [Text("a")])[0][0].ids[0] == 2  # what separates texts
    with pytest.raises(TokenizerError, match="end-of-text"):
        PretrainingObjective(PreTrainedTokenizerFast(tokenizer_object=inner), 64)


@pytest.mark.parametrize("text", TEXTS[:3])
def test_the_loss_is_transformers_own(text):
    objective, model = PretrainingObjective(tokenizer(), 64), llama()
    (sample,) = samples_of(objective, [Text(text)])
    (loss,) = objective.losses(model, batch(objective, [sample]))
    ids = torch.tensor([sample[0].ids.tolist()])
    theirs = model(input_ids=ids, labels=ids).loss
    assert torch.allclose(loss, theirs, rtol=1e-6)
    padded = objective.losses(model, batch(objective, [None, sample, None], 60))
    assert torch.allclose(padded[1], theirs, rtol=1e-6) and padded[0] == padded[2] == 0


def test_gated_gradients_are_those_of_one_example_at_a_time():
    objective, model = PretrainingObjective(tokenizer(), 24), llama(torch.float64)
    samples = samples_of(objective, [Text("a"), Text(" ".join(TEXTS[:2])), Text("to whom")])
    assert len(samples) > 3
    gated_like_one_by_one(model, objective, samples, Gate(model, BLOCKS))


def test_what_it_is_not_for():
    objective = PretrainingObjective(tokenizer(), 64)
    with pytest.raises(ObjectiveError, match="texts"):
        list(objective.samples(Chat((Message("user", "Hi."),))))
    with pytest.raises(FormatError):
        list(objective.samples(Text("\ud800")))
    for context in (-1, 0, 1):
        with pytest.raises(ObjectiveError, match="tokens"):
            PretrainingObjective(tokenizer(), context)
