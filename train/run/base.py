"""Where a run's model begins: nowhere, in a sealed checkpoint, or in a model whose history nobody knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from licet.ledger.note import VerifierKey
from licet.ledger.records import Digest
from licet.train.data import tokenizer
from licet.train.run import models
from licet.train.run.file import Run
from licet.train.seals.finder import seals_in
from licet.train.seals.history import WriteHistory
from licet.train.seals.seal import SEAL_FILE
from licet.train.seals.verify import verify_seal


@dataclass(frozen=True, slots=True)
class Base:
    """A model to go on from. `seal` is None where there is none: it came from elsewhere, or from nowhere."""

    model: nn.Module
    tokenizer: Any
    """None if it is to be trained on what is admitted."""
    seal: Digest | None
    is_outside: bool


def begin(run: Run, keys: Sequence[VerifierKey], history: WriteHistory, home_models: Path) -> Base:
    """The model that a run starts with. A sealed one is verified first, with everything that it grew from."""
    part, file = run.file.model, run.file
    loaded = tokenizer.load(run.path(file.tokenizer.path)) if file.tokenizer.path is not None else None
    if part.base is None:
        assert part.config is not None
        vocabulary = len(loaded) if loaded is not None else vocabulary_of(run)
        model = models.from_config(part.config, vocabulary, file.seed)
        return Base(model, loaded, None, is_outside=False)
    folder = run.path(part.base)
    seal = sealed(folder, keys, history, home_models)
    if (folder / models.ADAPTER_CONFIG).exists():
        raise models.ModelError(
            f"{folder} holds adapters, and a run begins from a whole model.",
            remedy="Name the model that they belong to, or merge them into it (peft's merge_and_unload) and save that.",
        )
    model = models.from_folder(folder)
    if file.tokenizer.kind is None and loaded is None:
        loaded = tokenizer.load(folder)
    return Base(model, loaded, seal, is_outside=seal is None)


def sealed(folder: Path, keys: Sequence[VerifierKey], history: WriteHistory, home_models: Path) -> Digest | None:
    """The seal of a folder, once it was verified; None if it has none."""
    if not (folder / SEAL_FILE).exists():
        return None
    families = [
        home_models,
        *(path for path in (home_models.iterdir() if home_models.is_dir() else ()) if path.is_dir()),
    ]
    report = verify_seal(folder, keys, parents=seals_in(folder.parent, *families), history=history)
    report.check()
    return report.seal.id


def vocabulary_of(run: Run) -> int:
    """How many tokens a tokenizer that is yet to be trained will have at most."""
    part = run.file.tokenizer
    return tokenizer.VOCABULARY_MIN if part.kind == "bytes" else part.vocabulary
