"""Pre-training: every token of a text is predicted from those before it, and its end from all of them.

One text never stands in a row with another. A text that is longer than the context is read in windows; each begins with
the last token of the one before, and each token counts in exactly one of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor, nn

from licet.train.data.rows import Parts, Text
from licet.train.data.tokenizer import closing, opening, padding, tokenize
from licet.train.data.tokens import Sample, TokenSequence
from licet.train.objectives.objective import Inputs, ObjectiveError, check_context, laid_out, mean_losses

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class PretrainingObjective:
    """Texts, with a token before and one behind. An empty text gives no sample."""

    rows_per_example = 1

    def __init__(self, tokenizer: PreTrainedTokenizerBase, context: int) -> None:
        self._tokenizer = tokenizer
        self._context = check_context(context)
        self._opening, self._closing = opening(tokenizer), closing(tokenizer)
        self._pad = padding(tokenizer)

    def samples(self, parts: Parts) -> Iterator[Sample]:
        if not isinstance(parts, Text):
            raise ObjectiveError("Pre-training is on texts.", remedy="Read rows of text, or take another objective.")
        text = tokenize(self._tokenizer, parts.text)
        if not text:
            return
        opened = [] if self._opening is None else [self._opening]
        ids = np.asarray([*opened, *text, self._closing], np.int32)
        for start in range(0, len(ids) - 1, self._context - 1):
            window = ids[start : start + self._context]
            scored = np.ones(len(window), np.bool_)
            scored[0] = False
            yield (TokenSequence(window, scored),)

    def inputs(self, samples: Sequence[Sample | None], width: int) -> Inputs:
        return laid_out(samples, width, self.rows_per_example, self._pad)

    def losses(self, model: nn.Module, inputs: Inputs) -> Tensor:
        return mean_losses(model, inputs)
