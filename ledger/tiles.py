"""The C2SP tlog-tiles layout: which static files a log of some size consists of, and what their bytes are.

`tileview.py` reads a log from such files, `export.py` writes them.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterable, Iterator

import numpy as np

from licet.ledger.chunks import Chunk, concatenated
from licet.ledger.codec import ENTRY_BYTES_MAX
from licet.ledger.errors import FormatError
from licet.ledger.tree import TILE, TILE_BITS, Hashes

CHECKPOINT = "checkpoint"
HASH_BYTES = 32
TILE_BYTES = TILE * HASH_BYTES
BUNDLE_BYTES_MAX = TILE * (2 + ENTRY_BYTES_MAX)


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
    parts = []
    for start, end in itertools.pairwise(chunk.offsets.tolist()):
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
                yield concatenated(held)
                held = []
            start = stop
    if held:
        yield concatenated(held)


def _number(tile: int) -> str:
    text = f"{tile % 1000:03d}"
    while tile := tile // 1000:
        text = f"x{tile % 1000:03d}/{text}"
    return text


def _partial(width: int) -> str:
    return "" if width == TILE else f".p/{width}"
