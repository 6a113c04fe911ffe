"""Other ways to keep the same record, as well as they can be made to do it, fed with the same events.

`SqliteChain` answers the questions that the ledger answers (who shaped these blocks, what did this source shape, where
are this example's events, in which order did it all happen) from one SQLite database, and makes tampering evident with
a hash chain; it has no proofs of single entries. `PymerkleTree` is pymerkle's SQLite tree: entries and proofs, no
questions.
"""

from __future__ import annotations

import hashlib
import sqlite3
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.workload import Shape, Step


class SqliteChain:
    """One row an event, an index on its example, one row of sums for each attestation, read once and written back."""

    def __init__(self, folder: Path, shape: Shape) -> None:
        self._shape = shape
        self._db = sqlite3.connect(folder / "chain.db", isolation_level=None)
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "cache_size=-262144", "mmap_size=4294967296"):
            self._db.execute(f"PRAGMA {pragma}")
        self._db.execute("CREATE TABLE events (id INTEGER PRIMARY KEY, example INT, body BLOB, hash BLOB)")
        self._db.execute("CREATE INDEX by_example ON events (example)")
        self._db.execute("CREATE TABLE exposure (attestation INTEGER PRIMARY KEY, sums BLOB)")
        self._sums = np.zeros((shape.sources, shape.blocks, 4), np.float64)  # magnitude, events, first and last step
        self._hash = bytes(32)
        self._size = 0

    def append(self, step: Step, sources: NDArray[np.int64]) -> None:
        """One commit."""
        bodies = np.empty((len(step.examples), 8 + step.norms.shape[1] * 2), np.uint8)
        bodies[:, :8] = step.examples.astype("<i8")[:, None].view(np.uint8).reshape(-1, 8)
        bodies[:, 8:] = step.norms.astype(np.float16).view(np.uint8).reshape(len(step.examples), -1)
        rows = []
        for example, body in zip(step.examples.tolist(), bodies, strict=True):
            raw = body.tobytes()
            self._hash = hashlib.sha256(self._hash + raw).digest()
            rows.append((self._size, example, raw, self._hash))
            self._size += 1
        touched = np.unique(sources)
        np.add.at(self._sums, (sources, slice(None), 0), step.norms)
        np.add.at(self._sums, (sources, slice(None), 1), 1)
        self._sums[touched, :, 3] = step.step
        self._db.execute("BEGIN")
        self._db.executemany("INSERT INTO events VALUES (?, ?, ?, ?)", rows)
        self._db.executemany(
            "INSERT INTO exposure VALUES (?, ?) ON CONFLICT DO UPDATE SET sums = excluded.sums",
            [(int(source), self._sums[source].astype(np.float32).tobytes()) for source in touched],
        )
        self._db.execute("COMMIT")

    def close(self) -> None:
        self._db.close()


class PymerkleTree:
    """Appends a batch in one transaction; `with_root` also asks for the root after each, which a commit of ours has."""

    def __init__(self, folder: Path, *, with_root: bool) -> None:
        from pymerkle import SqliteTree

        self._tree = SqliteTree(str(folder / f"pymerkle-{with_root}.db"))
        self._with_root = with_root

    def append(self, entries: list[bytes]) -> None:
        self._tree.append_entries(entries, len(entries))
        if self._with_root:
            self._tree.get_root()

    def append_one(self, entry: bytes) -> None:
        self._tree.append_entry(entry)

    def close(self) -> None:
        self._tree.close()
