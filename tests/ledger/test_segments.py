"""Exposure segments: there and back, what covers what, and damage that is noticed."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from licet.ledger import segments
from licet.ledger.cells import merged, total
from licet.ledger.errors import CorruptError
from licet.ledger.norms import LIMB_BITS
from licet.ledger.segments import Extent, Segment

_U63 = st.integers(0, 2**62)


@st.composite
def _segments(draw):
    rows, blocks = draw(st.integers(0, 6)), draw(st.integers(1, 5))
    refs = draw(st.lists(st.integers(0, 2**40 - 1), min_size=rows, max_size=rows, unique=True))
    whole = arrays.arrays(np.int64, (rows, blocks, 3), elements=st.integers(0, 2**40 - 1) | st.just(0))
    steps = arrays.arrays(np.int64, (rows, blocks, 2), elements=st.integers(-1, 2**32 - 1))
    extent = [draw(_U63) for _ in range(5)]
    return Segment(*extent, np.array(refs, np.int64), draw(whole), draw(steps))


def _same(a: Segment, b: Segment) -> bool:
    arrays_same = all(np.array_equal(getattr(a, n), getattr(b, n)) for n in ("refs", "cells", "steps"))
    return a.extent == b.extent and arrays_same


@given(_segments())
def test_segments_come_back_as_they_went(segment):
    value = segment.pack()
    back = Segment.unpack(value)
    assert _same(back, segment)
    assert back.pack() == value


@given(st.builds(Extent, _U63, _U63, _U63, _U63, _U63))
def test_extents_come_back_as_they_went(extent):
    assert Extent.unpack(extent.pack()) == extent


@settings(max_examples=40)
@given(_segments(), st.data())
def test_cut_and_padded_segments_are_refused(segment, data):
    value = segment.pack()
    end = data.draw(st.integers(0, len(value) - 1))
    for bad in (value[:end], value + b"\x00"):
        with pytest.raises(CorruptError) as caught:
            Segment.unpack(bad)
        assert "fsck" in caught.value.remedy


@pytest.mark.parametrize(
    ("rows", "blocks"), [(2**32 - 1, 2**32 - 1), (2**27, 1), (1, 2**27), (2**14, 2**14), (1000, 2**15), (3, 2**16)]
)
def test_a_claimed_size_costs_nothing(rows, blocks):
    """Columns of zeros take one byte, whatever they claim to hold."""
    value = bytes(40) + struct.pack("<II", rows, blocks) + bytes(6)
    with pytest.raises(CorruptError):
        Segment.unpack(value)


@pytest.mark.parametrize("value", [b"", bytes(39), bytes(41)])
def test_damaged_extents_are_refused(value):
    with pytest.raises(CorruptError):
        Extent.unpack(value)


# ---- covering --------------------------------------------------------------------------------------------------


@given(st.integers(0, 5000), st.integers(0, 5000))
def test_a_cover_is_exact_and_made_of_what_exists(a, b):
    first, last = sorted((a, b))
    at = first
    for level, number in segments.cover(first, last):
        width = 8**level
        assert number * width == at, "in order, without hole or overlap"
        at += width
        assert at <= last, "a segment of a level exists once all its parts do"
    assert at == last


@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_a_cover_is_small(a, b):
    first, last = sorted((a, b))
    levels = max(1, (last - first).bit_length() // segments.FANOUT_BITS + 1)
    assert sum(1 for _ in segments.cover(first, last)) <= 2 * 7 * levels


# ---- keys ------------------------------------------------------------------------------------------------------


def test_keys_sort_by_run_then_level_then_number():
    keys = [segments.segment_key(run, level, n) for run in (1, 300) for level in (0, 1) for n in (0, 1, 256)]
    assert sorted(keys) == keys
    for run in (1, 300):
        extents = [segments.extent_key(run, number) for number in (0, 1, 256)]
        assert sorted(extents) == extents
        assert all(segments.segment_key(run, 9, 2**32 - 1) < key < segments.run_prefix(run + 1) for key in extents)


# ---- postings --------------------------------------------------------------------------------------------------

_PLACES = st.lists(
    st.tuples(st.integers(0, 5000) | st.integers(2**39, 2**39 + 3), st.integers(0, 10**6)), min_size=1, max_size=60
)


@given(_PLACES, st.integers(0, 2**40 - 1), st.integers(0, 2**32 - 2), st.integers(0, 2**30))
def test_postings_find_every_event_of_every_example(places, run, number, start):
    examples = np.array([example for example, _ in places], np.int64)
    indices = np.array([start + offset for _, offset in places], np.int64)
    stored = dict(segments.postings(run, number, start, examples, indices))
    assert len(stored) == len({example >> segments.BUCKET_BITS for example, _ in places})
    for example in {example for example, _ in places} | {1, 4999}:
        value = stored.get(segments.posting_key(example, run, number))
        found = [] if value is None else segments.unpack_posting(value, example).tolist()
        assert found == sorted(start + offset for known, offset in places if known == example)


def test_posting_keys_sort_by_bucket_then_run_then_segment():
    low, high = (segments.posting_key(5, 7, n) for n in (0, 1))
    assert low < high < segments.posting_key(5, 8, 0) < segments.posting_key(5 + (1 << segments.BUCKET_BITS), 7, 0)
    assert segments.posting_key(5, 7, 3) == segments.posting_key(6, 7, 3), "one bucket"


@pytest.mark.parametrize("value", [b"", bytes(11), bytes(12), struct.pack("<QI", 0, 2**32 - 1) + bytes(2)])
def test_damaged_postings_are_refused(value):
    with pytest.raises(CorruptError) as caught:
        segments.unpack_posting(value, 5)
    assert "fsck" in caught.value.remedy


# ---- merging ---------------------------------------------------------------------------------------------------


def _sums(parts: list[Segment]) -> dict:
    """(ref, block) → [sum, count, first, last] in plain Python, where there is anything."""
    found: dict = {}
    for part in parts:
        for r, ref in enumerate(part.refs.tolist()):
            for b in range(part.cells.shape[1]):
                hi, lo, count = (int(v) for v in part.cells[r, b])
                if count:
                    first, last = part.steps[r, b].tolist()
                    cell = found.setdefault((ref, b), [0, 0, first, last])
                    cell[0] += total(hi, lo)
                    cell[1] += count
                    cell[2:] = min(cell[2], first), max(cell[3], last)
    return found


@given(st.lists(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2**75)), max_size=8), min_size=1, max_size=8))
def test_merging_is_plain_addition(parts):
    made = []
    for number, rows in enumerate(parts):
        refs = sorted({ref for ref, _ in rows})
        cells, steps = np.zeros((len(refs), 1, 3), np.int64), np.full((len(refs), 1, 2), -1, np.int64)
        for at, ref in enumerate(refs):
            amount = sum(value for known, value in rows if known == ref)
            cells[at, 0] = amount >> LIMB_BITS, amount & (1 << LIMB_BITS) - 1, 1
            steps[at, 0] = 10 * number, 10 * number + 5
        made.append(
            Segment(number, number + 1, 10 * number, 10 * number + 5, 1, np.array(refs, np.int64), cells, steps)
        )
    whole = merged(made)
    assert (whole.start, whole.end, whole.events) == (0, len(made), len(made))
    assert (whole.first_step, whole.last_step) == (0, 10 * len(made) - 5)
    assert _sums([whole]) == _sums(made)
