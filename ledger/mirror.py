"""Following a tile log and keeping a copy that others can serve, mirror and verify in their turn.

One update, in order:

    1. fetch the log's checkpoint; a key that is trusted, or one that such a key announced in the log, signed it
    2. it is no smaller than ours, and our entries are its first ones
    3. every new entry hashes to its leaf, every tile to the node above it, the last to the signed root
    4. write the tiles, then the checkpoint

A log that shows two histories is refused at 2, and both of its signed checkpoints are kept under `evidence/`: together
they prove it to anybody.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from licet.ledger import tree
from licet.ledger.chunks import Chunk
from licet.ledger.errors import (
    ConfigError,
    CorruptError,
    ForkError,
    LimitError,
    RemoteError,
    RollbackError,
    SignatureError,
    VerificationError,
)
from licet.ledger.export import Exported, Progress, TileFolder
from licet.ledger.note import VerifierKey, open_checkpoint
from licet.ledger.sources import TileSource
from licet.ledger.succession import Succession
from licet.ledger.tiles import CHECKPOINT
from licet.ledger.tileview import TileView
from licet.ledger.tree import TILE, Hashes

UNSIGNED_ENTRIES_MAX = 1 << 27
"""How many entries are searched for a rotation while their checkpoint is still signed by an unknown key."""
INTERVAL_S_MIN = 1.0


@dataclass(frozen=True, slots=True)
class Waiting:
    """Why a follower could not reach the log this time; it will try again."""

    error: RemoteError


def mirror(source: TileSource, folder: Path, key: VerifierKey, *, progress: Progress | None = None) -> Exported:
    """Bring a mirror up to the log's present checkpoint. `key` is the log's: its first, or any later one."""
    with TileFolder.open(folder) as tiles:
        return _Update(source, tiles, key).run(progress)


def follow(
    source: TileSource,
    folder: Path,
    key: VerifierKey,
    *,
    interval_s: float = 60.0,
    stop: threading.Event | None = None,
    report: Callable[[Exported | Waiting], None] | None = None,
    progress: Progress | None = None,
) -> None:
    """Mirror again and again until `stop` is set. An unreachable log is waited for; a log that misbehaves ends it."""
    if interval_s < INTERVAL_S_MIN:
        raise ConfigError(f"A log is asked every {INTERVAL_S_MIN:g} seconds at most.", remedy="Take a longer interval.")
    stop = stop or threading.Event()
    while not stop.is_set():
        result: Exported | Waiting
        try:
            result = mirror(source, folder, key, progress=progress)
        except RemoteError as error:
            result = Waiting(error)
        if report is not None:
            report(result)
        stop.wait(interval_s)


class _Update:
    """One update of a mirror."""

    def __init__(self, source: TileSource, tiles: TileFolder, key: VerifierKey) -> None:
        self._source = source
        self._tiles = tiles
        self._view = TileView(source)
        self._note = self._view.note
        self._new = self._view.checkpoint
        self._own = TileView(tiles.source, tiles.note) if tiles.note is not None else None
        self._size = self._own.size if self._own is not None else 0
        self._keys = self._own_keys(key)

    def run(self, progress: Progress | None) -> Exported:
        self._check_signature()
        self._check_consistency()
        kept_first = _KeptFirst(self._tiles.source, self._source)
        try:
            files = self._grow(TileView(kept_first, self._note), progress)
        except VerificationError:
            # What a killed run left behind may not have reached the disk whole: then it is fetched again.
            if not kept_first.used:
                raise
            files = self._grow(self._view, progress)
        self._tiles.publish(self._note)
        new = self._new
        return Exported(new.origin, new.size, new.root, new.size - self._size, files)

    def _own_keys(self, key: VerifierKey) -> Succession:
        """The keys of the log as far as our own copy tells, which must be of the same log and signed by one of them."""
        keys = Succession(self._new.origin, key)
        if self._own is None or self._tiles.note is None:
            return keys
        if self._own.origin != self._new.origin:
            raise ConfigError(
                f"The mirror holds the log {self._own.origin}, and {self._source} is the log {self._new.origin}.",
                remedy="Mirror each log to a directory of its own.",
            )
        # A checkpoint signed by the trusted key precedes any rotation, but for one in its very last entry.
        start = max(self._size - 1, 0) if _is_signed(self._tiles.note, [key]) else 0
        for chunk in self._own.chunks(start):
            keys.read(chunk)
        if not _is_signed(self._tiles.note, keys.at(self._size)):
            raise CorruptError(
                f"The mirror's own checkpoint in {self._tiles.folder} is not signed by {key.name} with this key.",
                remedy="Pass the log's first key; if that is the one you passed, the mirror was altered: make it anew.",
            )
        return keys

    def _check_signature(self) -> None:
        """Step 1, before any work is done for the checkpoint; `_grow` looks again once it knows every rotation."""
        keys = self._keys.at(self._size) if self._new.size > self._size else self._keys.keys
        try:
            open_checkpoint(self._note, keys, origin=self._new.origin)
        except SignatureError:
            if not self._is_signed_by_successor():
                raise

    def _is_signed_by_successor(self) -> bool:
        if self._new.size - self._size > UNSIGNED_ENTRIES_MAX:
            raise LimitError(
                f"An unknown key signed {self._new.size} entries, too many to search for its announcement.",
                remedy="If you know that the log's key was rotated, pass the new one.",
            )
        ahead = self._keys.copy()
        new_entries = self._view.chunks(self._size)
        try:
            return any(ahead.read(chunk) and _is_signed(self._note, ahead.keys[-2:]) for chunk in new_entries)
        except VerificationError:
            return False  # tiles that do not fit a checkpoint that nobody signed: the signature is what is wrong

    def _check_consistency(self) -> None:
        """Step 2: ours is a beginning of theirs."""
        if self._own is None or not self._size:
            return
        new, own = self._new, self._own.checkpoint
        if new.size >= own.size:
            if self._view.root_at(own.size) != own.root:
                self._refuse_fork()
            return
        if tree.root_at(new.size, self._own) != new.root:
            self._refuse_fork()
        folder = self._keep_evidence()
        raise RollbackError(
            f"The log {new.origin} showed {own.size} entries before and shows {new.size} now.",
            remedy=f"It was rolled back, or a stale copy is served. Both checkpoints are kept in {folder}.",
        )

    def _refuse_fork(self) -> NoReturn:
        assert self._tiles.note is not None
        folder = self._keep_evidence()
        raise ForkError(
            f"The log {self._new.origin} no longer begins with the {self._size} entries that it showed before.",
            ours=self._tiles.note,
            theirs=self._note,
            remedy=f"Stop relying on it. Both signed checkpoints are kept in {folder}: show them to others.",
        )

    def _keep_evidence(self) -> Path:
        assert self._tiles.note is not None
        return self._tiles.keep_evidence(self._tiles.note, self._note)

    def _grow(self, view: TileView, progress: Progress | None) -> int:
        """Steps 3 and 4, up to the checkpoint itself."""
        keys = self._keys.copy()

        def checked() -> Iterator[tuple[Chunk, Hashes]]:
            for chunk, leaves in view.bundles(self._size & ~(TILE - 1)):
                keys.read(chunk)
                yield chunk, leaves

        files = self._tiles.grow(self._new, self._size, checked(), view, progress=progress)
        open_checkpoint(self._note, keys.at(self._new.size), origin=self._new.origin)
        return files


class _KeptFirst:
    """The log's files, taken from what an earlier run fetched where it left full tiles behind."""

    def __init__(self, kept: TileSource, source: TileSource) -> None:
        self._kept = kept
        self._source = source
        self.used = False

    @property
    def parallel(self) -> int:
        return self._source.parallel

    def fetch(self, path: str, bytes_max: int) -> bytes | None:
        if path != CHECKPOINT and ".p/" not in path:
            found = self._kept.fetch(path, bytes_max)
            if found is not None:
                self.used = True
                return found
        return self._source.fetch(path, bytes_max)


def _is_signed(note: bytes, keys: list[VerifierKey]) -> bool:
    try:
        open_checkpoint(note, keys)
    except SignatureError:
        return False
    return True
