"""The compiled loops against the few lines of plain Python that each stands for."""

from __future__ import annotations

import hashlib
import os
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from licet.ledger import codec, events, kernels, norms
from licet.ledger.chunks import Chunk
from licet.ledger.errors import FormatError, VerificationError
from licet.ledger.events import Events, ProfileTable
from licet.ledger.records import GradientApplied
from tests.ledger.trees import sha256


def _hashed(messages: list[bytes]) -> list[bytes]:
    offsets = np.cumsum([0, *map(len, messages)])
    data = np.frombuffer(b"".join(messages), np.uint8)
    return [row.tobytes() for row in kernels.leaf_hashes(data, offsets)]


def _expected(messages: list[bytes]) -> list[bytes]:
    return [hashlib.sha256(b"\x00" + message).digest() for message in messages]


# ---- SHA-256 ---------------------------------------------------------------------------------------------------


def test_every_length_up_to_300():
    messages = [os.urandom(length) for length in range(301)]
    assert _hashed(messages) == _expected(messages)


def test_every_length_alone_and_beside_longer_ones():
    """A lane that is done early must keep its digest while its neighbours go on."""
    for length in range(0, 200, 3):
        messages = [os.urandom(length), os.urandom(5000), b""]
        assert _hashed(messages) == _expected(messages)


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 33])
def test_full_and_partly_filled_lanes(count):
    messages = [os.urandom(random.Random(count + i).randrange(300)) for i in range(count)]
    assert _hashed(messages) == _expected(messages)


def test_large_messages():
    messages = [os.urandom(length) for length in (65_535, 1 << 20, 0, (1 << 20) - 9)]
    assert _hashed(messages) == _expected(messages)


@given(st.lists(st.binary(max_size=400), min_size=1, max_size=40))
def test_any_messages(messages):
    assert _hashed(messages) == _expected(messages)


def test_the_root_of_any_number_of_nodes():
    rows = np.frombuffer(os.urandom(32 * 600), np.uint8).reshape(-1, 32)
    for count in [*range(1, 70), 127, 128, 129, 255, 256, 257, 600]:
        before = rows[:count].copy()
        assert kernels.tree_root(rows[:count]).tobytes() == _naive_root([row.tobytes() for row in before])
        assert np.array_equal(rows[:count], before), "the input is left as it was"


def _naive_root(nodes: list[bytes]) -> bytes:
    while len(nodes) > 1:
        pairs = [nodes[i : i + 2] for i in range(0, len(nodes), 2)]
        nodes = [sha256(b"\x01" + pair[0] + pair[1]) if len(pair) == 2 else pair[0] for pair in pairs]
    return nodes[0]


# ---- events ----------------------------------------------------------------------------------------------------

_LEVEL = st.integers(-norms.LEVEL_MAX, norms.LEVEL_MAX)
_CODE = st.integers(0, 0xFFFF)


@st.composite
def _batches(draw, events_max: int = 12):
    """Some events and the profiles of theirs: profile `100 + i` has the levels of row i."""
    blocks = draw(st.integers(1, 9))
    profiles = draw(st.lists(st.lists(_LEVEL | st.just(0), min_size=blocks, max_size=blocks), min_size=1, max_size=4))
    count = draw(st.integers(1, events_max))
    levels = {100 + i: np.array(row, np.int16) for i, row in enumerate(profiles)}

    def column(limit: int) -> list[int]:
        edges = st.sampled_from([0, 1, limit - 1])
        return draw(st.lists(edges | st.integers(0, limit - 1), min_size=count, max_size=count))

    columns = np.array([column(limit) for limit in (2**16, 2**32, 2**16, 2**16, 2**16)], np.int64).T.copy()
    profile = draw(st.lists(st.sampled_from(sorted(levels)), min_size=count, max_size=count))
    refs = np.array([column(2**40), column(2**40), profile], np.int64).T.copy()
    codes = draw(st.lists(st.lists(_CODE, min_size=blocks, max_size=blocks), min_size=count, max_size=count))
    return Events(columns, refs, np.array(codes, np.uint16)), levels


def _records(batch: Events, levels: dict[int, np.ndarray]) -> list[GradientApplied]:
    """The events one by one, as records."""
    found = []
    for i in range(len(batch)):
        flags, step, epoch, microbatch, slot = batch.columns[i].tolist()
        example, attestation, profile = batch.refs[i].tolist()
        kept = tuple(batch.codes[i][levels[profile] != 0].tolist())
        found.append(GradientApplied(flags, step, epoch, microbatch, slot, example, attestation, profile, kept))
    return found


def _encoded(batch: Events, levels: dict[int, np.ndarray]) -> Chunk:
    data, lengths = events.encode(batch, ProfileTable.of(batch.profile, levels.__getitem__))
    return Chunk(40, data, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))


@given(_batches())
def test_events_are_encoded_as_the_codec_does(case):
    batch, levels = case
    chunk = _encoded(batch, levels)
    entries = [chunk.entry(chunk.first + i) for i in range(len(batch))]
    assert entries == [codec.encode(record) for record in _records(batch, levels)]
    assert [codec.decode(entry) for entry in entries] == _records(batch, levels)


@given(_batches())
def test_events_come_back_as_they_went(case):
    batch, levels = case
    chunk = _encoded(batch, levels)
    which = events.find(chunk)
    assert which.tolist() == list(range(len(batch)))
    back, profiles = events.decode(chunk, which, levels.__getitem__)
    assert np.array_equal(back.columns, batch.columns)
    assert np.array_equal(back.refs, batch.refs)
    reached = profiles.levels[profiles.rows] != 0
    assert np.array_equal(back.codes, np.where(reached, batch.codes, 0))


@given(_batches(), st.data())
def test_some_of_the_events_can_be_read_alone(case, data):
    batch, levels = case
    which = np.array(sorted(data.draw(st.sets(st.integers(0, len(batch) - 1), min_size=1))), np.int64)
    back, _ = events.decode(_encoded(batch, levels), which, levels.__getitem__)
    assert np.array_equal(back.refs, batch.refs[which])


def _two_block_chunk(entry: bytes) -> Chunk:
    return Chunk(7, entry, np.array([0, len(entry)], np.int64))


@pytest.mark.parametrize("kept", [0, 1, 3, 40])
def test_an_event_with_other_norms_than_its_profile_asks_for_is_refused(kept):
    entry = codec.encode(GradientApplied(0, 1, 0, 0, 0, 1, 2, 100, (1,) * kept))
    with pytest.raises(VerificationError) as caught:
        events.decode(_two_block_chunk(entry), np.array([0]), lambda _: np.array([15, 15], np.int16))
    assert caught.value.index == 7


def test_an_event_cut_in_its_header_is_refused():
    entry = codec.encode(GradientApplied(0, 1, 0, 0, 0, 1, 2, 100, ()))[:-1]
    with pytest.raises(VerificationError) as caught:
        events.decode(_two_block_chunk(entry), np.array([0]), lambda _: np.array([0, 0], np.int16))
    assert caught.value.index == 7


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("step", -1),
        ("step", 2**32),
        ("flags", 2**16),
        ("epoch", 2**16),
        ("microbatch", 2**16),
        ("slot", -1),
        ("example", 2**40),
        ("attestation", -1),
        ("profile", 2**40),
        ("step", 0.5),
        ("slot", [1, 2]),
        ("norms_raw", [[-0.5]]),
        ("norms_raw", [0.5]),
    ],
)
def test_events_that_cannot_be_written_are_refused(field, value):
    good = {"example": 1, "attestation": 2, "profile": 3, "step": 4, "slot": 5, "norms_raw": [[1.0]]}
    assert len(Events.of(**good)) == 1
    with pytest.raises(FormatError):
        Events.of(**{**good, field: value})


def test_a_norm_that_is_no_number_is_recorded_as_overflow():
    batch = Events.of(example=1, attestation=2, profile=3, step=0, slot=0, norms_raw=[[np.nan, np.inf, 1.0, 0.0]])
    assert batch.codes.tolist() == [[norms.NOT_FINITE, norms.NOT_FINITE, norms.encode([1.0])[0], 0]]


def test_profiles_of_different_widths_are_not_mixed():
    with pytest.raises(FormatError):
        ProfileTable.of(np.array([1, 2]), lambda ref: np.zeros(ref, np.int16))


# ---- exposure sums ---------------------------------------------------------------------------------------------


def _plain_fold(batch: Events, levels: dict[int, np.ndarray]) -> dict:
    """(attestation, block) → [sum, count, first step, last step], in Python's own integers."""
    sums: dict[tuple[int, int], list[int]] = {}
    for i in range(len(batch)):
        for b, level in enumerate(levels[int(batch.profile[i])].tolist()):
            if level:
                step = int(batch.step[i])
                cell = sums.setdefault((int(batch.attestation[i]), b), [0, 0, step, step])
                cell[0] += abs(level) * norms.units(int(batch.codes[i, b]))
                cell[1] += 1
                cell[2:] = min(cell[2], step), max(cell[3], step)
    return sums


def _sums_of(refs, cells: np.ndarray, steps: np.ndarray) -> dict:
    found = {}
    for r, ref in enumerate(refs):
        for b in range(cells.shape[1]):
            hi, lo, count = (int(value) for value in cells[r, b])
            assert 0 <= lo < 1 << norms.LIMB_BITS
            if count:
                found[ref, b] = [(hi << norms.LIMB_BITS) + lo, count, *steps[r, b].tolist()]
    return found


def _fold(batch: Events, levels: dict[int, np.ndarray], cells: np.ndarray, steps: np.ndarray, refs: list[int]):
    profiles = ProfileTable.of(batch.profile, levels.__getitem__)
    rows = np.array([refs.index(int(ref)) for ref in batch.attestation], np.int64)
    kernels.fold(cells, steps, np.argsort(-rows), rows, batch.step, profiles.rows, profiles.levels, batch.codes)


def _empty(refs: list[int], blocks: int) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros((len(refs), blocks, 3), np.int64), np.full((len(refs), blocks, 2), -1, np.int64)


@settings(max_examples=200)
@given(_batches(events_max=30))
def test_fold_is_plain_addition(case):
    batch, levels = case
    refs = sorted(set(batch.attestation.tolist()))
    cells, steps = _empty(refs, batch.codes.shape[1])
    _fold(batch, levels, cells, steps, refs)
    assert _sums_of(refs, cells, steps) == _plain_fold(batch, levels)


@given(_batches(events_max=30), st.data())
def test_folding_parts_and_merging_them_is_folding_the_whole(case, data):
    batch, levels = case
    refs = sorted(set(batch.attestation.tolist()))
    blocks = batch.codes.shape[1]
    at = data.draw(st.integers(0, len(batch)))
    parts = []
    for rows in (slice(0, at), slice(at, None)):
        part = Events(batch.columns[rows], batch.refs[rows], batch.codes[rows])
        cells, steps = _empty(refs, blocks)
        if len(part):
            _fold(part, levels, cells, steps, refs)
        parts.append((cells, steps))
    for (cells, steps), (more, more_steps) in (parts, parts[::-1]):
        total, total_steps = cells.copy(), steps.copy()
        kernels.merge(total, total_steps, np.arange(len(refs)), more, more_steps)
        assert _sums_of(refs, total, total_steps) == _plain_fold(batch, levels)


def test_the_largest_sums_do_not_overflow():
    """A million events of the largest norm and level: 73 bits times 255 times 2²⁰."""
    count = 1 << 20
    levels = np.array([[norms.LEVEL_MAX]], np.int16)
    cells, steps = _empty([0], 1)
    zeros = np.zeros(count, np.int64)
    kernels.fold(
        cells, steps, np.arange(count), zeros, zeros, zeros, levels, np.full((count, 1), norms.CODE_MAX, np.uint16)
    )
    hi, lo, seen = (int(value) for value in cells[0, 0])
    assert seen == count
    assert (hi << norms.LIMB_BITS) + lo == count * norms.LEVEL_MAX * norms.units(norms.CODE_MAX)


def test_an_infinite_norm_is_counted_and_adds_nothing():
    cells, steps = _empty([0], 1)
    one = np.zeros(1, np.int64)
    kernels.fold(
        cells, steps, one, one, one + 9, one, np.array([[15]], np.int16), np.array([[norms.NOT_FINITE]], np.uint16)
    )
    assert cells.tolist() == [[[0, 0, 1]]]
    assert steps.tolist() == [[[9, 9]]]


@given(st.lists(st.tuples(st.integers(0, 3), st.lists(st.integers(0, 2**75), min_size=3, max_size=3)), max_size=20))
def test_add_selected_is_plain_addition(rows):
    cells = np.zeros((len(rows), 3, 3), np.int64)
    for r, (_, totals) in enumerate(rows):
        for b, amount in enumerate(totals):
            cells[r, b, :2] = amount >> norms.LIMB_BITS, amount & (1 << norms.LIMB_BITS) - 1
    groups = np.array([group for group, _ in rows], np.int64)
    hi, lo = np.zeros((2, 4), np.int64)
    columns = np.ascontiguousarray(cells[:, :, :2].transpose(2, 1, 0))
    kernels.add_selected(columns, np.array([0, 2]), groups, hi, lo)
    for g in range(4):
        expected = sum(totals[0] + totals[2] for group, totals in rows if group == g)
        assert (int(hi[g]) << norms.LIMB_BITS) + int(lo[g]) == expected
