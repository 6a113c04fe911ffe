"""Canaries: short made-up sequences that are planted in a source, and how much better they are known than others.

A canary is five random tokens and then four random digits. The 10⁴ sequences that differ only in the digits are all
its rivals, and all are scored: by the 1000 that differ in the first three digits, and what may follow each.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.studies.corpora import CorpusError

PREFIX = 5
DIGITS = 4
RIVALS = 10**DIGITS
PLANTED = ((1, 3), (4, 2), (16, 1), (64, 1))
"""How often a canary is inserted, and how many canaries are inserted that often."""
CONTROLS = 4
PER_CHUNK = 12


@dataclass(frozen=True, slots=True)
class Canary:
    """How often it is inserted (0 for a control that nobody is taught), and its tokens."""

    insertions: int
    tokens: tuple[int, ...]


def make_canaries(vocabulary: int, digits: Sequence[int], seed: int) -> list[Canary]:
    """Planted ones and controls. Digits are the ten tokens that stand for them."""
    if len(set(digits)) != 10:
        raise CorpusError("A canary needs ten tokens, one for each digit.", remedy="Use a tokenizer that has them.")
    rng = random.Random(f"canaries {seed}")
    words = [token for token in range(vocabulary) if token not in set(digits)]
    return [
        Canary(insertions, (*rng.sample(words, PREFIX), *rng.choices(digits, k=DIGITS)))
        for insertions, count in (*PLANTED, (0, CONTROLS))
        for _ in range(count)
    ]


def plant(text: Sequence[int], canaries: Sequence[Canary], length: int, seed: int) -> list[list[int]]:
    """Chunks of source text with all insertions in them, in random order."""
    waiting = [canary for canary in canaries for _ in range(canary.insertions)]
    random.Random(f"planting {seed}").shuffle(waiting)
    gap = length // PER_CHUNK - PREFIX - DIGITS
    chunks, at = [], 0
    for first in range(0, len(waiting), PER_CHUNK):
        chunk: list[int] = []
        for canary in waiting[first : first + PER_CHUNK]:
            chunk += [*text[at : at + gap], *canary.tokens]
            at += gap
        missing = length - len(chunk)
        chunks.append([*chunk, *text[at : at + missing]])
        at += missing
    if chunks and len(chunks[-1]) < length:
        raise CorpusError("The source is too short to plant canaries in.", remedy="Use a longer one.")
    return chunks


def text_needed(length: int) -> int:
    """How many tokens of the source lie between the canaries."""
    insertions = sum(often * count for often, count in PLANTED)
    return math.ceil(insertions / PER_CHUNK) * length - insertions * (PREFIX + DIGITS)


@torch.no_grad()
def exposure(model: nn.Module, canary: Canary, digits: Sequence[int]) -> float:
    """log₂|R| − log₂ rank, by perplexity among all its rivals; equals count half."""
    scores = rival_scores(model, canary, digits)
    place = sum(digits.index(token) * 10 ** (DIGITS - 1 - i) for i, token in enumerate(canary.tokens[PREFIX:]))
    return exposure_of(scores, place)


def exposure_of(scores: Tensor, place: int) -> float:
    """Of the one at `place` among log-likelihoods."""
    own = scores[place]
    above, equal = int((scores > own).sum()), int((scores == own).sum())
    return math.log2(len(scores)) - math.log2(above + (equal + 1) / 2)


def rival_scores(model: nn.Module, canary: Canary, digits: Sequence[int]) -> Tensor:
    """Log-likelihoods of the digits 0000 to 9999 after the canary's prefix."""
    device = next(model.parameters()).device
    choices = torch.tensor(list(digits), device=device)
    triples = torch.cartesian_prod(*[choices] * (DIGITS - 1))
    begun = model(input_ids=torch.tensor([canary.tokens[:PREFIX]], device=device), use_cache=True)
    begun.past_key_values.batch_repeat_interleave(len(triples))
    rest = model(input_ids=triples, past_key_values=begun.past_key_values).logits
    first = begun.logits[:, -1:].expand(len(triples), 1, -1)
    logs = torch.log_softmax(torch.cat([first, rest], dim=1).float(), dim=-1)
    known = logs[:, : DIGITS - 1].gather(2, triples[:, :, None]).squeeze(2).sum(1)
    return (known[:, None] + logs[:, DIGITS - 1][:, choices]).flatten()
