"""Chunks: entries laid end to end, and values that are not chunks."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from licet.ledger import chunks
from licet.ledger.chunks import Chunk
from licet.ledger.errors import CorruptError
from licet.ledger.merkle import leaf_hash

_ENTRIES = st.lists(st.binary(max_size=30), min_size=1, max_size=50)


def _joined(entries):
    return b"".join(entries), np.array([len(entry) for entry in entries], np.int64)


def _packed(entries: list[bytes]) -> bytes:
    return chunks.pack(*_joined(entries), _leaves(entries))


def _leaves(entries: list[bytes]) -> np.ndarray:
    return np.array([list(leaf_hash(entry)) for entry in entries], np.uint8).reshape(-1, 32)


def _entries(chunk: Chunk) -> list[bytes]:
    return [chunk.entry(index) for index in range(chunk.first, chunk.end)]


@given(st.integers(0, 2**40), _ENTRIES)
def test_entries_come_back_as_they_went(first, entries):
    chunk = chunks.unpack(chunks.key(first), _packed(entries))
    assert (chunk.first, chunk.end) == (first, first + len(entries))
    assert _entries(chunk) == entries
    assert np.array_equal(chunk.marks, _leaves(entries)[:, : chunks.MARK_BYTES])


@given(_ENTRIES, st.data())
def test_a_cut_holds_the_entries_between(entries, data):
    chunk = chunks.unpack(chunks.key(100), _packed(entries))
    start = data.draw(st.integers(90, chunk.end - 1))
    stop = data.draw(st.integers(max(start, 100) + 1, chunk.end + 10))
    cut = chunk.cut(start, stop)
    assert cut.offsets[0] == 0
    assert cut.offsets[-1] == len(cut.data)
    assert (cut.first, cut.end) == (max(start, 100), min(stop, chunk.end))
    assert _entries(cut) == entries[cut.first - 100 : cut.end - 100]
    assert np.array_equal(cut.marks, _leaves(_entries(cut))[:, : chunks.MARK_BYTES])


def test_keys_sort_as_the_indices_do():
    indices = [0, 1, 255, 256, 65_535, 65_536, 2**32, 2**40]
    assert sorted(map(chunks.key, indices)) == [chunks.key(index) for index in indices]


@given(st.integers(0, 2**40), st.lists(st.integers(0, 400), max_size=30), st.integers(1, 8), st.integers(1, 500))
def test_a_large_commit_is_split_and_loses_nothing(first, lengths, entries_max, bytes_max):
    entries = [bytes([i % 256]) * length for i, length in enumerate(lengths)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "ENTRIES_MAX", entries_max)
        patch.setattr(chunks, "BYTES_MAX", bytes_max)
        pieces = [chunks.unpack(*piece) for piece in chunks.split(first, *_joined(entries), _leaves(entries))]
    assert [entry for piece in pieces for entry in _entries(piece)] == entries
    expected = first
    for piece in pieces:
        assert piece.first == expected
        expected = piece.end
        count = piece.end - piece.first
        assert 1 <= count <= entries_max
        assert len(piece.data) <= bytes_max or count == 1


def test_the_limits_as_they_are():
    data, lengths = _joined([b"x" * 60_000] * 40 + [b""] * 3000)
    pieces = [chunks.unpack(*piece) for piece in chunks.split(5, data, lengths, np.zeros((3040, 32), np.uint8))]
    assert all(piece.end - piece.first <= chunks.ENTRIES_MAX for piece in pieces)
    assert all(len(piece.data) <= chunks.BYTES_MAX for piece in pieces)
    assert sum(piece.end - piece.first for piece in pieces) == 3040


def test_neighbours_are_joined_with_their_marks():
    entries = [b"one", b"", b"three", b"four"]
    whole = chunks.unpack(chunks.key(3), _packed(entries))
    parts = [whole.cut(3, 4), whole.cut(4, 6), whole.cut(6, 7)]
    joined = chunks.concatenated(parts)
    assert (joined.first, _entries(joined)) == (3, entries)
    assert np.array_equal(joined.marks, whole.marks)
    assert chunks.concatenated([parts[0], parts[1]._replace(marks=None)]).marks is None


def test_no_entries_make_no_chunk():
    assert chunks.split(7, b"", np.empty(0, np.int64), np.empty((0, 32), np.uint8)) == []


def _spoiled() -> dict[str, tuple[bytes, bytes]]:
    key, good = chunks.key(7), _packed([b"one", b"", b"three"])
    return {
        "empty": (key, b""),
        "no entries": (key, struct.pack("<I", 0)),
        "cut in its count": (key, good[:3]),
        "cut in its lengths": (key, good[:8]),
        "cut in its marks": (key, good[:15]),
        "cut in its data": (key, good[:-1]),
        "a byte too many": (key, good + b"x"),
        "another length": (key, good[:4] + b"\x02\x00" + good[6:]),
        "another count": (key, struct.pack("<I", 2) + good[4:]),
        "too many entries": (key, _packed([b""] * (chunks.ENTRIES_MAX + 1))),
        "a count beyond everything": (key, b"\xff\xff\xff\xff" + good[4:]),
        "a short key": (key[1:], good),
        "a long key": (key + b"\x00", good),
        "no key": (b"", good),
    }


@pytest.mark.parametrize("what", _spoiled())
def test_damaged_chunks_are_refused(what):
    with pytest.raises(CorruptError) as caught:
        chunks.unpack(*_spoiled()[what])
    assert caught.value.remedy
