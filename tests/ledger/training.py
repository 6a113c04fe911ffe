"""Made-up training runs, and the plain Python that the exposure index is held against."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from licet.ledger import codec, norms
from licet.ledger.events import Events
from licet.ledger.log import Ledger
from licet.ledger.records import (
    AttestationMentioned,
    Block,
    BlockDigest,
    CheckpointSealed,
    Determination,
    ExampleAdmitted,
    GradientApplied,
    ProfileDeclared,
    RunStarted,
    Stage,
    StepTaken,
    Technique,
)


def digest(kind: str, number: int) -> bytes:
    return hashlib.sha256(f"{kind} {number}".encode()).digest()


@dataclass
class Trainer:
    """Writes runs to a log as a trainer does. Everything follows from the seed."""

    ledger: Ledger
    chance: random.Random
    sources: int = 5
    attestations: dict[int, int] = field(default_factory=dict)
    """The reference of each attestation, by its number; number n is of source n % sources."""
    examples: dict[int, tuple[int, int]] = field(default_factory=dict)
    """The references of each example and of its attestation, by the example's number."""
    profiles: list[int] = field(default_factory=list)
    run: int = 0
    blocks: int = 0
    step: int = 0

    def start(self, blocks: int, *, parent: bytes | None = None) -> int:
        names = tuple(Block(f"layer.{b}", ("surface",), 10) for b in range(blocks))
        started = RunStarted(
            f"run {self.ledger.size}", "model", names, Technique.SCALE, Stage.ENFORCE, None, parent, None, 0
        )
        self.run, self.blocks, self.step, self.profiles = self.ledger.append(started), blocks, 0, []
        return self.run

    def declare(self, levels: Iterable[int]) -> int:
        levels = tuple(levels)
        self.profiles.append(self.ledger.append(ProfileDeclared(self.run, levels, ("rule",) * len(levels))))
        return self.profiles[-1]

    def declare_some(self) -> None:
        """Positive, negative, partly zero, and all zero."""
        self.declare([15] * self.blocks)
        self.declare([0] * self.blocks)
        for _ in range(3):
            self.declare(self.chance.choice([0, 0, 1, 15, 255, -7, -255]) for _ in range(self.blocks))

    def admit(self, count: int) -> None:
        """`count` more examples, and attestations as needed."""
        for number in range(len(self.examples), len(self.examples) + count):
            attested = number % (3 * self.sources)
            if attested not in self.attestations:
                mention = AttestationMentioned(digest("attestation", attested), f"source {attested % self.sources}")
                self.attestations[attested] = self.ledger.append(mention)
            attestation = self.attestations[attested]
            admitted = ExampleAdmitted(
                digest("example", number),
                bytes(32),
                attestation,
                None,
                None,
                Determination.ADMITTED,
                (),
                None,
                None,
                0,
                (),
                None,
            )
            self.examples[number] = self.ledger.append(admitted), attestation

    def take_step(self, events: int, *, steps: int = 1) -> None:
        """One batch of events, which may span several optimizer steps."""
        chosen = [self.examples[self.chance.randrange(len(self.examples))] for _ in range(events)]
        spread = sorted(self.step + self.chance.randrange(steps) for _ in range(events))
        table = np.array([[self._norm() for _ in range(self.blocks)] for _ in range(events)], np.float64).reshape(
            events, self.blocks
        )
        batch = Events.of(
            example=[example for example, _ in chosen],
            attestation=[attestation for _, attestation in chosen],
            profile=[self.chance.choice(self.profiles) for _ in range(events)],
            step=spread,
            slot=np.arange(events),
            norms_raw=table,
        )
        self.ledger.append_events(batch)
        self.step += steps
        self.ledger.append(StepTaken(self.run, self.step, 0.1, None, events, (), 0))

    def _norm(self) -> float:
        return self.chance.choice([0.0, 1e-9, 0.5, 3.0, 1e9, float("inf"), self.chance.lognormvariate(0, 2)])

    def seal(self, number: int) -> bytes:
        name = digest("seal", number)
        blocks = tuple(BlockDigest(f"layer.{b}", bytes(32)) for b in range(self.blocks))
        self.ledger.append(
            CheckpointSealed(name, "model", "", self.run, self.step, blocks, None, None, 0, bytes(32), (), 0)
        )
        return name


@dataclass(frozen=True)
class Event:
    """One event as plain Python sees it: what it added to each block, by name."""

    index: int
    run: int
    record: GradientApplied
    source: str
    attestation: bytes
    example: bytes
    added: dict[str, int]
    """Only the blocks whose level is not zero."""


class Brute:
    """Every question answered by going through all entries."""

    def __init__(self, entries: Iterable[bytes]) -> None:
        self.events: list[Event] = []
        self.runs: dict[int, RunStarted] = {}
        self.seals: dict[bytes, int] = {}
        records: list[object] = []
        for index, entry in enumerate(entries):
            record = codec.decode(entry)
            records.append(record)
            if isinstance(record, RunStarted):
                self.runs[index] = record
            elif isinstance(record, CheckpointSealed):
                self.seals.setdefault(record.seal, record.run)
            elif isinstance(record, GradientApplied):
                self._add(index, record, records)

    def _add(self, index: int, record: GradientApplied, records: list) -> None:
        run = max(self.runs)
        levels = records[record.profile].levels
        names = [block.name for block in self.runs[run].blocks]
        reached = [(name, level) for name, level in zip(names, levels, strict=True) if level]
        added = {
            name: abs(level) * norms.units(code) for (name, level), code in zip(reached, record.norms, strict=True)
        }
        mention, example = records[record.attestation], records[record.example]
        self.events.append(Event(index, run, record, mention.source, mention.attestation, example.example, added))

    def lineage(self, run: int | None = None) -> list[int]:
        at = max(self.runs) if run is None else run
        chain = []
        while at is not None and at not in chain:
            chain.append(at)
            at = self.seals.get(self.runs[at].parent_seal)
        return chain

    def chosen(self, run: int | None, steps: tuple[int, int] | None) -> list[Event]:
        runs = self.lineage(run)
        if steps is None:
            return [event for event in self.events if event.run in runs]
        return [e for e in self.events if e.run == runs[0] and steps[0] <= e.record.step <= steps[1]]

    def blocks(self, run: int | None, steps: tuple[int, int] | None) -> list[str]:
        runs = self.lineage(run) if steps is None else self.lineage(run)[:1]
        return list(dict.fromkeys(block.name for r in runs for block in self.runs[r].blocks))

    def forward(self, keep, *, run=None, steps=None) -> list[tuple]:
        """(block, total, events, first step, last step) of the events that `keep` keeps."""
        events = [event for event in self.chosen(run, steps) if keep(event)]
        rows = []
        for block in self.blocks(run, steps):
            mine = [event for event in events if block in event.added]
            steps_of = [event.record.step for event in mine]
            total = sum(event.added[block] for event in mine)
            rows.append((block, total, len(mine), min(steps_of, default=None), max(steps_of, default=None)))
        return rows

    def reverse(self, blocks: Iterable[str], *, run=None, steps=None) -> list[tuple[str, int, float]]:
        """(source, total, share), the largest first."""
        sums: dict[str, int] = {}
        for event in self.chosen(run, steps):
            sums[event.source] = sums.get(event.source, 0) + sum(event.added.get(b, 0) for b in set(blocks))
        whole = sum(sums.values())
        ranked = sorted(sums.items(), key=lambda row: (-row[1], row[0]))
        return [(source, total, total / whole) for source, total in ranked if total]

    def events_of(self, example: bytes, run: int | None = None) -> list[int]:
        return [event.index for event in self.chosen(run, None) if event.example == example]
