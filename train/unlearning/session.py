"""Carrying out an unlearning order on a sealed model: a run of its own, recorded like learning, and sealed.

1. the order holds now, and its attestation was taught to this model
2. its examples are found in the log, and their texts in the content store
3. steps back, each an entry with negative levels under the order's own rule, until nothing is left or it would hurt
4. a seal whose parent is the one that was unlearned from
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from licet.ledger import terminal
from licet.ledger.content import ContentStore
from licet.ledger.errors import NotFoundError
from licet.ledger.home import Home
from licet.ledger.log import Ledger, now_ms
from licet.ledger.reader import LogReader
from licet.ledger.records import (
    AttestationMentioned,
    Digest,
    ExampleAdmitted,
    PolicyMentioned,
    ProfileDeclared,
    Ref,
    RunStarted,
    Signed,
    Stage,
    Technique,
)
from licet.policies.bands import resolve
from licet.policies.lineage import find_seal, stretches_of
from licet.policies.policy import Policy
from licet.policies.registry import Registry
from licet.policies.unlearning import Order, open_order
from licet.train.blocks import describe
from licet.train.data import tokenizer
from licet.train.data.entropy import Reading, under_model
from licet.train.data.lessons import Lesson, Lessons
from licet.train.data.rows import Text
from licet.train.data.tokens import Sample
from licet.train.gate import Gate
from licet.train.objectives import Inputs, PretrainingObjective
from licet.train.optimizer import GuardedOptimizer
from licet.train.rights import reserved_rights
from licet.train.run import models
from licet.train.run.base import sealed
from licet.train.run.ranks import Ranks
from licet.train.run.recorder import Recorder, Taught
from licet.train.run.sealing import Sealer
from licet.train.seals.history import LogHistory
from licet.train.seals.statement import RunPlace
from licet.train.unlearning.levels import order_levels, taught_levels
from licet.train.unlearning.steps import DamageBound, Ending, Limits, Outcome, Unlearner, UnlearningStep, unlearn

Steps = Generator[UnlearningStep, None, Outcome]
_LAYERS_OF_BLOCK = re.compile(r"layers\.(\d+)-(\d+)")


@dataclass(frozen=True, slots=True)
class Settings:
    """How the steps back are taken."""

    context: int = 256
    batch: int = 8
    learning_rate: float = 3e-4
    steps_max: int = 200
    check_every: int = 1
    target_loss: float | None = None
    """In nats a token; without it, what the model pays for held-out text."""


@dataclass(frozen=True, slots=True)
class Unlearned:
    """What came of an order. Losses are in nats a token, held-out figures in bits per byte."""

    run: str
    directory: Path | None
    """The new seal; None if no step could be kept."""
    ending: Ending
    steps: int
    steps_undone: int
    examples: int
    loss_before: float
    loss_after: float
    held_out_before: float
    held_out_after: float


@dataclass(frozen=True, slots=True)
class _Taught:
    """An example that was taught under the attestation: its entries, and its text."""

    index: int
    attestation: int
    text: str


def carry_out(home: Home, folder: Path, envelope: bytes, held_out: list[str], settings: Settings) -> Unlearned:
    """Unlearn what an order names from the sealed model in a folder."""
    with ExitStack() as stack:
        ledger = stack.enter_context(home.open_log("training"))
        registry_log = stack.enter_context(LogReader.open(home.log("registry")))
        registry = Registry.read(registry_log, home.verifier_key("registry"))
        order = open_order(envelope, registry, at_ms=now_ms())
        seal = sealed(folder, ledger.verifier_keys(), LogHistory(ledger), home.path / "models")
        if seal is None:
            raise NotFoundError(
                f"{folder} has no seal, so nobody knows what it was taught.", remedy="Name a sealed one."
            )
        return _Session(home, ledger, registry.policy(), order, folder, seal, settings).run(held_out)


class _Session:
    """One order, one model."""

    def __init__(
        self, home: Home, ledger: Ledger, policy: Policy, order: Order, folder: Path, seal: Digest, settings: Settings
    ) -> None:
        self.home, self.ledger, self.policy, self.order, self.seal = home, ledger, policy, order, seal
        self.settings = settings
        self.model = models.from_folder(folder)
        self.tokenizer = tokenizer.load(folder)
        models.check_context(self.model, settings.context)
        self.parent = find_seal(ledger, seal)[1]
        architecture, self.prefixes = describe(self.model, _layers_per_block(ledger, seal))
        self.layout = resolve(policy, architecture)
        self.objective = PretrainingObjective(self.tokenizer, settings.context)
        self.levels = order_levels(order, self.layout, taught_levels(ledger, order.terms.attestation, seal))

    def run(self, held_out: list[str]) -> Unlearned:
        taught = list(_taught_under(self.ledger, self.home.content, self.order.terms.attestation, self.seal))
        if not taught:
            raise NotFoundError(
                "The texts that were taught under this attestation are not kept any more.",
                remedy="They were erased; go back to a seal from before they were taught.",
            )
        name = f"unlearn-{self.order.id.hex()[:12]}-{self.seal.hex()[:8]}"
        policy = Ref(self.ledger.append(PolicyMentioned(self.policy.digest)))
        run = self._start(name, policy)
        lessons, samples, owners = self._lessons(run, taught)
        size = self.settings.batch
        batches = [self._inputs(samples[i : i + size]) for i in range(0, len(samples), size)]
        self.model.eval()  # no dropout: each example is measured as it is
        unlearner = self._unlearner(held_out)
        before = self._mean(batches)
        recorder = Recorder(self.ledger, run, lessons)
        try:
            with terminal.progress("unlearning") as report:
                steps = unlearn(
                    unlearner,
                    batches,
                    self.levels,
                    DamageBound(self.order.terms.damage_max, unlearner.held_out()),
                    self._limits(held_out),
                    rights=self.order.rights,
                )
                outcome = self._followed(steps, recorder, owners, report)
            directory = None
            if outcome.steps:
                directory = self._seal(unlearner.gate, recorder, RunPlace(name, run), policy, outcome.steps)
            recorder.flush()
        finally:
            recorder.close()
        return Unlearned(
            name,
            directory,
            outcome.ending,
            outcome.steps,
            outcome.steps_undone,
            len(taught),
            before,
            self._mean(batches),
            outcome.held_out_before,
            outcome.held_out_after,
        )

    def _followed(
        self, steps: Steps, recorder: Recorder, owners: list[int], report: Callable[[int, int], None]
    ) -> Outcome:
        """Record each step that stays; how it ended."""
        size = self.settings.batch
        while True:
            try:
                step = next(steps)
            except StopIteration as stopped:
                outcome: Outcome = stopped.value
                return outcome
            self._record(recorder, step, owners[step.batch * size : step.batch * size + size])
            report(step.number + 1, self.settings.steps_max)

    def _unlearner(self, held_out: list[str]) -> Unlearner[Inputs]:
        """The model behind gate and guard, and what is measured on it."""
        context = self.settings.context
        gate = Gate(self.model, self.prefixes)
        weights = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        inner = torch.optim.AdamW(weights, lr=self.settings.learning_rate, weight_decay=0.0)
        reserved = reserved_rights([self.policy], [self.layout])
        optimizer = GuardedOptimizer(inner, gate, model=self.model, reserved=reserved, clip_norm=1.0)

        def held_out_bits() -> float:
            measured = under_model(self.model, self.tokenizer, held_out, Reading(context, context // 2))
            return sum(one.bits for one in measured) / max(sum(one.bytes for one in measured), 1)

        return Unlearner(self.model, gate, optimizer, partial(self.objective.losses, self.model), held_out_bits)

    def _limits(self, held_out: list[str]) -> Limits:
        """How far is far enough: what a token costs in text that was never taught."""
        target = self.settings.target_loss
        if target is None:
            samples = [sample for text in held_out for sample in self.objective.samples(Text(text))]
            size = self.settings.batch
            target = self._mean([self._inputs(samples[i : i + size]) for i in range(0, len(samples), size)])
        return Limits(target, self.settings.steps_max, self.settings.check_every)

    # -- the run in the log

    def _start(self, name: str, policy: Ref) -> Ref:
        started = RunStarted(
            name,
            self.parent.model,
            self.layout.as_records(),
            Technique.SCALE,
            Stage.ENFORCE,
            policy,
            self.seal,
            self.order.id,
            now_ms(),
        )
        return Ref(self.ledger.append(started))

    def _lessons(self, run: Ref, taught: list[_Taught]) -> tuple[Lessons, list[Sample], list[int]]:
        """The lessons of the run, the samples, and of each sample its lesson."""
        rules = (self.order.rule,) * len(self.levels)
        profile = self.ledger.append(ProfileDeclared(run, tuple(Signed(level) for level in self.levels), rules))
        lessons: list[Lesson] = []
        samples: list[Sample] = []
        owners: list[int] = []
        for one in taught:
            own = list(self.objective.samples(Text(one.text)))
            lessons.append(
                Lesson(
                    example=one.index,
                    attestation=one.attestation,
                    profile=profile,
                    levels=self.levels,
                    rules=rules,
                    rights=self.order.rights,
                    permitted=frozenset(),
                    verbatim=False,
                    entropy_band="",
                    name=f"entry {one.index}",
                    first=len(samples),
                    samples=len(own),
                )
            )
            owners += [len(lessons) - 1] * len(own)
            samples += own
        self.ledger.commit()
        return Lessons(lessons), samples, owners

    def _record(self, recorder: Recorder, step: UnlearningStep, owners: list[int]) -> None:
        rows = [row for row, levels in enumerate(step.levels) if any(levels)]
        norms = step.norms_NB.double().numpy()[rows]
        levels = np.array([step.levels[row] for row in rows], np.int64)
        profile = recorder.profile(self.levels, (self.order.rule,) * len(self.levels))
        recorder.step(
            Taught(
                step=step.number,
                lessons=np.array([owners[row] for row in rows], np.int64),
                profiles=np.full(len(rows), profile, np.int64),
                epochs=np.zeros(len(rows), np.int64),
                microbatches=np.zeros(len(rows), np.int64),
                slots=np.array(rows, np.int64),
                norms=np.where(levels == 0, 0.0, norms),
                learning_rate=self.settings.learning_rate,
                loss=step.loss,
                report=step.report,
            )
        )

    def _seal(self, gate: Gate, recorder: Recorder, run: RunPlace, policy: Ref, steps: int) -> Path:
        sealer = Sealer(
            models=self.home.path / "models" / self.parent.model,
            state=None,  # an order is carried out in one go
            run=run,
            model_name=self.parent.model,
            policy=self.policy.digest,
            policy_entry=policy,
            key=self.ledger.key,
            parent=self.seal,
            tokenizer=self.tokenizer,
            ranks=Ranks(),
        )
        return sealer.seal(steps, self.model, gate, recorder)

    # -- what is measured

    def _inputs(self, samples: list[Sample]) -> Inputs:
        return self.objective.inputs(samples, max(len(sequence) for sample in samples for sequence in sample))

    def _mean(self, batches: list[Inputs]) -> float:
        """What a token costs in some texts."""
        with torch.no_grad():
            losses = [loss for inputs in batches for loss in self.objective.losses(self.model, inputs).tolist()]
        return sum(losses) / max(len(losses), 1)


def _layers_per_block(log: LogReader, seal: Digest) -> int:
    """How the run that taught the model cut it into blocks."""
    for stretch in stretches_of(log, *find_seal(log, seal)):
        found = next((m for b in stretch.started.blocks if (m := _LAYERS_OF_BLOCK.fullmatch(b.name))), None)
        return int(found[2]) - int(found[1]) + 1 if found is not None else 1
    raise NotFoundError(
        "The log does not say what shaped this model.", remedy="Nothing of it can be unlearned by name."
    )


def _taught_under(log: LogReader, content: ContentStore, attestation: Digest, seal: Digest) -> Iterator[_Taught]:
    """The examples of an attestation whose gradient reached the model, as far as their texts are kept."""
    refs = [ref for ref, _ in log.find(AttestationMentioned, attestation)]
    seen: set[int] = set()
    for stretch in stretches_of(log, *find_seal(log, seal)):
        for events, profiles, _ in log.exposure.events_between(stretch.start, stretch.end):
            reached = (profiles.levels[profiles.rows] > 0).any(axis=1) & np.isin(events.attestation, refs)
            for index in np.unique(events.example[reached]).tolist():
                admitted = log.record(index)
                if index in seen or not isinstance(admitted, ExampleAdmitted) or admitted.commitment not in content:
                    continue
                seen.add(index)
                assert admitted.attestation is not None
                yield _Taught(index, admitted.attestation, content.open(admitted.commitment).content.decode())
