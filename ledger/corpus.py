"""What a model was taught, as a set: of a seal, of a log at some size, or of a file. And how two such sets differ."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from licet.ledger.errors import ConfigError, FormatError, NotFoundError
from licet.ledger.records import (
    AttestationMentioned,
    CheckpointSealed,
    Determination,
    ExampleAdmitted,
    RunStarted,
)
from licet.ledger.view import View

LINE_BYTES_MAX = 1 << 20
FILE_ROWS_MAX = 100_000_000

Taught = tuple[bytes, str]
"""The attestation under which an example was taught, and its source."""


@dataclass(frozen=True, slots=True)
class Corpus:
    """The examples that were admitted, with the attestation and the source of each."""

    label: str
    examples: dict[bytes, Taught]

    @property
    def attestations(self) -> dict[bytes, str]:
        return dict(self.examples.values())

    @property
    def sources(self) -> set[str]:
        return {source for _, source in self.examples.values()}


@dataclass(frozen=True, slots=True)
class Change:
    """What one side has and the other has not, in order."""

    added: tuple[str, ...]
    dropped: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """From one corpus to another. `moved` are examples that are in both, under another attestation."""

    before: str
    after: str
    sources: Change
    attestations: Change
    examples: Change
    moved: tuple[str, ...]


def diff(before: Corpus, after: Corpus) -> Difference:
    """What changed in the data."""
    return Difference(
        before.label,
        after.label,
        _change(before.sources, after.sources),
        _change({a.hex() for a in before.attestations}, {a.hex() for a in after.attestations}),
        _change({e.hex() for e in before.examples}, {e.hex() for e in after.examples}),
        tuple(
            sorted(
                example.hex()
                for example, taught in before.examples.items()
                if example in after.examples and after.examples[example] != taught
            )
        ),
    )


def read_corpus(text: str, view: View | None) -> Corpus:
    """The corpus that a user names: `seal:LABEL-OR-HEX`, `checkpoint:SIZE`, or a JSON-lines file."""
    kind, _, name = text.partition(":")
    if kind in ("seal", "checkpoint"):
        if view is None:
            raise ConfigError(f"{text} is of a log.", remedy="Say which with --log.")
        if kind == "seal":
            return of_seal(view, name)
        if not name.isdigit():
            raise ConfigError(f"{text} needs a size.", remedy="As in checkpoint:1024.")
        return of_size(view, int(name))
    path = Path(text)
    if not path.exists():
        raise NotFoundError(
            f"{text} is neither a file nor of the form seal:NAME or checkpoint:SIZE.",
            remedy="`licet ledger events --kind CheckpointSealed` lists the seals of a log.",
        )
    return of_file(path)


def of_size(view: View, size: int) -> Corpus:
    """Everything admitted among the first `size` entries of a log."""
    if not 0 <= size <= view.size:
        raise NotFoundError(f"The log {view.origin} has {view.size} entries, not {size}.")
    return Corpus(f"{view.origin} at {size}", _admitted(view, lambda index: index < size))


def of_seal(view: View, name: str) -> Corpus:
    """Everything admitted to the runs that a seal grew from."""
    seals = view.all_of(CheckpointSealed)
    found = [(i, s) for i, s in seals if name in (s.label, s.seal.hex())]
    if not found:
        known = ", ".join(s.label for _, s in seals[-8:]) or "none"
        raise NotFoundError(f"{view.origin} holds no seal {name}.", remedy=f"The newest are: {known}.")
    starts = [index for index, _ in view.all_of(RunStarted)]
    spans: list[tuple[int, int]] = []
    place: tuple[int, CheckpointSealed] | None = found[-1]
    while place is not None and place[1].run is not None and len(spans) <= len(starts):
        index, seal = place
        run = seal.run
        assert run is not None
        spans.append((run, index))
        started = view.record(run)
        parent = started.parent_seal if isinstance(started, RunStarted) else None
        earlier = view.find(CheckpointSealed, parent) if parent is not None else []
        place = earlier[0] if earlier and earlier[0][0] < index else None
    return Corpus(f"seal {found[-1][1].label}", _admitted(view, lambda index: any(a <= index < b for a, b in spans)))


def of_file(path: Path) -> Corpus:
    """One JSON object a line, with `example`, `attestation` (both hexadecimal) and `source`."""
    examples: dict[bytes, Taught] = {}
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(LINE_BYTES_MAX + 1), b""), start=1):
            try:
                if len(line) > LINE_BYTES_MAX or number > FILE_ROWS_MAX:
                    raise ValueError("the file or the line is too long")
                row = json.loads(line)
                example, attestation = bytes.fromhex(row["example"]), bytes.fromhex(row["attestation"])
                source = row["source"]
                if not isinstance(source, str):
                    raise ValueError("a source is a text")
            except (ValueError, TypeError, KeyError, RecursionError) as error:
                raise FormatError(
                    f"{path}, line {number}, is no row of a corpus: {error}.",
                    remedy='A row is {"example": HEX, "attestation": HEX, "source": NAME}.',
                ) from error
            examples[example] = (attestation, source)
    return Corpus(str(path), examples)


def _admitted(view: View, wanted: Callable[[int], bool]) -> dict[bytes, Taught]:
    mentioned = {i: (m.attestation, m.source) for i, m in view.all_of(AttestationMentioned)}
    return {
        admission.example: mentioned[admission.attestation]
        for index, admission in view.all_of(ExampleAdmitted)
        if wanted(index)
        and admission.determination is not Determination.REJECTED
        and admission.attestation in mentioned
    }


def _change(before: set[str], after: set[str]) -> Change:
    return Change(tuple(sorted(after - before)), tuple(sorted(before - after)))
