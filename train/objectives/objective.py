"""What objectives have in common: samples of a row, tensors of samples, and a loss of its own for each example.

Rows are padded on the right, and nothing is masked there: what comes after a text cannot reach it in a causal model.
A mask of zeros would be worse than useless, because attention picks another kernel when a batch holds any, and one
example's length would then change the others in their last bits.

It does not know weights, policies or the gate.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from licet.ledger.errors import ConfigError, FormatError
from licet.train.data.rows import Parts
from licet.train.data.tokens import Sample

IGNORED = -100
CONTEXT_MIN = 2


class ObjectiveError(ConfigError):
    """An objective that cannot be used as it is set up."""


class SampleError(FormatError):
    """A row that this objective can make no samples of."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a model is given for a batch: R rows of T tokens. Shapes follow from slots and width alone."""

    input_ids_RT: Tensor
    attention_mask_RT: Tensor
    """All ones: see above."""
    labels_RT: Tensor
    """The token itself where it is scored, else -100. A null slot's are all -100."""
    example_ids_R: Tensor | None = None
    """The slot of each row, where a slot has several; what the gate wants to know."""

    def to(self, device: torch.device | str) -> Inputs:
        ids_R = self.example_ids_R
        return Inputs(
            self.input_ids_RT.to(device, non_blocking=True),
            self.attention_mask_RT.to(device, non_blocking=True),
            self.labels_RT.to(device, non_blocking=True),
            None if ids_R is None else ids_R.to(device, non_blocking=True),
        )


class Objective(Protocol):
    """One way to learn from rows."""

    @property
    def rows_per_example(self) -> int:
        """How many rows of a batch a slot takes."""

    def samples(self, parts: Parts) -> Iterator[Sample]:
        """What a row gives to train on: none if there is nothing in it to learn."""

    def inputs(self, samples: Sequence[Sample | None], width: int) -> Inputs:
        """A batch with these in its slots. None, or a sample without sequences, is a null slot."""

    def losses(self, model: nn.Module, inputs: Inputs) -> Tensor:
        """Each slot's own loss, which no other slot has a part in; 0 for a null slot."""


def check_context(context: int) -> int:
    if context < CONTEXT_MIN:
        raise ObjectiveError(
            f"Samples cannot have {context} tokens.", remedy=f"Give at least {CONTEXT_MIN}: one to be predicted."
        )
    return context


def laid_out(samples: Sequence[Sample | None], width: int, rows_per_example: int, pad: int) -> Inputs:
    """Samples as rows: those of a slot one below the other."""
    rows = len(samples) * rows_per_example
    ids_RT = np.full((rows, width), pad, np.int64)
    labels_RT = np.full((rows, width), IGNORED, np.int64)
    for slot, sample in enumerate(samples):
        if sample and len(sample) != rows_per_example:
            raise ObjectiveError(
                f"A sample of {len(sample)} sequences was made by another objective.", remedy="Tokenize the data anew."
            )
        for i, sequence in enumerate(sample or ()):
            length = len(sequence)
            if length > width:
                raise ObjectiveError(
                    f"A sample of {length} tokens does not fit into {width}.", remedy="Make the batch wider."
                )
            row = slot * rows_per_example + i
            ids_RT[row, :length] = sequence.ids
            labels_RT[row, :length] = np.where(sequence.scored, sequence.ids, IGNORED)
    ids = torch.from_numpy(ids_RT)
    owners = torch.arange(len(samples)).repeat_interleave(rows_per_example) if rows_per_example > 1 else None
    return Inputs(ids, torch.ones_like(ids), torch.from_numpy(labels_RT), owners)


def scored_nats(model: nn.Module, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Of each row, what its scored tokens cost together, and how many they are."""
    output: Any = model(input_ids=inputs.input_ids_RT, attention_mask=inputs.attention_mask_RT, use_cache=False)
    logits_RTV: Tensor = output.logits
    if logits_RTV.dtype not in (torch.float32, torch.float64):
        logits_RTV = logits_RTV.float()
    labels_RT = inputs.labels_RT
    last_R1 = labels_RT.new_full((labels_RT.shape[0], 1), IGNORED)
    targets_RT = torch.cat((labels_RT[:, 1:], last_R1), 1)  # so that logits need not be cut, which would copy them
    nats_N = cross_entropy(logits_RTV.flatten(0, 1), targets_RT.flatten(), reduction="none", ignore_index=IGNORED)
    return nats_N.view_as(targets_RT).sum(1), (targets_RT != IGNORED).sum(1)


def mean_losses(model: nn.Module, inputs: Inputs) -> Tensor:
    """Of each row, the mean over its own scored tokens; 0 if it has none."""
    nats_R, counts_R = scored_nats(model, inputs)
    return nats_R / counts_R.clamp_min(1)
