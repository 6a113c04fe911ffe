"""Everything that can be read of a log as of one moment: entries, records, proofs, checkpoints.

The writer and the readers in other processes share it; they differ in when they move on to a newer head.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from licet.ledger import chunks, lookup, tree
from licet.ledger.chunks import Chunk
from licet.ledger.codec import decode
from licet.ledger.errors import CorruptError, NotFoundError
from licet.ledger.provable import ProvableLog
from licet.ledger.records import Opaque, Record
from licet.ledger.store import Store, Table
from licet.ledger.tree import TILE, TILE_BITS, Hashes

HEAD = b"head"
INDEXES_INVALID = b"indexes-invalid"
"""Stands in the database while the indexes are being rebuilt."""
_HEAD = struct.Struct(">Q32s")
_CHECKPOINT = b"checkpoint/"

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")
_Record = TypeVar("_Record", bound=Record)


@dataclass(frozen=True, slots=True)
class Head:
    """How far a log reaches, and its root there."""

    size: int
    root: bytes

    def pack(self) -> bytes:
        return _HEAD.pack(self.size, self.root)

    @classmethod
    def unpack(cls, value: bytes | None) -> Head:
        if value is None:
            return cls(0, tree.EMPTY_ROOT)
        try:
            return cls(*_HEAD.unpack(value))
        except struct.error as error:
            raise CorruptError("The head of this log is damaged.", remedy="Restore it from a mirror.") from error


def read_head(store: Store) -> Head:
    """The head as stored. It is the one value that is ever overwritten, so it is read with a cursor.

    RocksDB's plain get asks a reader's memory first, and is content with the old value there even after the writer
    has moved a newer one into a file: the reader would stand still until the writer's next commit.
    """
    found = store.last_at_or_before(Table.META, HEAD)
    return Head.unpack(found[1] if found is not None and found[0] == HEAD else None)


class View(ProvableLog):
    """A log at `head`. Whatever is committed later is not seen until the head moves."""

    def __init__(self, origin: str, store: Store, head: Head) -> None:
        self.origin = origin
        self.head = head
        self._store = store
        self._chunks: _Recent[int, Chunk] = _Recent(64)
        self._tiles: _Recent[tuple[int, int, int], Hashes] = _Recent(512)

    @property
    def size(self) -> int:
        return self.head.size

    # -- entries

    def entry(self, index: int) -> bytes:
        """The bytes of one entry."""
        return self._chunk_with(index).entry(index)

    def record(self, index: int) -> Record | Opaque:
        return decode(self.entry(index))

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[Chunk]:
        """The entries [start, stop) in the pieces they lie in; a hole or an overlap is refused."""
        stop = self.size if stop is None else min(stop, self.size)
        if start >= stop:
            return
        first = self._chunk_with(start)
        expected = start
        for key, value in self._store.scan(Table.ENTRIES, chunks.key(first.first), chunks.key(stop)):
            chunk = chunks.unpack(key, value).cut(start, stop)
            if chunk.first != expected:
                raise _hole(expected)
            expected = chunk.end
            yield chunk
        if expected != stop:
            raise _hole(expected)

    def entries(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, bytes]]:
        for chunk in self.chunks(start, stop):
            for index in range(chunk.first, chunk.end):
                yield index, chunk.entry(index)

    def _chunk_with(self, index: int) -> Chunk:
        if not 0 <= index < self.size:
            raise NotFoundError(f"There is no entry {index}: the log {self.origin} has {self.size}.")
        for chunk in reversed(list(self._chunks.values())):
            if chunk.first <= index < chunk.end:
                return chunk
        found = self._store.last_at_or_before(Table.ENTRIES, chunks.key(index))
        if found is None:
            raise _hole(index)
        chunk = chunks.unpack(*found)
        if index >= chunk.end:
            raise _hole(index)
        return self._chunks.put(chunk.first, chunk)

    # -- records by what they are about

    def find(self, cls: type[_Record], about: bytes | str) -> list[tuple[int, _Record]]:
        """The records of a kind about this id, oldest first."""
        field = lookup.ABOUT[cls]
        prefix = lookup.prefix(cls, about)
        return [(i, r) for i, r in self._listed(cls, prefix) if getattr(r, field) == about]

    def all_of(self, cls: type[_Record]) -> list[tuple[int, _Record]]:
        """All records of a kind, oldest first. Events are not listed: there are too many."""
        return list(self._listed(cls, lookup.prefix(cls)))

    def _listed(self, cls: type[_Record], prefix: bytes) -> Iterator[tuple[int, _Record]]:
        keys = self._store.scan(Table.LOOKUP, prefix, prefix + b"\xff" * (lookup.ID_BYTES + lookup.INDEX_BYTES))
        for index in sorted(lookup.index_of(key) for key, _ in keys):
            if index < self.size:
                record = self.record(index)
                if isinstance(record, cls):
                    yield index, record

    # -- the tree

    def _tile(self, level: int, tile: int) -> Hashes:
        """All finished nodes of a tile. However many there are, they never change, so they are kept in memory."""
        start = tile << TILE_BITS
        stop = min(start + TILE, self.size >> TILE_BITS * level)
        known = self._tiles.get((level, tile, stop))
        if known is not None:
            return known
        if level == 0:
            parts = [tree.leaf_hashes(chunk.data, chunk.offsets) for chunk in self.chunks(start, stop)]
            hashes = np.concatenate(parts)
        else:
            keys = [node_key(level, index) for index in range(start, stop)]
            nodes = self._store.get_many(Table.NODES, keys)
            if any(node is None or len(node) != 32 for node in nodes):
                raise CorruptError(
                    f"A node of the tree is missing at level {level}, tile {tile}.",
                    remedy="Run `licet ledger fsck --repair` to rebuild the tree from the entries.",
                )
            hashes = np.frombuffer(b"".join(node for node in nodes if node), np.uint8).reshape(-1, 32)
        return self._tiles.put((level, tile, stop), hashes)

    # -- checkpoints

    def checkpoint_notes(self, from_size: int = 0) -> Iterator[tuple[int, bytes]]:
        """The signed checkpoints from a size on: (size, note)."""
        start, stop = checkpoint_key(from_size), checkpoint_key(self.size + 1)
        for key, note in self._store.scan(Table.META, start, stop):
            yield int.from_bytes(key[len(_CHECKPOINT) :], "big"), note

    def latest_checkpoint(self) -> bytes | None:
        """The newest signed checkpoint."""
        found = self._store.last_at_or_before(Table.META, checkpoint_key(self.size))
        return found[1] if found is not None and found[0].startswith(_CHECKPOINT) else None

    # -- for the indexes

    def get(self, table: Table, key: bytes) -> bytes | None:
        return self._store.get(table, key)

    def get_many(self, table: Table, keys: list[bytes]) -> list[bytes | None]:
        return self._store.get_many(table, keys)

    def count(self, table: Table) -> int:
        return self._store.count(table)

    def scan(self, table: Table, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        return self._store.scan(table, start, stop)


def node_key(level: int, index: int) -> bytes:
    return bytes([level]) + index.to_bytes(7, "big")


def checkpoint_key(size: int) -> bytes:
    return _CHECKPOINT + size.to_bytes(8, "big")


class _Recent(OrderedDict[_Key, _Value], Generic[_Key, _Value]):
    """The last few of something: old ones fall out."""

    def __init__(self, count_max: int) -> None:
        super().__init__()
        self._count_max = count_max

    def put(self, key: _Key, value: _Value) -> _Value:
        self[key] = value
        if len(self) > self._count_max:
            self.popitem(last=False)
        return value


def _hole(index: int) -> CorruptError:
    return CorruptError(
        f"Entry {index} is missing from the database.",
        remedy="Restore the log from a mirror or a backup, and keep the damaged copy as evidence.",
    )
