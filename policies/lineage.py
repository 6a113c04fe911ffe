"""Going through a training log: the records of one kind, and the stretches that a sealed model grew from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from licet.ledger.codec import decode
from licet.ledger.errors import NotFoundError
from licet.ledger.records import CheckpointSealed, Digest, Opaque, Record, RunStarted
from licet.ledger.view import View


@dataclass(frozen=True, slots=True)
class Stretch:
    """The entries [start, end) of one run that a seal rests on."""

    started: RunStarted
    start: int
    end: int


def find_seal(log: View, seal: Digest) -> tuple[int, CheckpointSealed]:
    """The entry of a seal."""
    found = log.find(CheckpointSealed, seal)
    if not found:
        raise NotFoundError(
            f"{log.origin} holds no seal {seal.hex()}.",
            remedy="`licet ledger events --kind CheckpointSealed` lists the seals of a log.",
        )
    return found[0]


def stretches_of(log: View, index: int, seal: CheckpointSealed) -> list[Stretch]:
    """The seal's run up to the size that it names, then its parents', the newest first.

    A parent counts only if it stands before the run that continues it, so the chain always ends.
    """
    starts = sorted(start for start, _ in log.all_of(RunStarted))
    found: list[Stretch] = []
    while seal.run is not None and seal.run in starts:
        started = log.record(seal.run)
        if not isinstance(started, RunStarted):
            break
        after = next((start for start in starts if start > seal.run), log.size)
        found.append(Stretch(started, seal.run, max(seal.run, min(seal.log_size, index, after))))
        parents = log.find(CheckpointSealed, started.parent_seal) if started.parent_seal is not None else []
        if not parents or parents[0][0] >= seal.run:
            break
        index, seal = parents[0]
    return found


def records_of(log: View, start: int, stop: int, kind: int) -> Iterator[tuple[int, Record | Opaque]]:
    """The records of one kind among the entries [start, stop), one at a time, however many there are."""
    for chunk in log.chunks(start, stop):
        kinds = np.frombuffer(chunk.data, np.uint8)[chunk.offsets[:-1]]
        for i in np.flatnonzero(kinds == kind).tolist():
            yield chunk.first + i, decode(chunk.entry(chunk.first + i))
