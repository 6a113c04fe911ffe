"""Reading a log from its first entry as an auditor does: each entry must make sense after those before it.

Nothing here trusts an index or a stored hash; what is checked is the entries themselves.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from licet.ledger import events as event_columns
from licet.ledger.chunks import Chunk
from licet.ledger.codec import decode
from licet.ledger.errors import FormatError, SignatureError, VerificationError
from licet.ledger.events import Events, Ints, ProfileTable
from licet.ledger.note import VerifierKey
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
from licet.ledger.succession import Succession

_NO_REF = -1

Decoded = tuple[Events, ProfileTable, Ints]
"""Some events, their profiles, and the entries that they are."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive entries, read: the events among them, and the other records with their indices."""

    end: int
    events: Decoded | None
    records: list[tuple[int, Record | Opaque]]


class Replay:
    """The state that entries build up: keys, the current run, what can be referred to."""

    def __init__(self) -> None:
        self.succession: Succession | None = None
        """The keys as the log tells them; whether one of them is to be trusted is the verifier's to say."""
        self.kinds: Counter[str] = Counter()
        self.run: tuple[int, RunStarted] | None = None
        self.runs: list[int] = []
        self.attestations: dict[int, AttestationMentioned] = {}
        self._levels: dict[int, NDArray[np.int16]] = {}
        self._last_step = 0
        self._admitted = _Growing()
        self._attested = _Growing()

    def read(self, chunk: Chunk) -> Piece:
        """Take in consecutive entries that belong to one run."""
        which = event_columns.find(chunk)
        others = np.ones(len(chunk.offsets) - 1, bool)
        others[which] = False
        found = None
        # Events may refer to records of the same chunk that stand before them, never after: `_check_events` sees to
        # that, so the records may be read first.
        indices = (chunk.first + np.flatnonzero(others)).tolist()
        records = [(index, self._read_record(index, chunk.entry(index))) for index in indices]
        self.kinds.update(_kind_name(record) for _, record in records)
        if len(which):
            try:
                events, profiles = event_columns.decode(chunk, which, self._levels_of)
            except FormatError as error:
                raise self._first_bad_event(chunk, which, error) from error
            self._check_events(events, profiles, chunk.first + which)
            self.kinds[GradientApplied.__name__] += len(which)
            found = events, profiles, chunk.first + which
        return Piece(chunk.end, found, records)

    def _read_record(self, index: int, entry: bytes) -> Record | Opaque:
        try:
            record = decode(entry)
            self._take_in(index, record)
        except (FormatError, SignatureError) as error:
            raise VerificationError(f"Entry {index} is not valid: {error}", index=index) from error
        return record

    def _take_in(self, index: int, record: Record | Opaque) -> None:
        match record:
            case ExampleAdmitted():
                if record.attestation is not None and record.attestation not in self.attestations:
                    raise FormatError("It refers to an attestation that was not mentioned before it.")
                self._admitted.append(index)
                self._attested.append(_NO_REF if record.attestation is None else record.attestation)
            case LogOpened():
                if index:
                    raise FormatError("A log opens with its first entry only.")
                self.succession = Succession(record.origin, VerifierKey.parse(record.verifier_key))
            case KeyRotated() if self.succession is not None:
                self.succession.rotate(index, record)
            case RunStarted():
                self.run, self._last_step = (index, record), 0
                self.runs.append(index)
            case ProfileDeclared():
                if self.run is None or record.run != self.run[0]:
                    raise FormatError("It declares a profile for a run that is not the current one.")
                if len(record.levels) != len(self.run[1].blocks):
                    raise FormatError("It declares a profile for another number of blocks than the run has.")
                self._levels[index] = np.array(record.levels, np.int16)
            case AttestationMentioned():
                self.attestations[index] = record
            case _:
                if index == 0:
                    raise FormatError("The first entry of a log says that it was opened.")

    def _levels_of(self, profile: int) -> NDArray[np.int16]:
        levels = self._levels.get(profile)
        if levels is None or self.run is None or profile <= self.run[0]:
            raise FormatError(f"Entry {profile} does not declare a profile of this run.")
        return levels

    def _check_events(self, events: Events, profiles: ProfileTable, indices: Ints) -> None:
        place = np.searchsorted(self._admitted.values, events.example)
        place = np.minimum(place, max(len(self._admitted.values) - 1, 0))
        if len(self._admitted.values):
            admitted = self._admitted.values[place] == events.example
            attested = self._attested.values[place] == events.attestation
        else:
            admitted = attested = np.zeros(len(events), bool)
        steps = np.concatenate([[self._last_step], events.step])
        for good, what in (
            ((events.refs < indices[:, None]).all(axis=1), "refers to an entry that comes after it"),
            (admitted, "applies an example that was never put to the gate"),
            (attested, "names another attestation than its example's admission"),
            (np.diff(steps) >= 0, "goes back in steps"),
        ):
            if not good.all():
                index = int(indices[np.flatnonzero(~good)[0]])
                raise VerificationError(f"Entry {index} {what}.", index=index)
        self._last_step = int(events.step[-1])

    def _first_bad_event(self, chunk: Chunk, which: Ints, error: FormatError) -> VerificationError:
        for i in which.tolist():
            try:
                event_columns.decode(chunk, np.array([i]), self._levels_of)
            except FormatError as narrower:
                index = chunk.first + i
                return VerificationError(f"Entry {index} is not valid: {narrower}", index=index)
        return VerificationError(f"Entries from {chunk.first} on are not valid: {error}", index=chunk.first)


def _kind_name(record: Record | Opaque) -> str:
    if isinstance(record, Opaque):
        return f"unknown kind {record.kind}.{record.version}"
    return type(record).__name__


class _Growing:
    """An array that takes one number after another."""

    def __init__(self) -> None:
        self._array = np.empty(1024, np.int64)
        self._count = 0

    @property
    def values(self) -> Ints:
        return self._array[: self._count]

    def append(self, value: int) -> None:
        if self._count == len(self._array):
            self._array = np.concatenate([self._array, np.empty_like(self._array)])
        self._array[self._count] = value
        self._count += 1
