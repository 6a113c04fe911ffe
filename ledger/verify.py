"""Everything an auditor checks, offline, with a directory or a tile mirror and one verifier key.

    1. the newest checkpoint is signed by the key, or by one it announced in the log
    2. each entry is well-formed and makes sense after those before it
    3. the entries hash to the checkpoint's root, and to every stored node
    4. a checkpoint that the auditor kept from earlier is a beginning of the log
    5. (a directory only) the indexes say what the entries say

A failure names the first bad entry. `fsck.py` does the fifth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol, Self, TypeVar

import numpy as np

from licet.ledger import tree
from licet.ledger.chunks import Chunk, concatenated
from licet.ledger.errors import ForkError, SignatureError, VerificationError
from licet.ledger.note import Checkpoint, VerifierKey, open_note_by, split_note
from licet.ledger.records import RunStarted
from licet.ledger.replay import Piece, Replay
from licet.ledger.tree import TILE, TILE_BITS, Hashes

_PIECE_ENTRIES = 16384

_Item = TypeVar("_Item")
Progress = Callable[[int, int], None]
"""Called with the entries done and the entries to do."""
Finished = tuple[int, int, Hashes]
"""Nodes of the tree that are now complete: their level, the first one's index, and their hashes."""


class Source(Protocol):
    """Where a log's entries and nodes are read from: its database, or tiles."""

    @property
    def size(self) -> int: ...
    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[Chunk]: ...
    def hashes(self, level: int, start: int, count: int) -> Hashes: ...


class Observer(Protocol):
    """Somebody who looks on while entries are read: the check of the indexes. Called in order, from one thread."""

    def entries_read(self, piece: Piece) -> None: ...
    def nodes_finished(self, level: int, start: int, hashes: Hashes) -> None: ...


@dataclass(frozen=True, slots=True)
class Report:
    """What was verified."""

    origin: str
    size: int
    root: bytes
    checkpoint_size: int
    signed_by: tuple[str, ...]
    kinds: dict[str, int]
    older_size: int | None = None
    checked: tuple[str, ...] = ()

    def with_checked(self, *more: str) -> Report:
        return replace(self, checked=(*self.checked, *more))


def verify(
    source: Source,
    note: bytes,
    key: VerifierKey,
    *,
    older: bytes | None = None,
    observer: Observer | None = None,
    leaf_tiles: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Check a whole log against its signed checkpoint; see the head of this file for what.

    `leaf_tiles` says that the source stores leaf hashes of its own, which then name a bad entry exactly.
    """
    checkpoint = Checkpoint.parse(split_note(note)[0])
    kept = Checkpoint.parse(split_note(older)[0]) if older is not None else None
    if checkpoint.size > source.size:
        raise VerificationError(
            f"The checkpoint is of {checkpoint.size} entries, but only {source.size} are here.",
            remedy="Entries were lost or withheld: ask for a complete copy.",
        )
    if kept is not None and kept.size > checkpoint.size:
        raise _forked(f"You kept a checkpoint of {kept.size} entries; this log claims {checkpoint.size}.", older, note)
    replay = Replay()
    roots = {0: tree.EMPTY_ROOT}
    edge = tree.Edge()
    stops = {checkpoint.size, *([kept.size] if kept else [])}
    with _Beside(observer) as beside:
        for chunk, edge, finished in _ahead(_grown(source, stops, leaf_tiles=leaf_tiles)):
            beside.tell(replay.read(chunk), finished)
            if edge.size in stops:
                roots[edge.size] = edge.root()
            if progress is not None:
                progress(edge.size, source.size)
    if roots[checkpoint.size] != checkpoint.root:
        raise VerificationError(
            f"The first {checkpoint.size} entries do not hash to the signed root.",
            remedy="They were altered after signing, or the checkpoint is another log's.",
        )
    signed_by = _check_signature(note, checkpoint, replay, key, what="newest checkpoint")
    if kept is not None and older is not None:
        kept_key = (
            replay.succession.at(kept.size)[-1] if replay.succession else key
        )  # older than the trusted key, perhaps
        _check_signature(older, kept, replay, kept_key, what="checkpoint that you kept")
        if roots[kept.size] != kept.root:
            raise _forked(f"The log no longer begins with the {kept.size} entries of your checkpoint.", older, note)
    return Report(
        checkpoint.origin,
        edge.size,
        edge.root(),
        checkpoint.size,
        tuple(str(k) for k in signed_by),
        dict(sorted(replay.kinds.items())),
        older_size=kept.size if kept else None,
        checked=("signature", "entries", "tree", *(["older checkpoint"] if kept else [])),
    )


def pieces(source: Source, stops: set[int]) -> Iterator[Chunk]:
    """The log's entries in large pieces, cut where a root is wanted and where a run starts."""
    for chunk in _gathered(source.chunks(0, source.size)):
        kinds = np.frombuffer(chunk.data, np.uint8)[chunk.offsets[:-1]]
        cuts = {chunk.first + int(i) for i in np.flatnonzero(kinds == RunStarted.KIND)}
        cuts |= {stop for stop in stops if chunk.first < stop < chunk.end}
        start = chunk.first
        for cut in [*sorted(cuts - {start}), chunk.end]:
            yield chunk.cut(start, cut)
            start = cut


def _gathered(chunks: Iterable[Chunk]) -> Iterator[Chunk]:
    """Small chunks put together: the work on a piece has a price that does not depend on its size."""
    held: list[Chunk] = []
    for chunk in chunks:
        if held and chunk.end - held[0].first > _PIECE_ENTRIES:
            yield concatenated(held)
            held = []
        held.append(chunk)
    if held:
        yield concatenated(held)


def _ahead(items: Iterator[_Item]) -> Iterator[_Item]:
    """The same items; the next one is being made on another core meanwhile."""
    with ThreadPoolExecutor(1, thread_name_prefix="licet-ahead") as pool:
        coming = pool.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = pool.submit(next, items, None)
            yield item


def _grown(source: Source, stops: set[int], *, leaf_tiles: bool) -> Iterator[tuple[Chunk, tree.Edge, list[Finished]]]:
    """Each piece, found to hash to what the source stores: with the tree's edge after it, and the nodes it finished."""
    edge = tree.Edge()
    for chunk in pieces(source, stops):
        leaves = tree.leaf_hashes(chunk.data, chunk.offsets)
        if leaf_tiles:
            _compare(leaves, source.hashes(0, chunk.first, len(leaves)), chunk.first)
        elif chunk.marks is not None:
            _compare(leaves[:, : chunk.marks.shape[1]], chunk.marks, chunk.first)
        edge, finished = edge.extended(leaves)
        for level, start, hashes in finished:
            _check_nodes(source, level, start, hashes)
        yield chunk, edge, finished


class _Beside:
    """Tells an observer what was read, on another core and one piece behind. What it raises comes out here."""

    def __init__(self, observer: Observer | None) -> None:
        self._observer = observer
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="licet-observer")
        self._last: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._pool.shutdown()
        if kind is None:
            self._wait()

    def tell(self, piece: Piece, finished: list[Finished]) -> None:
        if self._observer is not None:
            self._wait()
            self._last = self._pool.submit(_observe, self._observer, piece, finished)

    def _wait(self) -> None:
        if self._last is not None:
            self._last.result()


def _observe(observer: Observer, piece: Piece, finished: list[Finished]) -> None:
    for level, start, hashes in finished:
        observer.nodes_finished(level, start, hashes)
    observer.entries_read(piece)


def _compare(ours: Hashes, stored: Hashes, first: int) -> None:
    bad = np.flatnonzero((ours != stored).any(axis=1))
    if len(bad):
        index = first + int(bad[0])
        raise VerificationError(f"Entry {index} does not hash to its leaf in the tree.", index=index)


def _check_nodes(source: Source, level: int, start: int, hashes: Hashes) -> None:
    stored = source.hashes(level, start, len(hashes))
    bad = np.flatnonzero((hashes != stored).any(axis=1))
    if len(bad):
        span = TILE_BITS * level
        first = (start + int(bad[0])) << span
        raise VerificationError(
            f"One of the entries {first} to {first + (1 << span) - 1} is not the one that was hashed into the tree.",
            index=first,
            remedy=f"A mirror tells which: it keeps the hash of each of these {TILE} entries." if level == 1 else "",
        )


def _check_signature(
    note: bytes, checkpoint: Checkpoint, replay: Replay, trusted: VerifierKey, *, what: str
) -> list[VerifierKey]:
    """Who signed: the trusted key, or one that it led to."""
    succession = replay.succession
    if succession is None or checkpoint.origin != succession.origin:
        raise SignatureError(
            f"The {what} is of the log {checkpoint.origin}, not of the one whose entries are here.",
            remedy="Ask for the checkpoint of the log you mean.",
        )
    if trusted not in succession.keys:
        raise SignatureError(
            f"The key {trusted} never signed this log; its keys are {', '.join(map(str, succession.keys))}.",
            remedy="Compare the key with the one that the operator published; if it is right, the log is a forgery.",
        )
    led_to = succession.keys[succession.keys.index(trusted) :]
    keys = [key for key in succession.at(checkpoint.size) if key in led_to]
    return open_note_by(note, keys)[1]


def _forked(message: str, ours: bytes | None, theirs: bytes) -> ForkError:
    return ForkError(
        message,
        ours=ours or b"",
        theirs=theirs,
        remedy="Keep both checkpoints: together, signed by one key, they prove that the log was forked.",
    )
