"""Preference: of two answers the model comes to prefer the one that people do (DPO, Rafailov et al. 2023).

The loss of an example is −log σ(β · (m − m₀)), where m is how much likelier the model finds the chosen answer than the
rejected one, in nats over their tokens, and m₀ is the same for a reference that does not learn. An example has two
rows, so the gate is told which rows belong together (`Inputs.example_ids_R`).

A prompt that is too long loses its oldest tokens, the same for both answers; an answer that does not fit is refused.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from licet.train.data.rows import Message, Pair, Parts
from licet.train.data.tokenizer import closing, opening, padding, tokenize
from licet.train.data.tokens import Sample, TokenSequence
from licet.train.objectives.chat import ASSISTANT, Template
from licet.train.objectives.objective import (
    Inputs,
    ObjectiveError,
    SampleError,
    check_context,
    laid_out,
    scored_nats,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Reference = Callable[[Inputs], Tensor]
"""The log-probability of each row's scored tokens under what does not learn, [rows], without a gradient."""


class PreferenceObjective:
    """Pairs of answers. In a batch, the row of the chosen answer stands above that of the rejected one."""

    rows_per_example = 2

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, context: int, *, beta: float = 0.1, reference: Reference | None = None
    ) -> None:
        """Without a reference, samples and inputs can be made, but no losses."""
        if not 0 < beta < math.inf:
            raise ObjectiveError(f"beta cannot be {beta}.", remedy="Give a positive number, as 0.1.")
        self._tokenizer = tokenizer
        self._template: Template | None = None
        self._context = check_context(context)
        self._opening, self._closing = opening(tokenizer), closing(tokenizer)
        self._pad = padding(tokenizer)
        self._beta = beta
        self._reference = reference

    def samples(self, parts: Parts) -> Iterator[Sample]:
        if not isinstance(parts, Pair):
            raise ObjectiveError("Preferences are on pairs of answers.", remedy="Read such rows, or take another.")
        chosen, rejected = self._answered(parts.prompt, parts.chosen), self._answered(parts.prompt, parts.rejected)
        cut = max(len(chosen), len(rejected)) - self._context
        yield self._cut(chosen, cut), self._cut(rejected, cut)

    def inputs(self, samples: Sequence[Sample | None], width: int) -> Inputs:
        return laid_out(samples, width, self.rows_per_example, self._pad)

    def losses(self, model: nn.Module, inputs: Inputs) -> Tensor:
        if self._reference is None:
            raise ObjectiveError(
                "There is no reference to prefer an answer against.",
                remedy="Give reference=frozen_reference(model), or adapter_reference(model) with adapters.",
            )
        reference_S2 = self._reference(inputs).detach().view(-1, 2)
        nats_R, counts_R = scored_nats(model, inputs)
        learned_S2 = -nats_R.view(-1, 2) - reference_S2
        losses_S = -logsigmoid(self._beta * (learned_S2[:, 0] - learned_S2[:, 1]))
        real_S = (counts_R.view(-1, 2) > 0).all(1)
        return torch.where(real_S, losses_S, 0.0)  # a null slot would have log 2

    def _answered(self, prompt: tuple[Message, ...] | str, answer: str) -> TokenSequence:
        """A prompt and an answer to it, which is scored with its end."""
        if not isinstance(prompt, str):
            if self._template is None:
                self._template = Template(self._tokenizer)
            messages = (*prompt, Message(ASSISTANT, answer))
            return self._template.sequence(messages, (len(prompt),))
        opened = [] if self._opening is None else [self._opening]
        asked = [*opened, *tokenize(self._tokenizer, prompt)]
        said = [*tokenize(self._tokenizer, answer), self._closing]
        if not asked:
            raise SampleError("The prompt is empty, and the tokenizer has no token to begin with.", remedy="Fill it.")
        return TokenSequence.of([*asked, *said], [False] * len(asked) + [True] * len(said))

    def _cut(self, sequence: TokenSequence, count: int) -> TokenSequence:
        """Without its first tokens, none of which may be scored."""
        if count <= 0:
            return sequence
        if not sequence.scored.any() or count >= int(np.argmax(sequence.scored)):
            raise SampleError(
                f"An answer does not fit into {self._context} tokens with anything before it.",
                remedy="Raise the context, or shorten the answers.",
            )
        return TokenSequence(sequence.ids[count:].copy(), sequence.scored[count:].copy())


def frozen_reference(model: nn.Module) -> Reference:
    """The model as it is now. It is copied, so ask before there is a gate on it."""
    frozen = copy.deepcopy(model).eval().requires_grad_(False)

    def reference(inputs: Inputs) -> Tensor:
        with torch.no_grad():
            return -scored_nats(frozen, inputs)[0]

    return reference


def adapter_reference(peft_model: nn.Module) -> Reference:
    """The base of a model with adapters, which needs no memory of its own."""
    disabled: Any = getattr(peft_model, "disable_adapter", None)
    if disabled is None:
        raise ObjectiveError("This model has no adapters to leave out.", remedy="Use frozen_reference(model).")

    def reference(inputs: Inputs) -> Tensor:
        with torch.no_grad(), _evaluating(peft_model), disabled():
            return -scored_nats(peft_model, inputs)[0]

    return reference


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Without dropout; each module's own mode comes back after."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
