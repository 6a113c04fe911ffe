"""The C2SP tlog-tiles layout: which static files a log of some size consists of, and reading a log from them.

`TileView` believes nothing that it reads. The tiles at the right edge must hash to the checkpoint's root, every other
hash tile to the hash above it, so a hash that is handed out is one the checkpoint stands for. What the checkpoint is
worth, its signatures say: whoever opens a view asks them (`note.open_checkpoint`, `verify.py`, `mirror.py`).
"""

from __future__ import annotations

import functools
import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from licet.ledger import tree
from licet.ledger.chunks import Chunk
from licet.ledger.codec import ENTRY_BYTES_MAX, decode
from licet.ledger.errors import FormatError, NotFoundError, VerificationError
from licet.ledger.note import NOTE_BYTES_MAX, Checkpoint, split_note
from licet.ledger.records import Opaque, Record
from licet.ledger.sources import TileSource
from licet.ledger.tree import TILE, TILE_BITS, Hashes

CHECKPOINT = "checkpoint"
HASH_BYTES = 32
TILE_BYTES = TILE * HASH_BYTES
BUNDLE_BYTES_MAX = TILE * (2 + ENTRY_BYTES_MAX)
_TILES_KEPT = 512

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


# -- the layout


def tile_path(level: int, tile: int, width: int = TILE) -> str:
    """Where the first `width` hashes of a tile are served."""
    return f"tile/{level}/{_number(tile)}{_partial(width)}"


def bundle_path(bundle: int, width: int = TILE) -> str:
    """Where the first `width` entries of a bundle are served."""
    return f"tile/entries/{_number(bundle)}{_partial(width)}"


def width_of(size: int, level: int, tile: int) -> int:
    """How many hashes a tile has in a log of `size` entries; nothing is served for 0."""
    return max(0, min(TILE, (size >> TILE_BITS * level) - (tile << TILE_BITS)))


def encode_bundle(chunk: Chunk) -> bytes:
    """The entries of a chunk, each after its length."""
    ends = chunk.offsets.tolist()
    parts = []
    for start, end in zip(ends[:-1], ends[1:], strict=True):
        parts += [struct.pack(">H", end - start), chunk.data[start:end]]
    return b"".join(parts)


def parse_bundle(raw: bytes, first: int, width: int) -> Chunk:
    """The `width` entries in a bundle's file; every byte must be accounted for."""
    parts = []
    offsets = np.zeros(width + 1, np.int64)
    at = total = 0
    for i in range(width):
        if at + 2 > len(raw):
            raise FormatError(f"The bundle of entries at {first} ends after {i} of its {width} entries.")
        length = raw[at] << 8 | raw[at + 1]
        parts.append(raw[at + 2 : at + 2 + length])
        at += 2 + length
        total += length
        offsets[i + 1] = total
    if at != len(raw):
        what = "is cut off in its last entry" if at > len(raw) else "goes on after its last entry"
        raise FormatError(f"The bundle of entries at {first} {what}.")
    return Chunk(first, b"".join(parts), offsets)


def parse_tile(raw: bytes, width: int) -> Hashes:
    """The `width` hashes in a tile's file."""
    if len(raw) != width * HASH_BYTES:
        raise FormatError(f"A tile of {width} hashes has {width * HASH_BYTES} bytes, not {len(raw)}.")
    return np.frombuffer(raw, np.uint8).reshape(width, HASH_BYTES)


def bundled(chunks: Iterable[Chunk]) -> Iterator[Chunk]:
    """The same consecutive entries, cut where bundles are cut."""
    held: list[Chunk] = []
    for chunk in chunks:
        start = chunk.first
        while start < chunk.end:
            stop = min(chunk.end, (start | TILE - 1) + 1)
            held.append(chunk.cut(start, stop))
            if stop % TILE == 0:
                yield _joined(held)
                held = []
            start = stop
    if held:
        yield _joined(held)


def _number(tile: int) -> str:
    text = f"{tile % 1000:03d}"
    while tile := tile // 1000:
        text = f"x{tile % 1000:03d}/{text}"
    return text


def _partial(width: int) -> str:
    return "" if width == TILE else f".p/{width}"


def _joined(held: list[Chunk]) -> Chunk:
    if len(held) == 1:
        return held[0]
    lengths = np.concatenate([np.diff(chunk.offsets) for chunk in held])
    offsets: NDArray[np.int64] = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return Chunk(held[0].first, b"".join(chunk.data for chunk in held), offsets)


# -- reading


def fetch_checkpoint(source: TileSource) -> bytes | None:
    """The signed note that a tile log shows, not verified; None where there is no log."""
    return source.fetch(CHECKPOINT, NOTE_BYTES_MAX)


class TileView:
    """A log as of one checkpoint, read from tiles. It answers what `view.View` answers of a database.

    Entries come as they lie in the bundles; `check` holds them against the tree.
    """

    def __init__(self, source: TileSource, note: bytes | None = None) -> None:
        note = fetch_checkpoint(source) if note is None else note
        if note is None:
            raise NotFoundError(
                f"There is no tile log at {source}.",
                remedy="Name the prefix under which `checkpoint` and `tile/` are found.",
            )
        self.note = note
        self.checkpoint = Checkpoint.parse(split_note(note)[0])
        self._source = source
        self._tile = functools.lru_cache(maxsize=_TILES_KEPT)(self._load_tile)
        self._bundle = functools.lru_cache(maxsize=1)(self._load_bundle)

    @property
    def origin(self) -> str:
        return self.checkpoint.origin

    @property
    def size(self) -> int:
        return self.checkpoint.size

    def latest_checkpoint(self) -> bytes | None:
        return self.note

    # -- entries

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[Chunk]:
        """The entries [start, stop) bundle by bundle, not yet held against the tree."""
        for chunk, _ in self._bundles(start, stop, with_leaves=False):
            yield chunk

    def checked_chunks(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[Chunk, Hashes]]:
        """The entries [start, stop) bundle by bundle with their leaf hashes, all of them the checkpoint's."""
        for chunk, leaf_tile in self._bundles(start, stop, with_leaves=True):
            assert leaf_tile is not None
            leaves = tree.leaf_hashes(chunk.data, chunk.offsets)
            tile = chunk.first >> TILE_BITS
            self._authenticate(0, tile, leaf_tile)
            at = chunk.first - (tile << TILE_BITS)
            _compare(leaves, leaf_tile[at : at + len(leaves)], chunk.first)
            yield chunk, leaves

    def check(self, chunk: Chunk) -> None:
        """Raise unless these entries are the ones in the tree; the error names the first that is not."""
        leaves = tree.leaf_hashes(chunk.data, chunk.offsets)
        _compare(leaves, self.hashes(0, chunk.first, len(leaves)), chunk.first)

    def entry(self, index: int) -> bytes:
        """The bytes of one entry, held against the tree."""
        if not 0 <= index < self.size:
            raise NotFoundError(f"There is no entry {index}: the log {self.origin} has {self.size}.")
        return self._bundle(index >> TILE_BITS).entry(index)

    def record(self, index: int) -> Record | Opaque:
        return decode(self.entry(index))

    def _load_bundle(self, bundle: int) -> Chunk:
        chunk = self._fetch_bundle(bundle)
        self.check(chunk)
        return chunk

    def _bundles(self, start: int, stop: int | None, *, with_leaves: bool) -> Iterator[tuple[Chunk, Hashes | None]]:
        stop = self.size if stop is None else min(stop, self.size)
        if start >= stop:
            return

        def load(bundle: int) -> tuple[Chunk, Hashes | None]:
            chunk = self._fetch_bundle(bundle)
            return chunk, self._fetch_tile(0, bundle) if with_leaves else None

        bundles = range(start >> TILE_BITS, (stop - 1 >> TILE_BITS) + 1)
        for chunk, leaves in _ahead(load, bundles, self._source.parallel):
            cut = chunk.cut(start, stop)
            yield cut, leaves

    # -- the tree

    def hashes(self, level: int, start: int, count: int) -> Hashes:
        """Finished nodes of a tile level, each of them vouched for by the checkpoint."""
        if not count:
            return np.empty((0, HASH_BYTES), np.uint8)
        if start < 0 or start + count > self.size >> TILE_BITS * level:
            raise NotFoundError(f"The tree of {self.size} entries has no nodes up to {start + count} at level {level}.")
        rows = []
        while count:
            tile, at = divmod(start, TILE)
            part = min(count, TILE - at)
            rows.append(self._tile(level, tile)[at : at + part])
            start, count = start + part, count - part
        return rows[0] if len(rows) == 1 else np.concatenate(rows)

    def root_at(self, size: int) -> bytes:
        """The root that the log had at an earlier size."""
        self._check_size(size)
        return tree.root_at(size, self)

    def prove_inclusion(self, index: int, size: int | None = None) -> list[bytes]:
        size = self.size if size is None else size
        self._check_size(size)
        return tree.prove_inclusion(index, size, self)

    def prove_consistency(self, size1: int, size2: int | None = None) -> list[bytes]:
        size2 = self.size if size2 is None else size2
        self._check_size(size2)
        return tree.prove_consistency(size1, size2, self)

    def _check_size(self, size: int) -> None:
        if size > self.size:
            raise NotFoundError(f"The log {self.origin} has {self.size} entries here, not {size}.")

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
            tail = self._fetch_tile(level, nodes >> TILE_BITS) if nodes % TILE else _NO_HASHES
            tails.append(tail)
            if nodes < TILE:
                break
            level += 1
        if tree.Edge(self.size, tails).root() != self.checkpoint.root:
            raise VerificationError(
                f"The last tiles do not hash to the root of the checkpoint of {self.size} entries.",
                remedy="They were altered, or are not this checkpoint's: fetch them again, or from another mirror.",
            )
        return tails

    def _load_tile(self, level: int, tile: int) -> Hashes:
        hashes = self._edge[level] if width_of(self.size, level, tile) < TILE else self._fetch_tile(level, tile)
        self._authenticate(level, tile, hashes)
        return hashes

    def _authenticate(self, level: int, tile: int, hashes: Hashes) -> None:
        """Raise unless the hashes of a tile are the checkpoint's: the node above a full tile says so."""
        if len(hashes) < TILE:
            good = bool((hashes == self._edge[level]).all())
        else:
            good = tree.root_of(hashes) == self.hashes(level + 1, tile, 1).tobytes()
        if not good:
            first = tile << TILE_BITS * (level + 1)
            raise VerificationError(
                f"The tile {tile_path(level, tile, len(hashes))} does not hash to the node above it.",
                index=first,
                remedy="It was altered or is another log's: fetch it again, or from another mirror.",
            )

    # -- files

    def _fetch_tile(self, level: int, tile: int) -> Hashes:
        def parse(raw: bytes, width: int) -> Hashes:
            return parse_tile(raw, width)

        width = width_of(self.size, level, tile)
        whole = self._fetch(lambda w: tile_path(level, tile, w), width, TILE_BYTES, parse)
        return whole[:width]

    def _fetch_bundle(self, bundle: int) -> Chunk:
        first = bundle << TILE_BITS

        def parse(raw: bytes, width: int) -> Chunk:
            return parse_bundle(raw, first, width)

        width = width_of(self.size, 0, bundle)
        whole = self._fetch(lambda w: bundle_path(bundle, w), width, BUNDLE_BYTES_MAX, parse)
        return whole.cut(first, first + width)

    def _fetch(
        self, path_of: Callable[[int], str], width: int, bytes_max: int, parse: Callable[[bytes, int], _Result]
    ) -> _Result:
        """A tile's file; once the full tile is there, a log may have removed the partial one that was asked for."""
        for available in dict.fromkeys((width, TILE)):
            raw = self._source.fetch(path_of(available), bytes_max)
            if raw is not None:
                return parse(raw, available)
        raise VerificationError(
            f"{path_of(width)} is missing, though the checkpoint covers it.",
            remedy="The log withholds it, or the copy is incomplete: ask again later, or ask another mirror.",
        )


_NO_HASHES: Hashes = np.empty((0, HASH_BYTES), np.uint8)


def _compare(leaves: Hashes, expected: Hashes, first: int) -> None:
    bad = np.flatnonzero((leaves != expected).any(axis=1))
    if len(bad):
        index = first + int(bad[0])
        raise VerificationError(
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
