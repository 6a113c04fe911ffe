"""Putting the weights of a sealed checkpoint back into a model: the same names and shapes, or nothing."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from licet.ledger.errors import FormatError
from licet.train.seals.writer import tensors_of


def load_weights(model: nn.Module, folder: Path) -> None:
    """Read every tensor that a checkpoint of this model would hold."""
    wanted = dict(tensors_of(model)[0])
    with torch.no_grad():
        for file in sorted(folder.glob("*.safetensors")):
            try:
                with safe_open(file, framework="pt") as stored:
                    for name in stored.keys():  # noqa: SIM118  it is no dictionary
                        _put(wanted, name, stored.get_tensor(name), file)
            except SafetensorError as error:
                raise FormatError(f"{file} cannot be read: {error}.", remedy="Restore the checkpoint.") from error
    if wanted:
        raise FormatError(f"{folder} lacks the tensor {min(wanted)}.", remedy="Restore the checkpoint.")


def _put(wanted: dict[str, Tensor], name: str, value: Tensor, file: Path) -> None:
    place = wanted.pop(name, None)
    if place is None or place.shape != value.shape:
        raise FormatError(
            f"{file} holds {name} {list(value.shape)}, which this model has not.",
            remedy="Run it with the run.toml that it was begun with.",
        )
    place.copy_(value)
