"""Reading a log from static tiles, believing nothing that is read.

The tiles at the right edge must hash to the checkpoint's root, every other tile to the hash above it, and every entry
to its leaf, so whatever a `TileView` hands out is what its checkpoint stands for. What the checkpoint is worth, its
signatures say: whoever opens a view asks them (`note.open_checkpoint`, `verify.py`, `mirror.py`).
"""

from __future__ import annotations

import functools
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from licet.ledger import tree
from licet.ledger.chunks import Chunk
from licet.ledger.codec import decode
from licet.ledger.errors import FormatError, LimitError, NotFoundError, VerificationError
from licet.ledger.note import NOTE_BYTES_MAX, Checkpoint, split_note
from licet.ledger.provable import ProvableLog
from licet.ledger.records import Opaque, Record
from licet.ledger.sources import TileSource
from licet.ledger.tiles import (
    BUNDLE_BYTES_MAX,
    CHECKPOINT,
    HASH_BYTES,
    TILE_BYTES,
    bundle_path,
    parse_bundle,
    parse_tile,
    tile_path,
    width_of,
)
from licet.ledger.tree import TILE, TILE_BITS, Hashes

_TILES_KEPT = 512
_NO_HASHES: Hashes = np.empty((0, HASH_BYTES), np.uint8)

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def fetch_checkpoint(source: TileSource) -> bytes | None:
    """The signed note that a tile log shows, not verified; None where there is no log."""
    return source.fetch(CHECKPOINT, NOTE_BYTES_MAX)


class TileView(ProvableLog):
    """A log as of one checkpoint, read from tiles. It answers what `view.View` answers of a database."""

    def __init__(self, source: TileSource, note: bytes | None = None) -> None:
        note = fetch_checkpoint(source) if note is None else note
        if note is None:
            raise NotFoundError(
                f"There is no tile log at {source}.",
                remedy="Name the prefix under which `checkpoint` and `tile/` are found.",
            )
        self.note = note
        self.checkpoint = Checkpoint.parse(split_note(note)[0])
        self.origin = self.checkpoint.origin
        self._source = source
        self._tiles: OrderedDict[tuple[int, int], Hashes] = OrderedDict()
        self._bundle: Chunk | None = None

    @property
    def size(self) -> int:
        return self.checkpoint.size

    def latest_checkpoint(self) -> bytes | None:
        return self.note

    # -- entries

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[Chunk]:
        """The entries [start, stop) bundle by bundle."""
        for chunk, _ in self.bundles(start, stop):
            yield chunk

    def bundles(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[Chunk, Hashes]]:
        """The entries [start, stop) bundle by bundle with their leaf hashes."""
        stop = self.size if stop is None else min(stop, self.size)
        if start >= stop:
            return

        def load(bundle: int) -> tuple[Chunk, Hashes]:
            return self._fetch_bundle(bundle), self._fetch_tile(0, bundle)

        self.check_root()  # before anything is fetched ahead
        numbers = range(start >> TILE_BITS, (stop - 1 >> TILE_BITS) + 1)
        for whole, tile in _ahead(load, numbers, self._source.parallel):
            self._keep(0, whole.first >> TILE_BITS, tile)
            chunk = whole.cut(start, stop)
            leaves = tree.leaf_hashes(chunk.data, chunk.offsets)
            at = chunk.first - whole.first
            bad = np.flatnonzero((leaves != tile[at : at + len(leaves)]).any(axis=1))
            if len(bad):
                raise _altered(chunk.first + int(bad[0]))
            yield chunk, leaves

    def entry(self, index: int) -> bytes:
        """The bytes of one entry."""
        if not 0 <= index < self.size:
            raise NotFoundError(f"There is no entry {index}: the log {self.origin} has {self.size}.")
        if self._bundle is None or not self._bundle.first <= index < self._bundle.end:
            first = index & ~(TILE - 1)
            (self._bundle,) = self.chunks(first, first + TILE)
        return self._bundle.entry(index)

    def record(self, index: int) -> Record | Opaque:
        return decode(self.entry(index))

    # -- the tree

    def check_root(self) -> None:
        """Raise unless the tiles at the right edge hash to the checkpoint's root."""
        _ = self._edge

    @functools.cached_property
    def _edge(self) -> list[Hashes]:
        """The partial tile of each level. From these alone follows the root."""
        tails = []
        level = 0
        while True:
            nodes = self.size >> TILE_BITS * level
            tails.append(self._fetch_tile(level, nodes >> TILE_BITS) if nodes % TILE else _NO_HASHES)
            if nodes < TILE:
                break
            level += 1
        if tree.Edge(self.size, tails).root() != self.checkpoint.root:
            raise VerificationError(
                f"The last tiles do not hash to the root of the checkpoint of {self.size} entries.",
                remedy="They were altered, or are not this checkpoint's: fetch them again, or from another mirror.",
            )
        return tails

    def _tile(self, level: int, tile: int) -> Hashes:
        known = self._tiles.get((level, tile))
        if known is not None:
            self._tiles.move_to_end((level, tile))
            return known
        if width_of(self.size, level, tile) < TILE:
            return self._edge[level]
        return self._keep(level, tile, self._fetch_tile(level, tile))

    def _keep(self, level: int, tile: int, hashes: Hashes) -> Hashes:
        """Take a tile in, if it is the checkpoint's: the node above a full tile says so."""
        if len(hashes) < TILE:
            good = bool((hashes == self._edge[level]).all())
        else:
            good = tree.root_of(hashes) == self.hashes(level + 1, tile, 1).tobytes()
        if not good:
            raise VerificationError(
                f"The tile {tile_path(level, tile, len(hashes))} does not hash to the node above it.",
                index=tile << TILE_BITS * (level + 1),
                remedy="It was altered or is another log's: fetch it again, or from another mirror.",
            )
        if len(hashes) == TILE:
            self._tiles[level, tile] = hashes
            if len(self._tiles) > _TILES_KEPT:
                self._tiles.popitem(last=False)
        return hashes

    # -- files

    def _fetch_tile(self, level: int, tile: int) -> Hashes:
        width = width_of(self.size, level, tile)
        first = tile << TILE_BITS * (level + 1)
        whole = self._fetch(lambda w: tile_path(level, tile, w), width, TILE_BYTES, parse_tile, first)
        return whole[:width]

    def _fetch_bundle(self, bundle: int) -> Chunk:
        width = width_of(self.size, 0, bundle)
        first = bundle << TILE_BITS

        def parse(raw: bytes, available: int) -> Chunk:
            return parse_bundle(raw, first, available)

        whole = self._fetch(lambda w: bundle_path(bundle, w), width, BUNDLE_BYTES_MAX, parse, first)
        return whole.cut(first, first + width)

    def _fetch(
        self,
        path_of: Callable[[int], str],
        width: int,
        bytes_max: int,
        parse: Callable[[bytes, int], _Result],
        first: int,
    ) -> _Result:
        """A file of a tile; once the full tile is there, a log may have removed the partial one that was asked for."""
        for available in dict.fromkeys((width, TILE)):
            path = path_of(available)
            try:
                raw = self._source.fetch(path, bytes_max)
                if raw is not None:
                    return parse(raw, available)
            except (FormatError, LimitError) as error:
                raise VerificationError(
                    f"{path} is malformed: {error.message}", index=first, remedy=_ASK_AGAIN
                ) from error
        raise VerificationError(
            f"{path_of(width)} is missing, though the checkpoint covers it.", index=first, remedy=_ASK_AGAIN
        )


_ASK_AGAIN = "The copy is incomplete or damaged: fetch it again, or from another mirror."


def _altered(index: int) -> VerificationError:
    return VerificationError(
        f"Entry {index} does not hash to its leaf in the tree.",
        index=index,
        remedy="It was altered after it was logged; another mirror may have the true one.",
    )


def _ahead(call: Callable[[_Item], _Result], items: Iterable[_Item], parallel: int) -> Iterator[_Result]:
    """The results of `call` in order, the next few of them being worked on already."""
    if parallel <= 1:
        yield from map(call, items)
        return
    with ThreadPoolExecutor(parallel, thread_name_prefix="licet-fetch") as pool:
        waiting: deque[Future[_Result]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(call, item))
                if len(waiting) >= parallel:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
