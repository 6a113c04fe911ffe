"""The indexes against the entries: every key and byte that a replay of the log would write, and nothing else.

Checking and repairing build the same indexes from the same entries. What differs is where they go: to a comparison
with what is stored, or into the database.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import accumulate, islice
from pathlib import Path

import numpy as np

from licet.ledger import lookup, tree
from licet.ledger.directory import LogDirectory, WriterLock
from licet.ledger.errors import CorruptError, NotFoundError, VerificationError
from licet.ledger.events import Events, ProfileTable
from licet.ledger.exposure import Exposure
from licet.ledger.note import VerifierKey
from licet.ledger.reader import LogReader
from licet.ledger.records import RunStarted
from licet.ledger.replay import Decoded, Piece, Replay
from licet.ledger.run_exposure import RunExposure
from licet.ledger.store import KEY_BEYOND_ALL, Batch, Store, Table
from licet.ledger.tree import Hashes
from licet.ledger.verify import Progress, Report, pieces, verify
from licet.ledger.view import INDEXES_INVALID, View, node_key, read_head

INDEX_TABLES = (Table.NODES, Table.LOOKUP, Table.EXPOSURE, Table.POSTINGS)
_BATCH_KEYS = 20_000


def fsck(path: Path, key: VerifierKey, *, older: bytes | None = None, progress: Progress | None = None) -> Report:
    """Verify a log's directory, its indexes included. Works beside a running writer."""
    anchor = LogDirectory(path).read_anchor()  # before the log, which may be growing
    with LogReader.open(path) as log:
        note = log.latest_checkpoint()
        if note is None:
            raise NotFoundError(
                f"{path} was never signed.", remedy="Its writer signs it with `licet ledger checkpoint`."
            )
        check = IndexCheck(log)
        report = verify(log, note, key, older=older, observer=check, progress=progress)
        check.finish()
        if anchor is not None:
            log.check_anchor(anchor)
        return report.with_checked("indexes")


class IndexCheck:
    """An observer of `verify` that compares the stored indexes with those that the entries make."""

    def __init__(self, log: LogReader) -> None:
        self._log = log
        self._sink = _Comparison(log)
        self._exposure = Exposure(log)
        self._run: RunExposure | None = None
        self._ends: Iterator[int] = iter(())
        self._end: int | None = None
        self._lookup = _KeySum(secrets.token_bytes(16))

    def entries_read(self, piece: Piece) -> None:
        for index, record in piece.records[:1]:  # a piece holds at most one start of a run, and begins with it
            if isinstance(record, RunStarted):
                self._start_run(index, record)
        self._lookup.add(_lookup_keys(piece))
        events = piece.events
        while self._run is not None and self._end is not None and self._end <= piece.end:
            before, events = _split(events, self._end)
            if before is not None:
                self._run.add(*before)
            self._run.close_segment(self._end, self._sink)
            self._end = next(self._ends, None)
        if events is not None and self._run is not None:
            self._run.add(*events)

    def nodes_finished(self, level: int, start: int, hashes: Hashes) -> None:
        self._sink.written[Table.NODES] += len(hashes)  # `verify` itself compares them

    def _start_run(self, index: int, started: RunStarted) -> None:
        """Segments may end anywhere between commits, so the stored ones say where."""
        self._run = self._exposure.start_run(index, started)
        self._ends = iter([extent.end for extent in self._run.stored_extents()])
        self._end = next(self._ends, None)

    def finish(self) -> None:
        """Nothing may be stored beyond what the entries account for."""
        if self._end is not None:
            raise _differs(f"The exposure index has a segment up to entry {self._end}, which is not there.")
        for table, written in self._sink.written.items():
            stored = self._log.count(table)
            if stored != written:
                raise _differs(f"The {table.value} index holds {stored} keys; the entries account for {written}.")
        self._check_lookup()

    def _check_lookup(self) -> None:
        """The keys stand in another order than the entries, and looking up each would take longer than all the rest."""
        stored = _KeySum(self._lookup.salt)
        rows = self._log.scan(Table.LOOKUP, b"", KEY_BEYOND_ALL)
        empty = True
        while batch := list(islice(rows, _BATCH_KEYS)):
            stored.add([key for key, _ in batch])
            empty = empty and not any(value for _, value in batch)
        if stored != self._lookup or not empty:
            raise _differs(
                f"The lookup index does not say what the entries say: it holds {stored.count} keys, and the entries "
                f"account for {self._lookup.count}."
            )


class _KeySum:
    """A set of keys as the sum of their hashes, so that it can be compared in any order and without being held.

    The salt is drawn for each comparison: nobody can choose keys that add up to those of others.
    """

    def __init__(self, salt: bytes) -> None:
        self.salt = salt
        self.count = 0
        self._sum = np.zeros(4, np.uint64)

    def add(self, keys: Sequence[bytes]) -> None:
        salted = [self.salt + key for key in keys]
        offsets = list(accumulate(map(len, salted), initial=0))
        self._sum += tree.leaf_hashes(b"".join(salted), offsets).view(np.uint64).sum(axis=0, dtype=np.uint64)
        self.count += len(keys)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _KeySum) and self.count == other.count and bool((self._sum == other._sum).all())

    __hash__ = None  # type: ignore[assignment]


class _Comparison:
    """Takes the place of a batch: each write must already be there, byte for byte."""

    def __init__(self, view: View) -> None:
        self._view = view
        self.written = Counter({Table.NODES: 0, Table.EXPOSURE: 0, Table.POSTINGS: 0})

    def put(self, table: Table, key: bytes, value: bytes) -> None:
        self.written[table] += 1
        if self._view.get(table, key) != value:
            raise _differs(f"The {table.value} index does not say what the entries say, at key {key.hex()}.")


def repair(path: Path, *, progress: Progress | None = None) -> None:
    """Rebuild every index of a log from its entries, after these have been found to hash to its head.

    If this is interrupted, the log stays closed to writers until it is run again.
    """
    directory = LogDirectory(path)
    description = directory.describe()
    lock = WriterLock.take(directory)
    try:
        store = Store.open_writer(directory.database)
        try:
            view = View(description.origin, store, read_head(store))
            _Rebuild(view, store).run(progress)
        finally:
            store.close()
    finally:
        lock.release()


class _Rebuild:
    """One repair."""

    def __init__(self, view: View, store: Store) -> None:
        self._view = view
        self._store = store

    def run(self, progress: Progress | None) -> None:
        edge = tree.Edge()
        for chunk in self._view.chunks():
            edge, _ = edge.extended(tree.leaf_hashes(chunk.data, chunk.offsets))
        if edge.root() != self._view.head.root:
            raise CorruptError(
                "The entries of this log do not hash to its head, so it cannot be repaired from them.",
                remedy="Restore it from a mirror or a backup, and keep the damaged copy as evidence.",
            )
        batch = self._store.batch()
        batch.put(Table.META, INDEXES_INVALID, b"")
        for table in INDEX_TABLES:
            batch.delete_all(table)
        self._store.write(batch)
        self._rebuild(progress)
        batch = self._store.batch()
        batch.delete(Table.META, INDEXES_INVALID)
        self._store.write(batch)

    def _rebuild(self, progress: Progress | None) -> None:
        replay, exposure, edge = Replay(), Exposure(self._view), tree.Edge()
        batch = self._store.batch()
        for chunk in pieces(self._view, set()):
            runs = len(replay.runs)
            piece = replay.read(chunk)
            if len(replay.runs) > runs and replay.run is not None:
                if exposure.current is not None:
                    exposure.current.close_segment(replay.run[0], batch)
                exposure.current = exposure.start_run(*replay.run)
            if piece.events is not None and exposure.current is not None:
                exposure.current.add(*piece.events)
                if exposure.current.is_full:
                    batch = self._written(batch)
                    exposure.current.close_segment(chunk.end, batch)
                    batch = self._written(batch)  # the next segment may be merged with this one
            edge, finished = edge.extended(tree.leaf_hashes(chunk.data, chunk.offsets))
            for level, start, hashes in finished:
                for i, row in enumerate(hashes):
                    batch.put(Table.NODES, node_key(level, start + i), row.tobytes())
            for key in _lookup_keys(piece):
                batch.put(Table.LOOKUP, key, b"")
            if len(batch) > _BATCH_KEYS:
                batch = self._written(batch)
            if progress is not None:
                progress(chunk.end, self._view.size)
        self._written(batch)

    def _written(self, batch: Batch) -> Batch:
        self._store.write(batch)
        return self._store.batch()


def _split(events: Decoded | None, end: int) -> tuple[Decoded | None, Decoded | None]:
    """The events before an entry, and those from it on."""
    if events is None:
        return None, None
    columns, profiles, indices = events
    at = int(np.searchsorted(indices, end))
    parts = [
        (
            Events(columns.columns[part], columns.refs[part], columns.codes[part]),
            ProfileTable(profiles.rows[part], profiles.levels),
            indices[part],
        )
        for part in (slice(0, at), slice(at, None))
    ]
    return (parts[0] if at else None), (parts[1] if at < len(indices) else None)


def _lookup_keys(piece: Piece) -> list[bytes]:
    keys = (lookup.key(record, index) for index, record in piece.records)
    return [key for key in keys if key is not None]


def _differs(message: str) -> VerificationError:
    return VerificationError(
        message, remedy="The entries are good: run `licet ledger fsck --repair` to rebuild the indexes from them."
    )
