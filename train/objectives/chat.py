"""Supervised fine-tuning: what the assistant says in a conversation is learned, the rest is only read.

The conversation is written out by the tokenizer's chat template. What an assistant's turn adds to the prompt before it
is its own: the words, and whatever the template puts behind them, so that the model learns where to stop. This holds
only if writing out more turns leaves the earlier ones as they were, which is checked for each turn.

A first message of the assistant's answers nobody: it is read, and not learned. A conversation that is longer than the
context loses its oldest tokens: the end of it is what the turns before lead to.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import TemplateError
from torch import Tensor, nn

from licet.train.data.rows import Chat, Message, Parts
from licet.train.data.tokenizer import padding
from licet.train.data.tokens import Sample, TokenSequence
from licet.train.objectives.objective import (
    Inputs,
    ObjectiveError,
    SampleError,
    check_context,
    laid_out,
    mean_losses,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ASSISTANT = "assistant"
CHARS_MAX = 4 << 20
"""Of a conversation, written out; a tokenizer takes about a hundred bytes for each."""
WRITTEN_CHARS_MAX = 256 << 20
"""In all: each turn has the conversation up to it written out anew."""
_ADVICE = "Take the row out, or use a tokenizer whose chat template does."


class Template:
    """A tokenizer's chat template, and whose each token of a conversation is."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if not getattr(tokenizer, "chat_template", None):
            raise ObjectiveError(
                "The tokenizer has no chat template.", remedy="Set tokenizer.chat_template, and save it anew."
            )
        if not tokenizer.is_fast:
            raise ObjectiveError(
                "The tokenizer does not say where in a text its tokens lie.", remedy="Save it as tokenizer.json."
            )
        self._tokenizer = tokenizer

    def sequence(self, messages: Sequence[Message], turns: Sequence[int]) -> TokenSequence:
        """A conversation as tokens. Scored are those of the assistant's turns that are numbered."""
        self._check(messages)
        whole = self._written(messages)
        if len(whole) > CHARS_MAX or len(whole) * len(turns) > WRITTEN_CHARS_MAX:
            raise SampleError(
                f"A conversation of {len(whole)} characters and {len(turns)} turns is too long.", remedy="Split it."
            )
        spans = [self._span(messages, turn, whole) for turn in turns]
        try:
            found: Any = self._tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        except (TypeError, UnicodeError) as error:
            raise SampleError("The conversation is no Unicode.", remedy="Mend its source.") from error
        ids = np.asarray(found["input_ids"], np.int32)
        scored = np.fromiter((_inside(spans, start) for start, _ in found["offset_mapping"]), np.bool_, len(ids))
        if not len(ids):
            raise SampleError("The chat template makes nothing of the conversation.", remedy=_ADVICE)
        scored[0] = False
        return TokenSequence(ids, scored)

    def _span(self, messages: Sequence[Message], turn: int, whole: str) -> tuple[int, int]:
        """From where the assistant is asked to speak, to where the turn has ended."""
        before, after = self._written(messages[:turn], ask=True), self._written(messages[: turn + 1])
        if not after.startswith(before) or not whole.startswith(after):
            raise SampleError(
                f"The chat template does not write message {turn + 1} behind what it asks, or not always in one way.",
                remedy="Use a template that does not change earlier turns, or split the conversation there.",
            )
        return len(before), len(after)

    def _written(self, messages: Sequence[Message], *, ask: bool = False) -> str:
        plain = [{"role": message.role, "content": message.content} for message in messages]
        try:
            return str(self._tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=ask))
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:
            why = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
            raise SampleError(f"The chat template does not take the conversation: {why}.", remedy=_ADVICE) from error

    def _check(self, messages: Sequence[Message]) -> None:
        """Whoever can write a control token into a message can put words into the mouths of others."""
        if self._controls is None:
            return
        for number, message in enumerate(messages, start=1):
            found = self._controls.search(message.content) or self._controls.search(message.role)
            if found is not None:
                raise SampleError(
                    f"Message {number} holds {found.group()!a}, which the tokenizer takes for a control token.",
                    remedy="Take the row out, or write it in another way.",
                )

    @cached_property
    def _controls(self) -> re.Pattern[str] | None:
        """The tokens that are never text."""
        added = self._tokenizer.added_tokens_decoder.values()
        names = {str(token.content) for token in added if token.special} | set(self._tokenizer.all_special_tokens)
        return re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True)))) if names else None


class ChatObjective:
    """Conversations. One in which the assistant answers nothing gives no sample."""

    rows_per_example = 1

    def __init__(self, tokenizer: PreTrainedTokenizerBase, context: int) -> None:
        self._template = Template(tokenizer)
        self._context = check_context(context)
        self._pad = padding(tokenizer)

    def samples(self, parts: Parts) -> Iterator[Sample]:
        if not isinstance(parts, Chat):
            raise ObjectiveError(
                "This objective is on conversations.", remedy="Read rows of messages, or take another."
            )
        turns = [i for i, message in enumerate(parts.messages) if i and message.role == ASSISTANT]
        if not turns:
            return
        whole = self._template.sequence(parts.messages, turns)
        ids, scored = whole.ids[-self._context :].copy(), whole.scored[-self._context :].copy()
        scored[0] = False
        if scored.any():
            yield (TokenSequence(ids, scored),)

    def inputs(self, samples: Sequence[Sample | None], width: int) -> Inputs:
        return laid_out(samples, width, self.rows_per_example, self._pad)

    def losses(self, model: nn.Module, inputs: Inputs) -> Tensor:
        return mean_losses(model, inputs)


def _inside(spans: Sequence[tuple[int, int]], place: int) -> bool:
    """Whether a place lies in one of some stretches, which are in order."""
    i = bisect_right(spans, place, key=lambda span: span[0]) - 1
    return i >= 0 and place < spans[i][1]
