"""Batches: shapes, null slots, and that no slot has a part in another's loss."""

from __future__ import annotations

import pytest
import torch

from licet.train.data.rows import Text
from licet.train.data.tokens import TokenSequence
from licet.train.objectives import ObjectiveError, PretrainingObjective
from licet.train.objectives.objective import IGNORED, laid_out
from tests.train.objectives.small import batch, llama, samples_of, tokenizer

PAD = 7


def sequence(*ids):
    return TokenSequence.of(ids, [False] + [True] * (len(ids) - 1))


def test_rows_are_padded_on_the_right_and_score_what_is_scored():
    half = TokenSequence.of([4, 5, 6], [False, False, True])
    inputs = laid_out([(sequence(1, 2),), None, (), (half,)], 4, 1, PAD)
    assert inputs.input_ids_RT.tolist() == [[1, 2, PAD, PAD], [PAD] * 4, [PAD] * 4, [4, 5, 6, PAD]]
    assert inputs.labels_RT.tolist() == [
        [IGNORED, 2, IGNORED, IGNORED],
        *[[IGNORED] * 4] * 2,
        [IGNORED, IGNORED, 6, -100],
    ]
    assert inputs.attention_mask_RT.tolist() == [[1] * 4] * 4 and inputs.example_ids_R is None


def test_several_rows_of_a_slot_lie_below_each_other():
    inputs = laid_out([None, (sequence(1), sequence(2, 3))], 2, 2, PAD)
    assert inputs.input_ids_RT.tolist() == [[PAD, PAD], [PAD, PAD], [1, PAD], [2, 3]]
    assert inputs.example_ids_R.tolist() == [0, 0, 1, 1] and inputs.example_ids_R.dtype == torch.int64
    assert inputs.to("cpu").example_ids_R.tolist() == [0, 0, 1, 1]


def test_shapes_follow_from_slots_and_width_alone():
    shapes = set()
    for sample in (None, (sequence(1, 2),), (sequence(*range(9)),)):
        inputs = laid_out([sample, None], 9, 1, PAD)
        shapes |= {tuple(t.shape) for t in (inputs.input_ids_RT, inputs.labels_RT, inputs.attention_mask_RT)}
    assert shapes == {(2, 9)}


def test_what_does_not_fit_is_refused():
    with pytest.raises(ObjectiveError, match="does not fit"):
        laid_out([(sequence(1, 2, 3),)], 2, 1, PAD)
    with pytest.raises(ObjectiveError, match="another objective"):
        laid_out([(sequence(1, 2),)], 2, 2, PAD)


def test_a_slot_is_not_changed_to_the_bit_by_what_stands_in_another():
    """Whatever the other holds: nothing, a short text or one that fills the row."""
    objective, model = PretrainingObjective(tokenizer(), 64), llama()
    own, short, long = samples_of(objective, [Text("It is permitted."), Text("a"), Text("to whom " * 9)])
    found = []
    for other in (None, short, long):
        model.zero_grad()
        losses = objective.losses(model, batch(objective, [own, other], 40))
        losses[0].backward()
        found.append((losses[0].detach(), *(p.grad.clone() for p in model.parameters())))
    for others in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], others, strict=True))


def test_a_batch_of_null_slots_costs_nothing_and_moves_nothing():
    objective, model = PretrainingObjective(tokenizer(), 64), llama()
    losses = objective.losses(model, objective.inputs([None, ()], 8))
    losses.sum().backward()
    assert losses.tolist() == [0, 0]
    assert all(not p.grad.any() for p in model.parameters())


def test_half_precision_is_summed_in_full():
    objective, model = PretrainingObjective(tokenizer(), 64), llama(torch.bfloat16)
    losses = objective.losses(model, batch(objective, samples_of(objective, [Text("It is permitted.")])))
    assert losses.dtype == torch.float32 and torch.isfinite(losses).all()
