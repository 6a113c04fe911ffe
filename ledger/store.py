"""The database under a log: ordered byte keys in named tables, atomic batches, one durable write. Nothing else.

This is the only file that knows RocksDB. It knows nothing of entries, trees or records.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

import rocksdict

from licet.ledger.errors import ClosedError, CorruptError, LedgerError, StorageError

MIB = 1 << 20
WAL_BYTES_MAX = 64 * MIB
"""What a reopening after a crash may have to replay."""

_WRITTEN_ON_OPEN = "rocksdict-config.json"
_READER_TRIES = 100
KEY_BEYOND_ALL = b"\xff" * 64

_R = TypeVar("_R")


class Table(StrEnum):
    """Each table is a column family: keys that only grow are then never rewritten by compaction."""

    META = "default"
    ENTRIES = "entries"
    NODES = "nodes"
    LOOKUP = "lookup"
    EXPOSURE = "exposure"
    POSTINGS = "postings"


class Batch:
    """Writes that happen together or not at all."""

    def __init__(self, tables: dict[Table, rocksdict.ColumnFamily]) -> None:
        self._tables = tables
        self._batch = rocksdict.WriteBatch(raw_mode=True)

    def put(self, table: Table, key: bytes, value: bytes) -> None:
        self._batch.put(key, value, self._tables[table])

    def delete(self, table: Table, key: bytes) -> None:
        self._batch.delete(key, self._tables[table])

    def delete_all(self, table: Table) -> None:
        self._batch.delete_range(b"", KEY_BEYOND_ALL, self._tables[table])

    def __len__(self) -> int:
        return self._batch.len()


class Store:
    """An open database. A writer holds RocksDB's lock; a reader is a secondary that catches up when asked."""

    def __init__(self, path: Path, db: rocksdict.Rdict, shadow: _Shadow | None = None) -> None:
        self._path = path
        self._unsynced = rocksdict.WriteOptions()
        self._attach(db, shadow)

    def _attach(self, db: rocksdict.Rdict, shadow: _Shadow | None) -> None:
        self._db = db
        self._shadow = shadow
        self._handles = {table: db.get_column_family_handle(table.value) for table in Table}
        views: dict[Table, rocksdict.Rdict] = {Table.META: db}
        for table in Table:
            if table is not Table.META:
                views[table] = db.get_column_family(table.value)
        self._views = views

    @classmethod
    def create(cls, path: Path) -> Store:
        return cls(path, _open(path, path, rocksdict.AccessType.read_write(), create=True))

    @classmethod
    def open_writer(cls, path: Path) -> Store:
        return cls(path, _open(path, path, rocksdict.AccessType.read_write()))

    @classmethod
    def open_reader(cls, path: Path) -> Store:
        """A view that never blocks the writer and never writes to the database."""
        return cls(path, *_open_shadow(path))

    def batch(self) -> Batch:
        return Batch(self._handles)

    def write(self, batch: Batch) -> None:
        """Write atomically; on return it survives a crash of the machine.

        Writing and syncing are two calls because RocksDB's write keeps Python's interpreter lock, and its sync,
        which takes nearly all of the time, does not.
        """
        _guarded(self._path, lambda: self._db.write(batch._batch, self._unsynced))
        _guarded(self._path, lambda: self._db.flush_wal(True))

    def get(self, table: Table, key: bytes) -> bytes | None:
        value: bytes | None = _guarded(self._path, lambda: self._views[table].get(key))
        return value

    def get_many(self, table: Table, keys: list[bytes]) -> list[bytes | None]:
        wanted: list[Any] = list(keys)
        values: Any = _guarded(self._path, lambda: self._views[table].get(wanted)) if keys else []
        return list(values)

    def scan(self, table: Table, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Keys from `start` up to and without `stop`, in order."""
        cursor = _guarded(self._path, self._views[table].iter)
        _guarded(self._path, lambda: cursor.seek(start))
        while cursor.valid() and (key := cursor.key()) < stop:
            yield key, cursor.value()
            cursor.next()
        _guarded(self._path, cursor.status)

    def count(self, table: Table) -> int:
        """How many keys a table holds, by going through all of them."""
        return _guarded(self._path, lambda: sum(1 for _ in self._views[table].keys()))  # noqa: SIM118  no mapping

    def last_at_or_before(self, table: Table, key: bytes) -> tuple[bytes, bytes] | None:
        """The entry with the greatest key that is not greater than `key`."""
        cursor = _guarded(self._path, self._views[table].iter)
        _guarded(self._path, lambda: cursor.seek_for_prev(key))
        _guarded(self._path, cursor.status)
        return (cursor.key(), cursor.value()) if cursor.valid() else None

    def catch_up(self) -> None:
        """Let a reader see what the writer has written since."""
        assert self._shadow is not None, "only a reader catches up"
        with contextlib.suppress(StorageError, CorruptError):  # it opens the database anew then, and that may raise
            if self._shadow.is_exact():
                _guarded(self._path, self._db.try_catch_up_with_primary)
                if self._shadow.is_exact():
                    return
        outgrown = self._shadow
        self._attach(*_open_shadow(self._path))
        outgrown.remove()

    def flush(self) -> None:
        """Move what is in memory into sorted files, so that the next open has nothing to replay."""
        for view in self._views.values():
            _guarded(self._path, view.flush)

    def close(self) -> None:
        self._views.clear()
        self._handles.clear()
        # What was acknowledged is on the disk already; a database that failed only fails again here.
        with contextlib.suppress(LedgerError):
            _guarded(self._path, self._db.close)
        if self._shadow is not None:
            self._shadow.remove()


class _Shadow:
    """A scratch folder with a link to each file that a database has at this moment.

    Even a reader's open writes a small file beside the database; here it lands among the links, so that a log can be
    read from a read-only disk, or by an auditor who may not write to it.

    And a reader that looks while files come and go can miss what was moved from one to another, without any error: a
    record would be in the log and not be found. So whatever is read counts only if the files are the same afterwards.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()
        self._linked = set(os.listdir(self._path))
        self._scratch = Path(tempfile.mkdtemp(prefix="licet-reader-"))
        self.database = self._scratch / "db"
        self.own_files = self._scratch / "own"
        self.database.mkdir()
        for name in self._linked:
            (self.database / name).symlink_to(self._path / name)
        written = self.database / _WRITTEN_ON_OPEN
        if written.is_symlink():
            content = written.read_bytes()
            written.unlink()
            written.write_bytes(content)

    def is_exact(self) -> bool:
        """Whether the database still has the files that are linked. None of them is ever used for something else."""
        return set(os.listdir(self._path)) == self._linked

    def remove(self) -> None:
        shutil.rmtree(self._scratch, ignore_errors=True)


def _open_shadow(path: Path) -> tuple[rocksdict.Rdict, _Shadow]:
    """A reader's view of a database whose files did not change while it was opened."""
    for _ in range(_READER_TRIES):
        shadow = _guarded(path, lambda: _Shadow(path))
        try:
            db = _open(path, shadow.database, rocksdict.AccessType.secondary(str(shadow.own_files)))
            if shadow.is_exact():
                return db, shadow
        except (StorageError, CorruptError):
            if shadow.is_exact():
                shadow.remove()
                raise
        shadow.remove()
    raise StorageError(
        f"The files of {path.parent} change faster than they can be opened.", remedy="Try again when its writer rests."
    )


def _open(path: Path, where: Path, access: rocksdict.AccessType, *, create: bool = False) -> rocksdict.Rdict:
    families = {table.value: _options(table) for table in Table if table is not Table.META}
    options = _options(Table.META)
    options.create_if_missing(create)
    options.create_missing_column_families(create)
    return _guarded(path, lambda: rocksdict.Rdict(str(where), options, families, access))


def _guarded(path: Path, call: Callable[[], _R]) -> _R:
    """Turn what RocksDB raises (plain `Exception`s with a status text) into our errors."""
    try:
        return call()
    except rocksdict.DbClosedError as error:
        raise ClosedError(f"The log {path.parent} is closed.", remedy="Open it again.") from error
    except Exception as error:
        text = str(error)
        if "Corruption" in text:
            raise CorruptError(
                f"The database of {path.parent} is damaged: {text}.",
                remedy="Restore it from a mirror or a backup, and keep the damaged copy as evidence.",
            ) from error
        raise StorageError(
            f"The database of {path.parent} cannot be used: {text}.",
            remedy="Look at free space (df), permissions, and the disk's health; then open the log again: "
            "everything acknowledged is in it.",
        ) from error


def _options(table: Table) -> rocksdict.Options:
    options = rocksdict.Options(raw_mode=True)
    options.set_compression_type(rocksdict.DBCompressionType.zstd())
    options.set_write_buffer_size((16 if table is Table.ENTRIES else 8) * MIB)
    options.set_max_write_buffer_number(3)
    options.set_target_file_size_base(64 * MIB)
    blocks = rocksdict.BlockBasedOptions()
    blocks.set_block_size(16 << 10)
    blocks.set_block_cache(_cache())
    blocks.set_format_version(5)
    options.set_block_based_table_factory(blocks)
    options.set_max_open_files(-1)
    options.set_max_total_wal_size(WAL_BYTES_MAX)
    options.set_max_background_jobs(2)
    options.set_keep_log_file_num(2)
    options.set_max_log_file_size(MIB)
    options.set_is_fd_close_on_exec(True)
    return options


_shared_cache: rocksdict.Cache | None = None


def _cache() -> rocksdict.Cache:
    """One block cache for every log of this process, so that opening a second does not double the memory."""
    global _shared_cache  # noqa: PLW0603
    if _shared_cache is None:
        _shared_cache = rocksdict.Cache(48 * MIB)
    return _shared_cache
