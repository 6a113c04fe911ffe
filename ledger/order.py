"""What may be appended where: what gives an entry its meaning must stand before it, and be what it claims to be.

`replay.py` asks the same of a log that somebody else wrote. What is refused here would not verify there.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from licet.ledger import codec, norms
from licet.ledger.errors import FormatError, OrderError
from licet.ledger.events import Events, Ints, ProfileTable
from licet.ledger.keys import verify_rotation
from licet.ledger.note import VerifierKey
from licet.ledger.reader import LogReader
from licet.ledger.records import (
    AttestationMentioned,
    ExampleAdmitted,
    GradientApplied,
    KeyRotated,
    LogOpened,
    Opaque,
    ProfileDeclared,
    Record,
    RunStarted,
)

_NOT_ATTESTED = -1


class State(NamedTuple):
    """What a refused submission is taken back to."""

    run: tuple[int, int] | None
    last_step: int
    admitted: int


class Order:
    """The rules of one log, and what they have to remember of its entries."""

    def __init__(self, log: LogReader) -> None:
        self._log = log
        self._run: tuple[int, int] | None = None
        self.last_step = 0
        self._admissions = _Admissions(log)

    def admit(self, index: int, record: Record | Opaque) -> None:
        """Raise unless this record may be entry `index`; remember what later ones need of it."""
        match record:
            case RunStarted():
                names = [block.name for block in record.blocks]
                if not names or len(set(names)) != len(names):
                    raise FormatError("A run needs blocks, each with a name of its own.")
                _ = self._log.exposure  # loaded now, while nothing of the new run is committed
                self._run, self.last_step = (index, len(names)), 0
            case ProfileDeclared():
                self._check_profile(record)
                self._log.exposure.declare_profile(index, record)
            case AttestationMentioned():
                self._log.exposure.mention_attestation(index, record)
            case ExampleAdmitted():
                if record.attestation is not None:
                    self._log.exposure.source_of(record.attestation)
                self._admissions.add(index, _NOT_ATTESTED if record.attestation is None else record.attestation)
            case KeyRotated():
                self._check_rotation(record)
            case LogOpened() if index:
                raise OrderError("A log opens with its first entry only.")

    def check_events(self, batch: Events, index: int) -> ProfileTable:
        """Raise unless these events may be the entries from `index` on; the profiles that they refer to."""
        run, blocks = self._current_run()
        if batch.codes.shape[1] != blocks:
            raise OrderError(f"Events of this run have norms for {blocks} blocks, not {batch.codes.shape[1]}.")
        if batch.refs.max() >= index:
            raise OrderError("An event refers to an entry that comes after it.")
        if batch.step[0] < self.last_step or bool((np.diff(batch.step) < 0).any()):
            raise OrderError(
                f"Steps never go back within a run; the last was {self.last_step}.",
                remedy="After resuming from an older checkpoint, start a new run with that seal as its parent.",
            )
        self._log.exposure.check_attestations(batch.attestation)
        self._admissions.check(batch)
        profiles = ProfileTable.of(batch.profile, self._log.exposure.levels)
        if batch.profile.min() <= run or profiles.levels.shape[1] != blocks:
            raise OrderError("An event refers to a profile of an earlier run.", remedy="Declare it for this run.")
        return profiles

    def as_events(self, record: GradientApplied) -> Events:
        """A single event as a batch of one."""
        levels = self._log.exposure.levels(record.profile)
        if len(record.norms) != np.count_nonzero(levels):
            raise FormatError("An event has one norm for each block in which its profile is not zero.")
        codec.encode(record)  # refuses numbers that do not fit
        codes = np.zeros((1, len(levels)), np.uint16)
        codes[0, levels != 0] = record.norms
        columns = [[record.flags, record.step, record.epoch, record.microbatch, record.slot]]
        refs = [[record.example, record.attestation, record.profile]]
        return Events(np.array(columns, np.int64), np.array(refs, np.int64), codes)

    def state(self) -> State:
        return State(self._run, self.last_step, len(self._admissions))

    def go_back(self, first: int, state: State) -> None:
        """Forget the entries from `first` on, which are not appended after all."""
        self._run, self.last_step = state.run, state.last_step
        self._admissions.cut(state.admitted)
        self._log.exposure.forget(first)

    def _current_run(self) -> tuple[int, int]:
        current = self._log.exposure.current
        if self._run is None and current is not None:
            self._run, self.last_step = (current.run, len(current.blocks)), current.last_step
        if self._run is None:
            raise OrderError("There is no run yet.", remedy="Append a RunStarted before its profiles and events.")
        return self._run

    def _check_profile(self, record: ProfileDeclared) -> None:
        run, blocks = self._current_run()
        if record.run != run or not len(record.levels) == len(record.rules) == blocks:
            raise OrderError(
                f"A profile of run {run} has {blocks} levels and as many rules.",
                remedy="Declare profiles after the run that they are for.",
            )
        if any(abs(level) > norms.LEVEL_MAX for level in record.levels):
            raise FormatError(f"A level lies between -{norms.LEVEL_MAX} and {norms.LEVEL_MAX}.")

    def _check_rotation(self, record: KeyRotated) -> None:
        old, new = VerifierKey.parse(record.old_key), VerifierKey.parse(record.new_key)
        if old != self._log.verifier_keys()[-1]:
            raise OrderError(
                "A rotation succeeds the key that signs the log now.", remedy="Rotate with `Ledger.rotate_key`."
            )
        verify_rotation(self._log.origin, old, new, by_old=record.old_signature, by_new=record.new_signature)


class _Admissions:
    """Under which attestation each example was put to the gate: 16 bytes for each admitted since the log was opened.

    Those from before are read from the log when an event first refers to them.
    """

    def __init__(self, log: LogReader) -> None:
        self._log = log
        self._table = np.empty((2, 1024), np.int64)
        self._count = 0
        self._earlier: dict[int, int] = {}

    def __len__(self) -> int:
        return self._count

    def add(self, index: int, attestation: int) -> None:
        if self._count == self._table.shape[1]:
            self._table = np.concatenate([self._table, np.empty_like(self._table)], axis=1)
        self._table[:, self._count] = index, attestation
        self._count += 1

    def cut(self, count: int) -> None:
        self._count = count

    def check(self, batch: Events) -> None:
        """Raise unless each event names an admitted example and the attestation of its admission."""
        attested = self._attestations_of(batch.example)
        wrong = np.flatnonzero(attested != batch.attestation)
        if len(wrong):
            example, attestation = int(batch.example[wrong[0]]), int(batch.attestation[wrong[0]])
            raise OrderError(
                f"Entry {example} is not the admission of an example under the attestation of entry {attestation}.",
                remedy="Refer to the entries that `append` returned for the example and its attestation.",
            )

    def _attestations_of(self, examples: Ints) -> Ints:
        known = self._table[0, : self._count]
        found: Ints = np.full(len(examples), _NOT_ATTESTED, np.int64)
        if self._count:
            if known[-1] - known[0] == self._count - 1:  # admitted in a row, as they mostly are: no need to search
                places = np.clip(examples - known[0], 0, self._count - 1)
            else:
                places = np.minimum(np.searchsorted(known, examples), self._count - 1)
            found = np.where(known[places] == examples, self._table[1, places], _NOT_ATTESTED)
        earlier = np.flatnonzero(examples < known[0]) if self._count else np.arange(len(examples))
        if len(earlier):
            found[earlier] = [self._earlier_attestation_of(ref) for ref in examples[earlier].tolist()]
        return found

    def _earlier_attestation_of(self, example: int) -> int:
        known = self._earlier.get(example)
        if known is None:
            admitted = self._log.record(example) if example < self._log.size else None
            attested = admitted.attestation if isinstance(admitted, ExampleAdmitted) else None
            known = self._earlier[example] = _NOT_ATTESTED if attested is None else attested
        return known
