"""Runs in a loop of one's own on a test's home: begun, taught a pass, and their seals verified."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from licet.ledger.reader import LogReader
from licet.train.data import tokenizer
from licet.train.own.run import GovernedRun
from licet.train.run import models
from licet.train.seals.finder import seals_in
from licet.train.seals.history import LogHistory
from licet.train.seals.verify import verify_seal
from tests.train.homes import MODEL, Place

torch.set_num_threads(1)
CONTEXT = 32
EXAMPLES = Path(__file__).parents[2] / "examples"


def model_and_tokenizer(seed: int = 3) -> tuple[Any, Any]:
    known = tokenizer.train(["a"], tokenizer.VOCABULARY_MIN, "bytes")
    return models.from_config(MODEL, len(known), seed), known


def begin(place: Place, model: Any = None, **changes: Any) -> GovernedRun:
    made, known = model_and_tokenizer()
    asked: dict[str, Any] = {"name": "own", "model_name": "tiny", "from_scratch": True, "context": CONTEXT, **changes}
    rows = asked.pop("rows", place.folder / "rows.jsonl")
    return GovernedRun.begin(place.home, made if model is None else model, known, rows, **asked)


def adamw(run: GovernedRun) -> torch.optim.Optimizer:
    return torch.optim.AdamW([p for p in run.model.parameters() if p.requires_grad], lr=3e-3)


def taught(run: GovernedRun, samples: list[int], slots: int | None = None) -> tuple[Any, Any]:
    """One pass, noted."""
    batch = run.batch(samples, slots=slots)
    with run.gate(batch.weights):
        losses = run.losses(batch)
        losses.sum().backward()
    run.note(batch, losses)
    return batch, losses


def confined(run: GovernedRun) -> list[int]:
    """The samples that do not reach every block."""
    return [i for i, lesson in enumerate(run.lessons.of_sample.tolist()) if 0 in run.lessons[lesson].levels]


def verified(place: Place, directory: Path) -> Any:
    with LogReader.open(place.home.log("training")) as log:
        found = seals_in(*(path for path in (place.home.path / "models").iterdir()))
        report = verify_seal(directory, log.verifier_keys(), parents=found, history=LogHistory(log))
    report.check()
    return report
