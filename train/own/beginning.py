"""How a run in a loop of one's own begins: its rows put to the gate, the answers recorded, and its base sealed.

It does what `licet train` does, for a model that is in memory already. Where the model comes from is checked: weights
that are not those of the folder they are said to come from would be a history that nobody recorded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from licet.ledger.errors import ConfigError, VerificationError
from licet.ledger.files import write_whole
from licet.ledger.home import Home
from licet.ledger.log import Ledger, now_ms
from licet.ledger.reader import LogReader
from licet.ledger.records import Digest, PolicyMentioned, Ref, RunStarted, Stage, Technique
from licet.policies.bands import Layout
from licet.policies.policy import Policy
from licet.policies.registry import Registry
from licet.train.blocks import describe
from licet.train.data.enrolment import Enrolment, make_lessons
from licet.train.data.judging import Judge, by_compression, by_model
from licet.train.data.lessons import Lessons
from licet.train.data.row_files import RowShape, claims_of, read_rows
from licet.train.data.rows import Row
from licet.train.data.tokens import TokenStore
from licet.train.objectives import ChatObjective, Objective, PreferenceObjective
from licet.train.run import base as bases
from licet.train.run import models as loading
from licet.train.run.folder import RunFolder
from licet.train.seals.history import LogHistory
from licet.train.seals.outside import seal_outside
from licet.train.seals.tensor_file import digest_of, read_header
from licet.train.seals.writer import tensors_of

NAME_CHARS_MAX = 64
SAID_FILE = "own-loop.json"


@dataclass(frozen=True, slots=True)
class Beginning:
    """What a run in a loop of one's own is begun with."""

    name: str
    """The run's own; a home has no two of the same."""
    model_name: str
    """The model's, under models/."""
    objective: Objective
    context: int
    rows: tuple[Path, ...]
    metadata: Mapping[str, Any]
    base: Path | None
    """The folder that the weights come from; None for weights that were drawn at random."""
    layers_per_block: int = 1
    stage: Stage = Stage.ENFORCE
    technique: Technique = Technique.SCALE
    policies: tuple[Policy, ...] = ()

    def __post_init__(self) -> None:
        for what, name in (("run", self.name), ("model", self.model_name)):
            plain = name.isascii() and name.replace("-", "a").replace("_", "a").replace(".", "a").isalnum()
            if not plain or not name[0].isalnum() or len(name) > NAME_CHARS_MAX or name != name.lower():
                raise ConfigError(
                    f"{name!a} cannot be the name of a {what}.",
                    remedy="Use lower-case letters, digits, '-', '_' and '.', beginning with a letter or digit.",
                )
        claims_of(self.metadata)
        if not self.rows:
            raise ConfigError("This run has no rows.", remedy="Name one file or more: rows=[…].")

    @property
    def shape(self) -> RowShape:
        if isinstance(self.objective, ChatObjective):
            return RowShape("chat")
        return RowShape("preference" if isinstance(self.objective, PreferenceObjective) else "text")

    @property
    def said(self) -> bytes:
        """What the run was begun with, as it is kept; its digest stands in the log."""
        facts = {
            "loop": "own",
            "run": self.name,
            "model": self.model_name,
            "objective": type(self.objective).__name__,
            "context": self.context,
            "rows": [str(path) for path in self.rows],
            "metadata": dict(self.metadata),
            "base": str(self.base) if self.base is not None else None,
            "layers_per_block": self.layers_per_block,
            "stage": self.stage.value,
            "technique": self.technique.value,
            "policies": [policy.digest.hex() for policy in self.policies],
        }
        try:
            return json.dumps(facts, sort_keys=True, allow_nan=False).encode() + b"\n"
        except (TypeError, ValueError) as error:
            raise ConfigError(f"The metadata of this run is no plain JSON: {error}.", remedy="Mend it.") from error


@dataclass(frozen=True, slots=True)
class Begun:
    """A run that was begun: what it teaches, and under what."""

    entry: Ref
    policy: Policy
    policy_entry: Ref
    policies: tuple[Policy, ...]
    layouts: tuple[Layout, ...]
    layout: Layout
    """Under the home's own policy."""
    parent: Digest | None
    lessons: Lessons
    store: TokenStore


def begin(asked: Beginning, model: nn.Module, tokenizer: Any, home: Home, ledger: Ledger) -> Begun:
    """Put every row to the gate, record what it said, and keep what was admitted as samples."""
    folder = RunFolder.of(home, asked.name)
    if folder.has_begun or folder.lessons.exists():
        raise ConfigError(
            f"This home has a run {asked.name} already.",
            remedy="Give this one another name. To go on from a seal, begin a new run with its folder as base.",
        )
    loading.check_context(model, asked.context)
    with LogReader.open(home.log("registry")) as registry_log:
        registry = Registry.read(registry_log, home.verifier_key("registry"))
        architecture, _ = describe(model, asked.layers_per_block)
        measure = by_compression if asked.base is None else by_model(model, tokenizer, asked.context)
        judge = Judge.over(home, registry, architecture, asked.policies, measure)
        parent = _parent(asked, model, tokenizer, home, ledger)
        folder.clear()
        write_whole(folder.path / SAID_FILE, asked.said)
        mentioned = {p.digest: Ref(ledger.append(PolicyMentioned(p.digest))) for p in judge.gate.policies}
        entry = Ref(ledger.append(_started(asked, judge.layout, mentioned[judge.policy.digest], parent)))
        enrolment = Enrolment(ledger, entry, judge, asked.stage, mentioned[judge.policy.digest], home.content)
        lessons = _enrolled(asked, enrolment, folder)
    ledger.checkpoint()
    return Begun(
        entry,
        judge.policy,
        mentioned[judge.policy.digest],
        judge.gate.policies,
        judge.gate.layouts,
        judge.layout,
        parent,
        lessons,
        TokenStore.open(folder.tokens),
    )


def _started(asked: Beginning, layout: Layout, policy: Ref, parent: Digest | None) -> RunStarted:
    return RunStarted(
        asked.name,
        asked.model_name,
        layout.as_records(),
        asked.technique,
        asked.stage,
        policy,
        parent,
        Digest(hashlib.sha256(asked.said).digest()),
        now_ms(),
    )


def _enrolled(asked: Beginning, enrolment: Enrolment, folder: RunFolder) -> Lessons:
    """The lessons of the rows, recorded and kept."""

    def rows() -> Iterator[Row]:
        claims = claims_of(asked.metadata)
        for path in asked.rows:
            yield from read_rows(path, asked.shape, claims)

    enrolled = [one for _, one in enrolment.enrol(rows())]
    with TokenStore.create(folder.tokens) as store:
        lessons = make_lessons(rows(), enrolled, asked.objective, store, _silent)
    if not lessons.samples:
        raise ConfigError("Nothing of the rows may be trained on.", remedy="`licet ledger` tells why, row by row.")
    lessons.save(folder.lessons)
    return lessons


# -- where the weights come from


def _parent(asked: Beginning, model: nn.Module, tokenizer: Any, home: Home, ledger: Ledger) -> Digest | None:
    """The seal that the run grows from. A base from elsewhere is given one that says that nobody knows its history."""
    if asked.base is None:
        return None
    models = home.path / "models"
    parent = bases.sealed(asked.base, ledger.verifier_keys(), LogHistory(ledger), models)
    if parent is None:
        came = loading.from_folder(asked.base)
        where = models / asked.model_name
        own = describe(came, asked.layers_per_block)[1]
        parent = seal_outside(asked.base, where, asked.model_name, came, own, tokenizer, ledger)
    check_weights(model, asked.base)
    return parent


def check_weights(model: nn.Module, folder: Path) -> None:
    """Raise unless the model holds what lies in the folder, to the bit. Adapters that were put on it may be new."""
    wanted = {
        tensor.name: (tensor.shape, digest_of(file, tensor.start, tensor.end))
        for file in sorted(folder.glob("*.safetensors"))
        for tensor in read_header(file).tensors
    }
    here = _plain_tensors(model)
    for name, (shape, digest) in wanted.items():
        value = here.get(name)
        if value is None or tuple(value.shape) != shape or _digest(value) != digest:
            raise VerificationError(
                f"{name} of the model is not what lies in {folder}.",
                remedy="Load the model from that folder with the types that it has there, and begin before training.",
            )


def _plain_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a model under the names that a checkpoint of it has; of one with adapters, also the base's."""
    found = dict(tensors_of(model)[0])
    if hasattr(model, "peft_config"):
        for name, value in model.state_dict(keep_vars=True).items():
            found.setdefault(name.removeprefix("base_model.model.").replace(".base_layer.", "."), value)
    return found


def _digest(value: Tensor) -> Digest:
    plain = value.detach().cpu().contiguous().flatten()
    return Digest(hashlib.sha256(plain.view(torch.uint8).numpy().tobytes()).digest())


def _silent(_done: int, _total: int) -> None:
    pass
