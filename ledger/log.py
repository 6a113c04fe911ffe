"""A log as its one writer has it: the only place where entries are appended.

One process writes; when `commit` returns, what was appended is on the disk. Nothing is ever changed or removed.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from licet.ledger import chunks, codec, events, lookup, tree
from licet.ledger.directory import Description, LogDirectory, WriterLock
from licet.ledger.errors import (
    ClosedError,
    ConfigError,
    CorruptError,
    FormatError,
    KeyFileError,
    LedgerError,
    LicetError,
    LimitError,
    StorageError,
)
from licet.ledger.events import Events, Ints, ProfileTable
from licet.ledger.files import sync_folder, write_whole
from licet.ledger.keys import rotation_statement
from licet.ledger.note import Checkpoint, SigningKey
from licet.ledger.order import Order
from licet.ledger.reader import LogReader
from licet.ledger.records import (
    ClaimedMs,
    GradientApplied,
    KeyRotated,
    LogOpened,
    Opaque,
    Record,
    RunStarted,
)
from licet.ledger.store import Batch, Store, Table
from licet.ledger.view import HEAD, INDEXES_INVALID, Head, checkpoint_key, node_key

PENDING_BYTES_MAX = 256 << 20
_FLUSH_BYTES = 8 << 20


def now_ms() -> ClaimedMs:
    """What this machine's clock claims."""
    return ClaimedMs(time.time_ns() // 1_000_000)


@dataclass(frozen=True, slots=True)
class _Appended:
    """Entries waiting for a commit: one record, or a batch of events."""

    data: bytes
    lengths: Ints
    record: Record | Opaque | None = None
    batch: tuple[Events, ProfileTable] | None = None


class Ledger(LogReader):
    """The one writer of a log.

    Appending and committing may be done from several threads; `background.py` moves the commit off a hot one.
    """

    def __init__(
        self, directory: LogDirectory, description: Description, store: Store, lock: WriterLock, key: SigningKey | None
    ) -> None:
        super().__init__(directory, description, store)
        self.key = key
        self._lock = lock
        self._mutex = threading.RLock()
        self._edge = tree.Edge()
        self._pending: list[_Appended] = []
        self._pending_count = 0
        self._pending_bytes = 0
        self._written_bytes = 0
        self._order = Order(self)
        self._failed: Exception | None = None
        self._closed = False

    # -- opening and closing

    @classmethod
    def create(cls, path: Path, key: SigningKey) -> Self:
        """Make a new log whose origin is the key's name. It appears whole or not at all."""
        if path.exists():
            raise ConfigError(f"{path} already exists.", remedy="Open the log that is there, or choose another path.")
        anchor = LogDirectory(path).anchor
        if anchor.exists():
            raise ConfigError(
                f"{anchor} says that a log was signed here, and {path} is gone.",
                remedy="Restore that log; if it was given up on purpose, move its anchor away.",
            )
        making = LogDirectory(path.with_name(f".{path.name}.creating"))
        try:
            shutil.rmtree(making.path, ignore_errors=True)
            making.database.mkdir(parents=True)
            cls._fill_new(making, key)
            making.path.rename(path)
            sync_folder(path.parent)
        except OSError as error:
            raise StorageError(
                f"{path} could not be made: {error.strerror or error}.", remedy="Look at free space and permissions."
            ) from error
        ledger = cls.open(path, key)
        try:
            ledger.checkpoint()
        except BaseException:
            ledger.close()
            raise
        return ledger

    @classmethod
    def _fill_new(cls, making: LogDirectory, key: SigningKey) -> None:
        """Lay down a log of one entry."""
        description = Description(key.name, key.verifier)
        Store.create(making.database).close()
        write_whole(making.description_file, description.to_json())
        with cls._open(making, description, key) as ledger:
            ledger.append(LogOpened(key.name, str(key.verifier), now_ms()))
            ledger.commit()

    @classmethod
    def open(cls, path: Path, key: SigningKey | None = None) -> Self:
        """Open for writing. A log that was rolled back, damaged or signed by another key is refused."""
        directory = LogDirectory(path)
        ledger = cls._open(directory, directory.describe(), key)
        try:
            ledger._check_opened()
        except BaseException:
            ledger.close()
            raise
        return ledger

    @classmethod
    def _open(cls, directory: LogDirectory, description: Description, key: SigningKey | None) -> Self:
        lock = WriterLock.take(directory)
        try:
            ledger = cls(directory, description, Store.open_writer(directory.database), lock, key)
        except BaseException:
            lock.release()
            raise
        try:
            if ledger.get(Table.META, INDEXES_INVALID) is not None:
                raise CorruptError(
                    f"The indexes of {directory.path} are incomplete: a repair was interrupted.",
                    remedy=f"Run `licet ledger fsck --repair {directory.path}` again.",
                )
            ledger._edge = tree.Edge.load(ledger.size, ledger)
            if ledger._edge.root() != ledger.head.root:
                raise CorruptError(
                    f"The last entries of {directory.path} do not hash to its head.",
                    remedy="Restore the log from a mirror or a backup, and keep the damaged copy as evidence.",
                )
        except BaseException:
            ledger.close()
            raise
        return ledger

    def _check_opened(self) -> None:
        keys = self.verifier_keys()
        opened = self.record(0) if self.size else None
        if not isinstance(opened, LogOpened) or (opened.origin, opened.verifier_key) != (
            self.origin,
            str(self.first_key),
        ):
            raise CorruptError(
                f"The first entry of {self.directory.path} is not that of the log {self.origin}.",
                remedy="ledger.json and db/ belong to different logs: restore both from one place.",
            )
        if self.key is not None and self.key.verifier != keys[-1]:
            raise KeyFileError(
                f"The key {self.key.verifier} is not the one that signs {self.origin} now, {keys[-1]}.",
                remedy="Open it with its current key; after an interrupted rotation that is keys/*.key.new.",
            )
        self._check_own_anchor()

    def _check_own_anchor(self) -> None:
        note = self.directory.read_anchor()
        if note is None:
            if self.latest_checkpoint() is not None:
                raise self.directory.missing_anchor()
            return
        self.check_anchor(note)

    def close(self) -> None:
        """Give the log up. What was appended and not committed is dropped."""
        with self._mutex:
            if self._closed:
                return
            self._closed = True
            if self._written_bytes > _FLUSH_BYTES and self._failed is None:
                with contextlib.suppress(LedgerError):  # only saves the next open some work
                    self._store.flush()
            self._store.close()
            self._lock.release()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None and not self._closed and self._failed is None:
                self.commit()
        finally:
            self.close()

    # -- appending

    def append(self, record: Record | Opaque) -> int:
        """Add a record to the next commit; the index it will have."""
        if isinstance(record, GradientApplied):
            return self.append_events(self._order.as_events(record))
        with self._mutex:
            self._check_open()
            index = self.size + self._pending_count
            if isinstance(record, Opaque) and record.kind == GradientApplied.KIND:
                raise FormatError("Events of another version cannot be written by this release.")
            entry = codec.encode(record)
            item = _Appended(entry, np.array([len(entry)], np.int64), record=record)
            self._check_room(item)
            self._order.admit(index, record)  # last: what it remembers of the record must become true
            self._take_in(item)
            return index

    def append_events(self, batch: Events) -> int:
        """Add training events to the next commit; the index that the first will have."""
        with self._mutex:
            self._check_open()
            index = self.size + self._pending_count
            if not len(batch):
                return index
            profiles = self._order.check_events(batch, index)
            data, lengths = events.encode(batch, profiles)
            item = _Appended(data, lengths, batch=(batch, profiles))
            self._check_room(item)
            self._take_in(item)
            self._order.last_step = int(batch.step[-1])
            return index

    def append_all(self, items: Sequence[Record | Opaque | Events]) -> int:
        """Add several items to the next commit, or none if one of them is refused; the index of the first."""
        with self._mutex:
            first = self.size + self._pending_count
            before = (len(self._pending), self._pending_count, self._pending_bytes)
            state = self._order.state()
            try:
                for item in items:
                    if isinstance(item, Events):
                        self.append_events(item)
                    else:
                        self.append(item)
            except LicetError:
                count, self._pending_count, self._pending_bytes = before
                del self._pending[count:]
                self._order.go_back(first, state)
                raise
            return first

    def _check_room(self, item: _Appended) -> None:
        if self._pending_bytes + len(item.data) > PENDING_BYTES_MAX:
            raise LimitError(
                f"More than {PENDING_BYTES_MAX >> 20} MiB wait to be committed.", remedy="Commit more often."
            )

    def _take_in(self, item: _Appended) -> None:
        self._pending.append(item)
        self._pending_count += len(item.lengths)
        self._pending_bytes += len(item.data)

    def _check_open(self) -> None:
        if self._failed is not None:
            raise ClosedError(
                f"The log {self.origin} stopped when a write failed: {self._failed}",
                remedy="Mend the cause and open it again; everything acknowledged is in it.",
            )
        if self._closed:
            raise ClosedError(f"The log {self.origin} is closed.", remedy="Open it again.")

    # -- committing

    def commit(self) -> Head:
        """Make everything appended durable, all of it or nothing. On return it survives a crash."""
        with self._mutex:
            self._check_open()
            if not self._pending:
                return self.head
            try:
                return self._commit()
            except Exception as error:
                self._failed = error
                raise

    def _commit(self) -> Head:
        pending, first = self._pending, self.size
        data = b"".join(item.data for item in pending)
        lengths = np.concatenate([item.lengths for item in pending])
        offsets = np.zeros(len(lengths) + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        leaves = tree.leaf_hashes(data, offsets)
        edge, finished = self._edge.extended(leaves)
        head = Head(edge.size, edge.root())

        batch = self._store.batch()
        for key, value in chunks.split(first, data, lengths, leaves):
            batch.put(Table.ENTRIES, key, value)
        for level, start, hashes in finished:
            for i, row in enumerate(hashes):
                batch.put(Table.NODES, node_key(level, start + i), row.tobytes())
        index = first
        for item in pending:
            self._index(item, index, batch)
            index += len(item.lengths)
        exposure = self._exposure
        if exposure is not None and exposure.current is not None and exposure.current.is_full:
            exposure.current.close_segment(head.size, batch)
        batch.put(Table.META, HEAD, head.pack())
        self._store.write(batch)

        self._edge, self.head = edge, head
        self._pending, self._pending_count, self._pending_bytes = [], 0, 0
        self._written_bytes += len(data)
        if exposure is not None:
            exposure.position = head.size
        return head

    def _index(self, item: _Appended, index: int, batch: Batch) -> None:
        """Put what finds an item again into the batch."""
        if item.batch is not None:
            current = self.exposure.current
            assert current is not None
            current.add(*item.batch, index + np.arange(len(item.lengths)))
            return
        key = lookup.key(item.record, index) if item.record is not None else None
        assert key is not None  # `append` refuses events that it cannot read
        batch.put(Table.LOOKUP, key, b"")
        if isinstance(item.record, RunStarted):
            if self.exposure.current is not None:
                self.exposure.current.close_segment(index, batch)
            self.exposure.current = self.exposure.start_run(index, item.record)

    # -- signing

    def checkpoint(self) -> bytes:
        """Commit, sign what the log holds now, and anchor it outside the database; the signed note."""
        with self._mutex:
            return self._sign([self._signer()])

    def rotate_key(self, new: SigningKey, *, reason: str) -> bytes:
        """Announce a new key under the old one, and sign with both this once; the signed note."""
        with self._mutex:
            old = self._signer()
            if new.name != old.name:
                raise ConfigError(f"The new key must sign under the log's name, {old.name}.")
            statement = rotation_statement(self.origin, old.verifier, new.verifier)
            by_old, by_new = old.sign_raw(statement), new.sign_raw(statement)
            self.append(KeyRotated(str(old.verifier), str(new.verifier), by_old, by_new, reason, now_ms()))
            self.commit()
            self.key = new
            return self._sign([old, new])

    def _signer(self) -> SigningKey:
        if self.key is None:
            raise KeyFileError(
                f"The log {self.origin} was opened without its key, so it cannot be signed.",
                remedy="Open it with the key of its home (keys/).",
            )
        return self.key

    def _sign(self, signers: list[SigningKey]) -> bytes:
        head = self.commit()
        note = Checkpoint(self.origin, head.size, head.root).sign(signers)
        # The anchor first: whoever crashes between the two is left with an anchor that the log fulfils.
        self.directory.write_anchor(note)
        batch = self._store.batch()
        batch.put(Table.META, checkpoint_key(head.size), note)
        try:
            self._store.write(batch)
        except Exception as error:
            self._failed = error
            raise
        return note
