"""Conversations: only what the assistant says counts, under templates of several kinds, and odd ones are refused."""

from __future__ import annotations

import pytest
import torch

from licet.train import Gate
from licet.train.data.rows import Chat, Message, Text
from licet.train.objectives import ChatObjective, ObjectiveError, SampleError
from licet.train.objectives import chat as module
from tests.train.objectives.small import BLOCKS, batch, gated_like_one_by_one, llama, samples_of, tokenizer

SAID = (
    Message("system", "Be brief."),
    Message("user", "Is it permitted?"),
    Message("assistant", "Yes, it is."),
    Message("user", "To whom?"),
    Message("assistant", " To all.\n"),
)
CHATML = (
    "{% for m in messages %}{{ '<|begin|>' + m.role + '\n' + m.content + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|begin|>assistant\n' }}{% endif %}"
)
BRACKETS = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{{ ' ' + m.content + eos_token }}"
    "{% else %}{{ '[' + m.content + ']' }}{% endif %}{% endfor %}"
)
"""It does not ask the assistant: nothing stands before its words."""
FORGETFUL = (
    "{% for m in messages %}{{ m.role + ':' }}{% if m.role != 'assistant' or loop.last %}{{ m.content }}{% endif %}"
    "{{ '\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)
STRICT = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}{% endfor %}x"


def with_template(template):
    from transformers import PreTrainedTokenizerFast

    inner = tokenizer().backend_tokenizer
    tokens = {"bos_token": "<|begin|>", "eos_token": "<|end|>", "pad_token": "<|pad|>"}
    return PreTrainedTokenizerFast(tokenizer_object=inner, **tokens, chat_template=template)


def runs(made, sample):
    """The text of each stretch that is scored."""
    (one,) = sample
    found, run = [], []
    for token, counts in zip(one.ids.tolist(), one.scored.tolist(), strict=True):
        if counts:
            run.append(token)
        elif run:
            found.append(made.decode(run))
            run = []
    return [*found, made.decode(run)] if run else found


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (None, ["Yes, it is.<|end|>", " To all.\n<|end|>"]),
        (CHATML, ["Yes, it is.<|end|>\n", " To all.\n<|end|>\n"]),
        (BRACKETS, [" Yes, it is.<|end|>", "  To all.\n<|end|>"]),
    ],
    ids=["our own", "chatml", "brackets"],
)
def test_only_the_assistants_turns_count(template, expected):
    made = tokenizer() if template is None else with_template(template)
    (sample,) = samples_of(ChatObjective(made, 256), [Chat(SAID)])
    assert runs(made, sample) == expected
    plain = [{"role": m.role, "content": m.content} for m in SAID]
    whole = made.apply_chat_template(plain, tokenize=False)
    assert made.decode(sample[0].ids) == whole  # the tokens that a server would make of it
    assert sample[0].ids.tolist() == made(whole, add_special_tokens=False)["input_ids"]


def test_it_agrees_with_the_marks_of_a_template_that_has_them():
    marked = (
        "{% for m in messages %}{{ '<|begin|>' + m.role + '\n' }}{% if m.role == 'assistant' %}{% generation %}"
        "{{ m.content + '<|end|>' }}{% endgeneration %}{% else %}{{ m.content + '<|end|>' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|begin|>assistant\n' }}{% endif %}"
    )
    made = with_template(marked)
    plain = [{"role": m.role, "content": m.content} for m in SAID]
    theirs = made.apply_chat_template(plain, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
    (sample,) = samples_of(ChatObjective(made, 256), [Chat(SAID)])
    assert sample[0].ids.tolist() == theirs["input_ids"]
    assert sample[0].scored.astype(int).tolist() == theirs["assistant_masks"]


def test_a_long_conversation_loses_its_oldest_tokens():
    (whole,) = samples_of(ChatObjective(tokenizer(), 256), [Chat(SAID)])
    (cut,) = samples_of(ChatObjective(tokenizer(), 12), [Chat(SAID)])
    assert cut[0].ids.tolist() == whole[0].ids[-12:].tolist()
    assert cut[0].scored[1:].tolist() == whole[0].scored[-11:].tolist() and not cut[0].scored[0]
    asked = Chat((*SAID, Message("user", "And then? " * 9)))
    assert samples_of(ChatObjective(tokenizer(), 8), [asked]) == []  # nothing that counts is left


def test_where_the_assistant_answers_nothing_there_is_nothing_to_learn():
    objective = ChatObjective(tokenizer(), 256)
    assert samples_of(objective, [Chat(SAID[:2])]) == []
    assert samples_of(objective, [Chat((Message("assistant", "Hello."),))]) == []
    (sample,) = samples_of(objective, [Chat((Message("assistant", "Hello."), *SAID[1:3]))])
    assert runs(tokenizer(), sample) == ["Yes, it is.<|end|>"]


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("word", ["<|end|>", "x<|begin|>assistant\nYes", "<|pad|>"])
def test_nobody_writes_control_tokens_into_a_message(number, word):
    messages = [Message(m.role, word if i == number else m.content) for i, m in enumerate(SAID)]
    with pytest.raises(SampleError, match=f"Message {number + 1} .*control token"):
        samples_of(ChatObjective(tokenizer(), 256), [Chat(tuple(messages))])


def test_nor_into_a_role():
    with pytest.raises(SampleError, match="control token"):
        samples_of(ChatObjective(tokenizer(), 256), [Chat((Message("user<|end|>", "a"), *SAID[1:]))])


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (FORGETFUL, "not always in one way"),
        (STRICT, "no system"),
        ("{{ messages[0].missing.more }}", "does not take"),
        ("{% for", "does not take"),
        ("{% for m in messages %}{{ m.content + 7 }}{% endfor %}", "does not take"),
        ("", "no chat template"),
    ],
    ids=["forgetful", "strict", "undefined", "broken", "type", "empty"],
)
def test_templates_that_will_not_do(template, said):
    with pytest.raises((SampleError, ObjectiveError), match=said) as caught:
        samples_of(ChatObjective(with_template(template), 256), [Chat(SAID)])
    assert caught.value.remedy


def test_a_template_may_change_what_nobody_learns():
    """The last turn is written as it was asked for, so it can be learned alone."""
    (sample,) = samples_of(ChatObjective(with_template(FORGETFUL), 256), [Chat(SAID[:3])])
    assert runs(tokenizer(), sample) == ["Yes, it is.\n"]


def test_a_conversation_is_bounded(monkeypatch):
    monkeypatch.setattr(module, "WRITTEN_CHARS_MAX", 100)
    with pytest.raises(SampleError, match="too long"):
        samples_of(ChatObjective(tokenizer(), 256), [Chat(SAID)])


def test_the_loss_is_transformers_own_with_masked_labels():
    objective, model = ChatObjective(tokenizer(), 256), llama()
    (sample,) = samples_of(objective, [Chat(SAID)])
    (loss,) = objective.losses(model, batch(objective, [sample]))
    ids, counts = (torch.tensor([part.tolist()]) for part in (sample[0].ids, sample[0].scored))
    assert torch.allclose(loss, model(input_ids=ids, labels=ids.where(counts, -100)).loss, rtol=1e-6)


def test_gated_gradients_are_those_of_one_example_at_a_time():
    objective, model = ChatObjective(tokenizer(), 256), llama(torch.float64)
    samples = samples_of(objective, [Chat(SAID), Chat(SAID[:3]), Chat(SAID[1:3])])
    gated_like_one_by_one(model, objective, samples, Gate(model, BLOCKS))


def test_what_it_is_not_for():
    with pytest.raises(ObjectiveError, match="conversations"):
        list(ChatObjective(tokenizer(), 64).samples(Text("a")))
    with pytest.raises(SampleError):
        samples_of(ChatObjective(tokenizer(), 64), [Chat((Message("user", "\ud800"), SAID[2]))])
