"""Writing a log out as static tiles, so that anybody can serve, fetch and verify it without our software.

A directory grows: only what is new since its own checkpoint is written, and full tiles that it covers are never touched
again. Each file appears whole. The checkpoint is replaced last, once everything that it covers is on the disk, so a
reader never meets a checkpoint without its tiles, and a run that was killed is simply run again.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from licet.ledger import tree
from licet.ledger.chunks import Chunk
from licet.ledger.directory import LogDirectory, WriterLock
from licet.ledger.errors import ConfigError, ForkError, LockedError, RollbackError, StorageError, VerificationError
from licet.ledger.files import read_whole, sync_folder, write_whole
from licet.ledger.note import NOTE_BYTES_MAX, Checkpoint, split_note
from licet.ledger.sources import DirectoryTiles
from licet.ledger.tiles import BUNDLE_BYTES_MAX, CHECKPOINT, bundle_path, bundled, encode_bundle, tile_path
from licet.ledger.tree import TILE, TILE_BITS, Hashes

Progress = Callable[[int, int], None]
"""Called with the entries written and the entries to write."""

_SYNCED_ONE_BY_ONE_MAX = 256
_PROGRESS_EVERY = 64


class Exportable(Protocol):
    """A log that can be written out: its database."""

    @property
    def origin(self) -> str: ...
    @property
    def size(self) -> int: ...
    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[Chunk]: ...
    def hashes(self, level: int, start: int, count: int) -> Hashes: ...
    def root_at(self, size: int) -> bytes: ...
    def latest_checkpoint(self) -> bytes | None: ...


@dataclass(frozen=True, slots=True)
class Exported:
    """What a directory of tiles holds now, and how much of it is new."""

    origin: str
    size: int
    root: bytes
    new_entries: int
    new_files: int


def export(log: Exportable, folder: Path, note: bytes | None = None, *, progress: Progress | None = None) -> Exported:
    """Bring a directory of tiles up to a signed checkpoint of the log, by default the newest.

    Pass `note` to publish one that witnesses cosigned meanwhile.
    """
    given = note is not None
    note = log.latest_checkpoint() if note is None else note
    if note is None:
        raise ConfigError("This log has no signed checkpoint to export.", remedy="Sign one, then export again.")
    checkpoint = Checkpoint.parse(split_note(note)[0])
    if checkpoint.origin != log.origin or checkpoint.size > log.size:
        raise ConfigError(
            f"The checkpoint of {checkpoint.size} entries of {checkpoint.origin} is not one of this log.",
            remedy=f"Pass a checkpoint of {log.origin} of at most {log.size} entries.",
        )
    with TileFolder.open(folder) as tiles:
        old_size = 0
        if tiles.checkpoint is not None and tiles.note is not None:
            _check_is_prefix(log, tiles.checkpoint, tiles.note, checkpoint, note)
            old_size = tiles.checkpoint.size
            if old_size == checkpoint.size and not given:
                note = tiles.note  # it may carry cosignatures that the log does not know of
        start = old_size & ~(TILE - 1)
        chunks = bundled(log.chunks(start, checkpoint.size))
        leaves = ((chunk, tree.leaf_hashes(chunk.data, chunk.offsets)) for chunk in chunks)
        files = tiles.grow(checkpoint, old_size, leaves, log, progress=progress)
        tiles.publish(note)
        return Exported(checkpoint.origin, checkpoint.size, checkpoint.root, checkpoint.size - old_size, files)


def _check_is_prefix(log: Exportable, old: Checkpoint, old_note: bytes, new: Checkpoint, note: bytes) -> None:
    """Raise unless the directory's checkpoint is one that the log went through."""
    if old.origin != new.origin:
        raise ConfigError(
            f"The directory holds tiles of the log {old.origin}, not of {new.origin}.",
            remedy="Export to a directory of its own.",
        )
    if old.size <= log.size and log.root_at(old.size) != old.root:
        raise ForkError(
            f"The directory's first {old.size} entries are not those of the log {log.origin}.",
            ours=note,
            theirs=old_note,
            remedy="Find out which of the two was altered before publishing either; keep both.",
        )
    if new.size < old.size:
        raise RollbackError(
            f"The directory holds {old.size} entries, but the log's checkpoint covers only {new.size}.",
            remedy="The log was rolled back, or has not been signed since: restore it, or sign a new checkpoint.",
        )


class TileFolder:
    """A directory of tiles that one process writes to."""

    def __init__(self, folder: Path, lock: WriterLock) -> None:
        self.folder = folder
        self.source = DirectoryTiles(folder)
        self.note = self._read_note()
        self.checkpoint = Checkpoint.parse(split_note(self.note)[0]) if self.note is not None else None
        self._lock = lock
        self._written: list[Path] = []
        self._count = 0
        self._outgrown: list[Path] = []

    @classmethod
    @contextlib.contextmanager
    def open(cls, folder: Path) -> Iterator[TileFolder]:
        """Take the directory for writing, making it if it is not there."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _refused(folder, error) from error
        if (folder / "ledger.json").exists():
            raise ConfigError(
                f"{folder} holds a log's database, not tiles.", remedy="Choose a directory of its own for the tiles."
            )
        try:
            lock = WriterLock.take(LogDirectory(folder))
        except LockedError as error:
            raise LockedError(error.message, pid=error.pid, remedy="Wait for it to end, or stop it first.") from error
        try:
            yield cls(folder, lock)
        finally:
            lock.release()

    def grow(
        self,
        checkpoint: Checkpoint,
        old_size: int,
        entries: Iterable[tuple[Chunk, Hashes]],
        nodes: tree.NodeSource,
        *,
        progress: Progress | None = None,
    ) -> int:
        """Write the bundles and tiles that `checkpoint` needs and the old size did not have; how many files.

        `entries` are the bundles (with their leaf hashes) from the start of the old size's last one, and `nodes` knows
        the tree as it was there. What is written is hashed up to the root, which must be the checkpoint's.
        """
        start = old_size & ~(TILE - 1)
        edge = tree.Edge.load(start, nodes)
        rows = {level: _tail(nodes, start, level) for level in range(1, 8) if start >> TILE_BITS * level}
        count = self._count
        for number, (chunk, leaves) in enumerate(entries):
            bundle, width = chunk.first >> TILE_BITS, len(leaves)
            self._put(
                bundle_path(bundle, width), encode_bundle(chunk), outgrows=width == TILE and chunk.first < old_size
            )
            self._put(tile_path(0, bundle, width), leaves.tobytes(), outgrows=width == TILE and chunk.first < old_size)
            edge, finished = edge.extended(leaves)
            for level, first, hashes in finished:
                rows[level] = self._put_full_tiles(level, first, rows.get(level), hashes, old_size)
            if progress is not None and (number % _PROGRESS_EVERY == 0 or edge.size == checkpoint.size):
                progress(max(edge.size - old_size, 0), checkpoint.size - old_size)
        if edge.size != checkpoint.size or edge.root() != checkpoint.root:
            raise VerificationError(
                f"The entries {start} to {checkpoint.size - 1} do not lead to the signed root.",
                remedy="Run `licet ledger verify`; no checkpoint was published.",
            )
        for level, row in rows.items():
            if len(row):
                self._put(tile_path(level, checkpoint.size >> TILE_BITS * (level + 1), len(row)), row.tobytes())
        return self._count - count

    def publish(self, note: bytes) -> None:
        """Make everything durable, then replace the checkpoint, then drop the partial tiles that full ones replace."""
        try:
            self._sync()
            if note != self.note:
                write_whole(self.folder / CHECKPOINT, note)
        except OSError as error:
            raise _refused(self.folder, error) from error
        self.note = note
        self._written = []
        for full in self._outgrown:
            shutil.rmtree(full.with_name(full.name + ".p"), ignore_errors=True)
        self._outgrown = []

    def keep_evidence(self, *notes: bytes) -> Path:
        """Store signed notes that contradict each other; where they lie."""
        folder = self.folder / "evidence"
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise _refused(folder, error) from error
        for note in notes:
            seen = Checkpoint.parse(split_note(note)[0])
            write_whole(folder / f"{seen.size}-{seen.root.hex()[:16]}.checkpoint", note)
        return folder

    def _read_note(self) -> bytes | None:
        return self.source.fetch(CHECKPOINT, NOTE_BYTES_MAX)

    def _put_full_tiles(self, level: int, first: int, held: Hashes | None, more: Hashes, old_size: int) -> Hashes:
        """Write the tiles that these nodes fill; the nodes left over."""
        row = more if held is None else np.concatenate([held, more])
        tile = first >> TILE_BITS
        while len(row) >= TILE:
            began_before = tile << TILE_BITS * (level + 1) < old_size
            self._put(tile_path(level, tile), row[:TILE].tobytes(), outgrows=began_before)
            row, tile = row[TILE:], tile + 1
        return row

    def _put(self, path: str, data: bytes, *, outgrows: bool = False) -> None:
        """Write a file under its own name only when it is whole. Nothing is synced here: `publish` does that once."""
        target = self.folder / path
        if outgrows:
            self._outgrown.append(target)
        try:
            if target.exists() and read_whole(target, bytes_max=BUNDLE_BYTES_MAX) == data:
                self._written.append(target)  # left by a run that was killed: it may not have reached the disk
                return
            temporary = target.with_name(f".{target.name}.tmp")
            try:
                temporary.write_bytes(data)
            except FileNotFoundError:
                target.parent.mkdir(parents=True, exist_ok=True)
                temporary.write_bytes(data)
            temporary.replace(target)
        except OSError as error:
            raise _refused(target, error) from error
        self._written.append(target)
        self._count += 1

    def _sync(self) -> None:
        if len(self._written) > _SYNCED_ONE_BY_ONE_MAX:
            os.sync()  # one call for all of them; syncing a hundred thousand small files by itself takes minutes
            return
        folders = set()
        for path in self._written:
            _sync_file(path)
            folders |= {parent for parent in path.parents if parent == self.folder or self.folder in parent.parents}
        for folder in folders:
            sync_folder(folder)


def _tail(nodes: tree.NodeSource, size: int, level: int) -> Hashes:
    """The nodes of a level that no full tile holds yet."""
    finished = size >> TILE_BITS * level
    return nodes.hashes(level, finished & ~(TILE - 1), finished & (TILE - 1))


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _refused(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"{path} could not be written: {error.strerror or error}.",
        remedy="Look at free space and permissions, then run it again: what is there is kept.",
    )
