"""Pairs of answers: DPO against its formula written out, both references, and both rows of an example in the gate."""

from __future__ import annotations

import math

import pytest
import torch

from licet.train import Gate
from licet.train.data.rows import Message, Pair, Text
from licet.train.data.tokenizer import tokenize
from licet.train.objectives import (
    ObjectiveError,
    PreferenceObjective,
    SampleError,
    adapter_reference,
    frozen_reference,
)
from tests.train.objectives.small import BLOCKS, batch, gated_like_one_by_one, llama, samples_of, tokenizer

PAIRS = [
    Pair("Is it permitted?", " Yes, it is.", " No."),
    Pair((Message("user", "To whom?"),), "To all.", "To those who ask, and to nobody else."),
    Pair("", "a", "b"),
]


def moved(model, by=0.05):
    """The model as it is some steps later."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype), alpha=by)
    return model


def log_probability(model, sequence):
    """Token by token, as the formula has it."""
    logits = model(input_ids=torch.tensor([sequence.ids.tolist()])).logits[0].double()
    total = torch.zeros((), dtype=torch.float64)
    for t in range(1, len(sequence)):
        if sequence.scored[t]:
            total = total + logits[t - 1].log_softmax(-1)[int(sequence.ids[t])]
    return total


def test_answers_count_with_their_end_and_prompts_do_not():
    objective = PreferenceObjective(tokenizer(), 128)
    first, second, third = samples_of(objective, PAIRS)
    for sequence, answer in zip(first, (" Yes, it is.", " No."), strict=True):
        assert sequence.ids[sequence.scored].tolist() == [*tokenize(tokenizer(), answer), 2]
        assert sequence.ids[~sequence.scored].tolist() == [1, *tokenize(tokenizer(), "Is it permitted?")]
    for sequence, answer in zip(second, (PAIRS[1].chosen, PAIRS[1].rejected), strict=True):
        assert tokenizer().decode(sequence.ids[sequence.scored]) == f"{answer}<|end|>"
        assert (
            tokenizer().decode(sequence.ids[~sequence.scored]) == "<|begin|>user\nTo whom?<|end|><|begin|>assistant\n"
        )
    assert [one.ids[0] for one in third] == [1, 1]


@pytest.mark.parametrize("beta", [0.1, 2.0])
def test_the_loss_is_the_formula(beta):
    model = llama(torch.float64)
    reference = llama(torch.float64)
    objective = PreferenceObjective(tokenizer(), 128, beta=beta, reference=frozen_reference(model))
    moved(model)
    samples = samples_of(objective, PAIRS)
    losses = objective.losses(model, batch(objective, [*samples, None]))
    assert losses[-1] == 0
    for loss, (chosen, rejected) in zip(losses, samples, strict=False):
        margin = log_probability(model, chosen) - log_probability(model, rejected)
        before = log_probability(reference, chosen) - log_probability(reference, rejected)
        expected = math.log1p(math.exp(-beta * float((margin - before).detach())))
        assert math.isclose(float(loss.detach()), expected, rel_tol=1e-10)


def test_before_anything_is_learned_the_loss_is_log_2():
    model = llama()
    objective = PreferenceObjective(tokenizer(), 128, reference=frozen_reference(model))
    losses = objective.losses(model, batch(objective, samples_of(objective, PAIRS)))
    assert torch.allclose(losses, torch.full((3,), math.log(2)), atol=1e-5)


def test_a_frozen_reference_stays_as_it_was():
    model = llama()
    reference = frozen_reference(model)
    objective = PreferenceObjective(tokenizer(), 128, reference=reference)
    inputs = batch(objective, samples_of(objective, PAIRS))
    before = reference(inputs)
    moved(model)
    assert torch.equal(reference(inputs), before) and not before.requires_grad
    assert all(p.requires_grad for p in model.parameters())


def test_gated_gradients_are_those_of_one_example_at_a_time():
    model = llama(torch.float64)
    objective = PreferenceObjective(tokenizer(), 128, beta=0.5, reference=frozen_reference(model))
    moved(model)
    gated_like_one_by_one(model, objective, samples_of(objective, PAIRS), Gate(model, BLOCKS))


def adapted():
    from peft import LoraConfig, get_peft_model

    base = llama(torch.float64)
    config = LoraConfig(r=2, lora_alpha=4, lora_dropout=0.0, target_modules=["q_proj", "down_proj"])
    return get_peft_model(base, config).double()


def test_adapters_left_out_are_the_reference():
    model = moved(adapted(), 0.2)
    objective = PreferenceObjective(tokenizer(), 128, beta=0.5, reference=adapter_reference(model))
    samples = samples_of(objective, PAIRS)
    alone = batch(objective, samples)
    assert torch.allclose(adapter_reference(model)(alone), frozen_reference(llama(torch.float64))(alone), rtol=1e-12)
    names = ("base_model.model.model.layers.0", "base_model.model.model.layers.1")
    gate = Gate(model, {"low": [names[0]], "high": [names[1]]})
    gated_like_one_by_one(model, objective, samples, gate)
    assert model.training and all(p.requires_grad == ("lora_" in name) for name, p in model.named_parameters())


def test_a_long_prompt_loses_the_same_tokens_before_both_answers():
    pair = Pair("To whom is it permitted, and why, and since when? " * 4, " To all.", " No.")
    ((whole, other),) = samples_of(PreferenceObjective(tokenizer(), 512), [pair])
    ((chosen, rejected),) = samples_of(PreferenceObjective(tokenizer(), 16), [pair])
    cut = max(len(whole), len(other)) - 16
    assert chosen.ids.tolist() == whole.ids[cut:].tolist() and rejected.ids.tolist() == other.ids[cut:].tolist()
    assert chosen.scored.sum() == whole.scored.sum() and rejected.scored.sum() == other.scored.sum()


def test_what_cannot_be_compared():
    long = Pair("Why?", " Because it is permitted, as all of this is.", " No.")
    with pytest.raises(SampleError, match="does not fit"):
        samples_of(PreferenceObjective(tokenizer(), 8), [long])
    with pytest.raises(SampleError, match="control token"):
        samples_of(PreferenceObjective(tokenizer(), 99), [Pair((Message("user", "a"),), "<|end|>", "b")])
    with pytest.raises(ObjectiveError, match="pairs"):
        samples_of(PreferenceObjective(tokenizer(), 99), [Text("a")])
    for beta in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ObjectiveError, match="beta"):
            PreferenceObjective(tokenizer(), 99, beta=beta)
    with pytest.raises(ObjectiveError, match="no adapters"):
        adapter_reference(llama())
    objective = PreferenceObjective(tokenizer(), 99)
    with pytest.raises(ObjectiveError, match="no reference"):
        objective.losses(llama(), batch(objective, samples_of(objective, PAIRS)))
