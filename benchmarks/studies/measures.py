"""What a trained model gives back of a text: loss, greedy extraction, and extraction by repeated sampling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

PREFIX = 50
SUFFIX = 50
TRIES = 1000
CHANCE = 0.5
OFFSETS = 20
_BATCH = 64


@dataclass(frozen=True, slots=True)
class Extraction:
    """Over all windows: how many suffixes came back whole, how much in one run, and how many by sampling."""

    windows: int
    exact: float
    run_mean: float
    sampled: float
    """Share of windows whose suffix comes with a chance of one half within 1000 samples."""


def windows(chunks: Sequence[Sequence[int]]) -> Tensor:
    """Prefixes with their suffixes, several from each chunk, evenly over it."""
    room = min(len(chunk) for chunk in chunks) - PREFIX - SUFFIX
    starts = sorted({room * i // (OFFSETS - 1) for i in range(OFFSETS)})
    return torch.tensor([chunk[start : start + PREFIX + SUFFIX] for chunk in chunks for start in starts])


@torch.no_grad()
def extract(model: nn.Module, windows_NT: Tensor) -> Extraction:
    """Greedy continuations of the prefixes, and one teacher-forced pass over the whole."""
    made, logs = [], []
    for rows in windows_NT.split(_BATCH):
        made.append(continue_greedily(model, rows[:, :PREFIX], SUFFIX))
        logs.append(-_token_losses(model, rows)[:, PREFIX - 1 :].sum(1).double())
    agree = torch.cat(made) == windows_NT[:, PREFIX:]
    return Extraction(
        len(windows_NT),
        agree.all(1).float().mean().item(),
        longest_runs(agree).float().mean().item(),
        is_extractable(torch.cat(logs)).float().mean().item(),
    )


@torch.no_grad()
def continue_greedily(model: nn.Module, rows_NP: Tensor, count: int) -> Tensor:
    """The most likely next tokens, one after the other."""
    answer = model(input_ids=rows_NP, use_cache=True)
    found = [answer.logits[:, -1].argmax(-1, keepdim=True)]
    while len(found) < count:
        answer = model(input_ids=found[-1], past_key_values=answer.past_key_values, use_cache=True)
        found.append(answer.logits[:, -1].argmax(-1, keepdim=True))
    return torch.cat(found, dim=1)


def longest_runs(agree_NT: Tensor) -> Tensor:
    """Of each row, the longest stretch of true values."""
    longest = run = torch.zeros(len(agree_NT), dtype=torch.int64)
    for column in agree_NT.T:
        run = torch.where(column, run + 1, 0)
        longest = torch.maximum(longest, run)
    return longest


def is_extractable(log_likelihoods: Tensor, tries: int = TRIES, chance: float = CHANCE) -> Tensor:
    """(n, p)-extractable: 1 − (1 − likelihood)ⁿ ≥ p."""
    misses = torch.log1p(-log_likelihoods.exp().clamp(max=1 - 1e-15)) * tries
    return -torch.expm1(misses) >= chance


@torch.no_grad()
def mean_loss(model: nn.Module, chunks: Sequence[Sequence[int]]) -> float:
    """Nats per token."""
    rows = torch.tensor(list(chunks))
    return torch.cat([_token_losses(model, part) for part in rows.split(_BATCH)]).mean().item()


def _token_losses(model: nn.Module, rows_NT: Tensor) -> Tensor:
    logits = model(input_ids=rows_NT[:, :-1]).logits
    return cross_entropy(logits.transpose(1, 2).float(), rows_NT[:, 1:], reduction="none")
