"""What a run teaches: one lesson for each admitted example, with its entries in the log, its levels and its samples.

The table is kept beside the run, so that a run that was interrupted goes on without asking the gate again. It is
believed only as far as the log says the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from licet.ledger.errors import FormatError, LicetError, VerificationError
from licet.ledger.files import read_whole, write_whole
from licet.ledger.records import AttestationMentioned, ExampleAdmitted, ProfileDeclared, RunStarted, Stage
from licet.ledger.view import View

TABLE_BYTES_MAX = 4 << 30
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Lesson:
    """An admitted example: its entries in the log, the profile that the gate gave it, and where its samples lie."""

    example: int
    attestation: int
    profile: int
    levels: tuple[int, ...]
    rules: tuple[str, ...]
    rights: frozenset[str]
    permitted: frozenset[str]
    """The bands that its licence itself leaves open."""
    verbatim: bool
    """Whether its licence allows that it is said back word for word."""
    entropy_band: str
    name: str
    """Where the row stood, for messages."""
    first: int
    samples: int
    twin: int | None = None
    """The first lesson with the same content, if that is another one."""


class Lessons:
    """All lessons of a run, and which of them each sample belongs to."""

    def __init__(self, lessons: Sequence[Lesson]) -> None:
        self.all = tuple(lessons)
        counts = [lesson.samples for lesson in self.all]
        self.of_sample: Ints = np.repeat(np.arange(len(self.all)), counts)
        firsts = np.cumsum([0, *counts])[:-1].tolist()
        if [lesson.first for lesson in self.all] != firsts:
            raise FormatError("The lessons of this run do not follow one another.", remedy="Start a new run.")
        twins = [i if lesson.twin is None else lesson.twin for i, lesson in enumerate(self.all)]
        if any(not 0 <= twin <= i or counts[twin] != counts[i] for i, twin in enumerate(twins)):
            raise FormatError("The lessons of this run name twins that are none.", remedy="Start a new run.")
        self.same: Ints = np.arange(len(self.of_sample)) + np.repeat(
            np.array([firsts[twin] - firsts[i] for i, twin in enumerate(twins)], np.int64), counts
        )
        """Of each sample, the first one with the same content."""

    def __len__(self) -> int:
        return len(self.all)

    def __getitem__(self, index: int) -> Lesson:
        return self.all[index]

    @property
    def samples(self) -> int:
        return len(self.of_sample)

    def check(self, log: View, run: int) -> None:
        """Raise unless each lesson is what the log says of it: the levels and rules are then the gate's own.

        In a run that only observes, every lesson has the profile that nobody decided.
        """
        started = _record(log, run)
        observes = isinstance(started, RunStarted) and started.stage is Stage.OBSERVE
        attestations: dict[int, bool] = {}
        profiles: dict[int, tuple[tuple[int, ...], tuple[str, ...]]] = {}
        for lesson in self.all:
            admitted = _record(log, lesson.example)
            if lesson.attestation not in attestations:
                attestations[lesson.attestation] = isinstance(_record(log, lesson.attestation), AttestationMentioned)
            if lesson.profile not in profiles:
                declared = _record(log, lesson.profile)
                if isinstance(declared, ProfileDeclared) and declared.run == run:
                    profiles[lesson.profile] = (tuple(declared.levels), declared.rules)
            if (
                not isinstance(admitted, ExampleAdmitted)
                or admitted.attestation != lesson.attestation
                or not attestations[lesson.attestation]
                or admitted.entropy_band != lesson.entropy_band
                or profiles.get(lesson.profile) != (lesson.levels, lesson.rules)
                or (set(lesson.rules) != {Stage.OBSERVE} if observes else admitted.profile != lesson.profile)
            ):
                raise VerificationError(
                    f"What this run keeps of {lesson.name} is not what the log says of it.",
                    index=lesson.example,
                    remedy="Start a new run: its examples are put to the gate again.",
                )

    def save(self, path: Path) -> None:
        columns = {name: [getattr(lesson, name) for lesson in self.all] for name in _SCHEMA.names}
        for name in _SETS:
            columns[name] = [sorted(values) for values in columns[name]]
        table = pa.table(columns, schema=_SCHEMA)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, _SCHEMA) as writer:
            writer.write_table(table)
        write_whole(path, sink.getvalue().to_pybytes())

    @classmethod
    def load(cls, path: Path) -> Lessons:
        raw = read_whole(path, bytes_max=TABLE_BYTES_MAX)
        try:
            with pa.ipc.open_file(pa.BufferReader(raw)) as reader:
                table = reader.read_all()
            if table.schema != _SCHEMA:
                raise FormatError(f"{path} has other columns than a table of lessons.")
            return cls([_lesson(row) for row in table.to_pylist()])
        except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
            raise FormatError(
                f"{path} is damaged: {str(error)[:200]}.", remedy="Start a new run: `licet train --fresh`."
            ) from error


_SETS = ("rights", "permitted")
_SCHEMA = pa.schema(
    [
        ("example", pa.int64()),
        ("attestation", pa.int64()),
        ("profile", pa.int64()),
        ("levels", pa.list_(pa.int16())),
        ("rules", pa.list_(pa.dictionary(pa.int32(), pa.string()))),
        ("rights", pa.list_(pa.string())),
        ("permitted", pa.list_(pa.string())),
        ("verbatim", pa.bool_()),
        ("entropy_band", pa.string()),
        ("name", pa.string()),
        ("first", pa.int64()),
        ("samples", pa.int64()),
        ("twin", pa.int64()),
    ]
)


def _lesson(row: dict[str, Any]) -> Lesson:
    sets = {name: frozenset(row[name]) for name in _SETS}
    return Lesson(**{**row, **sets, "levels": tuple(row["levels"]), "rules": tuple(row["rules"])})


def _record(log: View, index: int) -> object:
    if not 0 <= index < log.size:
        return None
    try:
        return log.record(index)
    except LicetError:
        return None
