"""Where a model's recorded past begins, and which of its blocks have a past that no log tells of.

A run that names no parent began from fresh parameters: all that shaped its blocks is recorded. Any other grew from a
seal, that from a run, and so on back. Where this chain ends in a seal without a run (an *outside* seal: the model came
from elsewhere), or in a seal or a run that this log does not hold, what shaped the blocks before is unknown. Unknown is
not clean: whoever adds up exposure over such blocks adds up the recorded part, and has to say so.

How a model is cut into blocks may change from run to run, so a name alone does not show that a block is new. Every
block that grew from an unknown past counts as unknown, with one exception: low-rank adapters, in blocks called
`adapter.…`, are made by the run that first names them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from licet.ledger.errors import NotFoundError
from licet.ledger.records import CheckpointSealed, Digest, RunStarted
from licet.ledger.view import View

ADAPTER = "adapter."
"""What the name of a block begins with that holds nothing but parameters made by the run that first names it."""


class Beginning(StrEnum):
    """What the chain of parents ends in."""

    FRESH = "fresh"
    OUTSIDE = "outside"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Ancestry:
    """What a run or a seal grew from, as far as this log tells."""

    runs: tuple[int, ...]
    """The entries that started the runs behind it, the newest first."""
    beginning: Beginning
    base: Digest | None
    """The seal before which nothing is known; None where everything is, or where it is not known either."""
    unknown_blocks: frozenset[str]
    """The blocks whose past is unknown, under every name that they have had."""

    @property
    def is_known(self) -> bool:
        return self.beginning is Beginning.FRESH

    def unknown_of(self, blocks: Iterable[str]) -> tuple[str, ...]:
        """Those of some blocks whose past is unknown, in their order, each once."""
        return tuple(dict.fromkeys(block for block in blocks if block in self.unknown_blocks))

    def why(self) -> str:
        """For a person: why the past is unknown. Empty where it is known."""
        if self.beginning is Beginning.FRESH:
            return ""
        named = f"the seal {self.base.hex()[:16]}" if self.base is not None else "a seal"
        if self.beginning is Beginning.OUTSIDE:
            return f"the model came from elsewhere, as {named}"
        return f"it grew from {named}, of which this log does not tell"


def unknown_blocks(log: View, of: Digest | int) -> frozenset[str]:
    """The blocks of a seal (by its id) or of a run (by its entry) whose past no log tells of."""
    return (ancestry_of_run(log, of) if isinstance(of, int) else ancestry_of_seal(log, of)).unknown_blocks


def ancestry_of_run(log: View, run: int) -> Ancestry:
    """What a run grew from; `NotFoundError` if the entry does not start one."""
    started = log.record(run)
    if not isinstance(started, RunStarted):
        raise NotFoundError(f"Entry {run} does not start a run.", remedy="`licet ledger events --kind RunStarted`.")
    return _Walk(log).from_run(run, started)


def ancestry_of_seal(log: View, seal: Digest) -> Ancestry:
    """What a sealed model grew from; `NotFoundError` if the log does not hold the seal."""
    if not log.find(CheckpointSealed, seal):
        raise NotFoundError(
            f"{log.origin} holds no seal {seal.hex()}.",
            remedy="`licet ledger events --kind CheckpointSealed` lists the seals of a log.",
        )
    return _Walk(log).from_seal(seal, log.size)


class _Walk:
    """One way back through the parents. Each step leads to an earlier entry, so it ends."""

    def __init__(self, log: View) -> None:
        self._log = log
        self._runs: list[int] = []
        self._made: dict[str, bool] = {}
        """Each name of a block on the way, and whether the oldest place that has it is a run, not a seal."""

    def from_run(self, run: int, started: RunStarted) -> Ancestry:
        while True:
            self._runs.append(run)
            self._made.update((block.name, True) for block in started.blocks)
            if started.parent_seal is None:
                return Ancestry(tuple(self._runs), Beginning.FRESH, None, frozenset())
            parent = self._run_behind(started.parent_seal, run)
            if not isinstance(parent, int):
                return self._ended(parent, started.parent_seal)
            run, started = parent, self._start_of(parent)

    def from_seal(self, seal: Digest, before: int) -> Ancestry:
        run = self._run_behind(seal, before)
        return self.from_run(run, self._start_of(run)) if isinstance(run, int) else self._ended(run, seal)

    def _run_behind(self, seal: Digest, before: int) -> int | Beginning:
        """The run that a seal is of, or how the way ends there. A seal counts if it stands before its child."""
        found = [(index, record) for index, record in self._log.find(CheckpointSealed, seal) if index < before]
        if not found:
            return Beginning.MISSING
        self._made.update((block.name, False) for _, record in found for block in record.blocks)
        runs = {record.run for _, record in found}
        (run,) = runs if len(runs) == 1 else (None,)  # a log that says two things of a seal says nothing
        if run is None:
            return Beginning.OUTSIDE
        known = run < found[0][0] and isinstance(self._log.record(run), RunStarted)
        return int(run) if known else Beginning.MISSING

    def _start_of(self, run: int) -> RunStarted:
        started = self._log.record(run)
        assert isinstance(started, RunStarted)
        return started

    def _ended(self, beginning: Beginning, seal: Digest) -> Ancestry:
        """Nobody knows whether a base that is not in the log had adapters; of one that is, its blocks tell."""
        told = beginning is Beginning.OUTSIDE
        unknown = (name for name, made in self._made.items() if not (told and made and name.startswith(ADAPTER)))
        return Ancestry(tuple(self._runs), beginning, seal, frozenset(unknown))
