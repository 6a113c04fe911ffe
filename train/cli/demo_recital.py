"""What a model recites: given a stretch of a text, how many tokens it goes on word for word by itself.

This is the attack that serving has to stop: greedy decoding after a prefix that somebody knows already.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from licet.train.data.tokenizer import closing, opening, tokenize

PREFIX_TOKENS = 32
RECITED_TOKENS_MAX = 64
PROMPTS_MAX = 8
"""Prefixes that are tried of one text."""


@dataclass(frozen=True, slots=True)
class Recital:
    """What came back of one text: the longest run that agreed, after which prefix, and the mean over all prefixes."""

    longest: int
    mean: float
    possible: int
    """Tokens that could have agreed at most; 0 for a text that is no longer than a prefix."""
    prefix: str
    said: str
    """The longest run as text."""


def recite(model: nn.Module, tokenizer: Any, texts: Sequence[str]) -> list[Recital]:
    """Let a model go on after prefixes of each text, all at once."""
    prompts = [_prompts(tokenizer, text) for text in texts]
    prefixes = [prefix for own in prompts for prefix, _ in own]
    said = iter(continued(model, prefixes, RECITED_TOKENS_MAX).tolist() if prefixes else ())
    return [_recital(tokenizer, own, [next(said) for _ in own]) for own in prompts]


def _prompts(tokenizer: Any, text: str) -> list[tuple[list[int], list[int]]]:
    """Prefixes along a text, each with what really follows. The first stands at its beginning, as it was taught."""
    opened = opening(tokenizer)
    ids = [*([] if opened is None else [opened]), *tokenize(tokenizer, text), closing(tokenizer)]
    starts = range(0, len(ids) - PREFIX_TOKENS, PREFIX_TOKENS)[:PROMPTS_MAX]
    ends = [start + PREFIX_TOKENS for start in starts]
    return [(ids[end - PREFIX_TOKENS : end], ids[end : end + RECITED_TOKENS_MAX]) for end in ends]


@torch.inference_mode()
def continued(model: nn.Module, prefixes: Sequence[Sequence[int]], tokens: int) -> Tensor:
    """The likeliest next token after each prefix, again and again: [prefixes, tokens]. Prefixes are of one length."""
    model.eval()
    ids, past, said = torch.tensor(prefixes), None, []
    for _ in range(tokens):
        out = model(input_ids=ids, past_key_values=past, use_cache=True)
        ids, past = out.logits[:, -1:].argmax(-1), out.past_key_values
        said.append(ids)
    return torch.cat(said, 1)


def _recital(tokenizer: Any, prompts: Sequence[tuple[list[int], list[int]]], said: Sequence[Sequence[int]]) -> Recital:
    if not prompts:
        return Recital(0, 0.0, 0, "", "")
    runs = [agreeing(true, one) for (_, true), one in zip(prompts, said, strict=True)]
    best = max(range(len(runs)), key=runs.__getitem__)
    prefix, true = prompts[best]
    return Recital(
        runs[best],
        sum(runs) / len(runs),
        max(len(true) for _, true in prompts),
        tokenizer.decode(prefix, skip_special_tokens=True),
        tokenizer.decode(true[: runs[best]], skip_special_tokens=True),
    )


def agreeing(true: Sequence[int], said: Sequence[int]) -> int:
    """How many tokens agree before the first that does not."""
    return next((at for at, (a, b) in enumerate(zip(true, said, strict=False)) if a != b), min(len(true), len(said)))
