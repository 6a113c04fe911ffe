"""The layout of a tile log, held against the specification's own examples, and parsers that refuse what is not one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from licet.ledger.chunks import Chunk
from licet.ledger.errors import FormatError
from licet.ledger.tiles import bundle_path, bundled, encode_bundle, parse_bundle, parse_tile, tile_path, width_of

ENTRIES = st.lists(st.binary(max_size=40), min_size=1, max_size=300)


def _chunk(entries, first=0):
    return Chunk(first, b"".join(entries), np.cumsum([0, *map(len, entries)]))


def _list(chunk):
    return [chunk.entry(i) for i in range(chunk.first, chunk.end)]


@pytest.mark.parametrize(
    ("raw", "width"),
    [
        (b"", 1),
        (b"\x00", 1),
        (b"\x00\x02a", 1),
        (b"\x00\x01a", 2),
        (b"\x00\x01a\x00", 1),
        (b"\x00\x01a\x00\x00", 1),
        (b"\xff\xff" + bytes(65_534), 1),
        (b"\x00\x01a" * 255 + b"\x00", 256),
    ],
)
def test_truncated_or_overlong_bundle(raw, width):
    with pytest.raises(FormatError):
        parse_bundle(raw, 0, width)


@pytest.mark.parametrize(
    ("length", "width"), [(0, 1), (31, 1), (33, 1), (64, 1), (8191, 256), (8193, 256), (8192, 255)]
)
def test_truncated_or_overlong_tile(length, width):
    with pytest.raises(FormatError):
        parse_tile(bytes(length), width)


@given(st.binary(max_size=400), st.integers(1, 256))
def test_any_bytes_are_a_bundle_or_refused(raw, width):
    try:
        chunk = parse_bundle(raw, 256, width)
    except FormatError:
        return
    assert encode_bundle(chunk) == raw
    assert (chunk.first, chunk.end) == (256, 256 + width)


@given(ENTRIES)
def test_bundle_round_trip(entries):
    assert _list(parse_bundle(encode_bundle(_chunk(entries)), 0, len(entries))) == entries


def test_largest_entry():
    entry = bytes(65_535)
    assert _list(parse_bundle(encode_bundle(_chunk([b"", entry])), 0, 2)) == [b"", entry]


@given(ENTRIES, st.integers(0, 600), st.lists(st.integers(1, 299), max_size=6))
def test_bundled_keeps_the_entries_and_cuts_at_256(entries, first, cuts):
    whole = _chunk(entries, first)
    edges = sorted({0, len(entries), *(c for c in cuts if c < len(entries))})
    pieces = [whole.cut(first + a, first + b) for a, b in itertools.pairwise(edges)]
    bundles = list(bundled(pieces))
    assert [entry for bundle in bundles for entry in _list(bundle)] == entries
    assert all(b.first % 256 == 0 for b in bundles[1:])
    assert all(b.end % 256 == 0 for b in bundles[:-1])
    assert len({b.first // 256 for b in bundles}) == len(bundles)


def test_paths_of_the_specification():
    assert tile_path(0, 1_234_067) == "tile/0/x001/x234/067"
    assert tile_path(3, 0, 17) == "tile/3/000.p/17"
    assert bundle_path(999) == "tile/entries/999"
    assert bundle_path(1000, 255) == "tile/entries/x001/000.p/255"
    assert tile_path(7, 2**55) == "tile/7/x036/x028/x797/x018/x963/968"


def test_widths_of_the_specification():
    """A log of 70,000 entries: 273 full tiles and one of 112; one full and one of 17; one of 1."""
    assert [width_of(70_000, 0, tile) for tile in (0, 272, 273, 274)] == [256, 256, 112, 0]
    assert [width_of(70_000, 1, tile) for tile in (0, 1, 2)] == [256, 17, 0]
    assert [width_of(70_000, 2, tile) for tile in (0, 1)] == [1, 0]
    assert [width_of(256, level, 0) for level in (0, 1, 2)] == [256, 1, 0]
    assert [width_of(0, level, 0) for level in (0, 1)] == [0, 0]
