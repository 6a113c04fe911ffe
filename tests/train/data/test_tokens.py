"""The store of samples: what was put in comes out, whole or not at all, and nothing else is taken for one."""

from __future__ import annotations

import errno
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from licet.ledger.errors import ClosedError, ConfigError, FormatError, LicetError, MissingFileError, StorageError
from licet.train.data import tokens as storing
from licet.train.data.tokens import TokenSequence, TokenStore

SEQUENCES = st.lists(st.tuples(st.integers(0, 2**31 - 1), st.booleans()), min_size=1, max_size=9).map(
    lambda pairs: TokenSequence.of([i for i, _ in pairs], [False, *(s for _, s in pairs[1:])])
)
SAMPLES = st.lists(st.lists(SEQUENCES, max_size=3).map(tuple), max_size=8)


def sequence(*ids):
    return TokenSequence.of(ids, [False] + [True] * (len(ids) - 1))


def filled(folder, *samples):
    with TokenStore.create(folder) as writer:
        for i, sample in enumerate(samples):
            assert writer.add(sample) == i
    return folder


def plain(sample):
    return [(one.ids.tolist(), one.scored.tolist()) for one in sample]


@settings(max_examples=25)  # each writes and syncs six files
@given(SAMPLES)
def test_what_was_put_in_comes_out(tmp_path_factory, samples):
    store = TokenStore.open(filled(tmp_path_factory.mktemp("s") / "store", *samples))
    assert [plain(store.sample(i)) for i in range(len(store))] == [plain(sample) for sample in samples]
    assert store.lengths.tolist() == [max(map(len, sample), default=0) for sample in samples]
    assert store.tokens == sum(len(one) for sample in samples for one in sample)


def test_samples_are_views_of_the_file(tmp_path):
    store = TokenStore.open(filled(tmp_path / "store", (sequence(*range(100_000)),)))
    ids = store.sample(0)[0].ids
    assert ids.dtype == np.int32 and not ids.flags.owndata and not ids.flags.writeable
    for outside in (-1, 1):
        with pytest.raises(IndexError):
            store.sample(outside)


def test_a_store_appears_whole(tmp_path):
    folder = tmp_path / "deep" / "store"
    writer = TokenStore.create(folder)
    writer.add((sequence(1, 2),))
    assert not folder.exists()
    with pytest.raises(MissingFileError):
        TokenStore.open(folder)
    writer.close()
    writer.close()
    assert sorted(file.name for file in folder.parent.iterdir()) == ["store"]
    with pytest.raises(ClosedError):
        writer.add((sequence(1, 2),))
    with pytest.raises(ConfigError, match="already"):
        TokenStore.create(folder)


def test_what_was_left_by_an_error_leaves_nothing(tmp_path):
    with pytest.raises(KeyError), TokenStore.create(tmp_path / "store") as writer:
        writer.add((sequence(1, 2),))
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    (tmp_path / ".store.creating").mkdir()  # of a run that was killed
    (tmp_path / ".store.creating" / "tokens").write_bytes(b"old")
    assert len(TokenStore.open(filled(tmp_path / "store", (sequence(1, 2),)))) == 1


class _Full:
    """A disk with no room left: the buffer takes a little, and its flush fails."""

    def __init__(self, file):
        self.file = file

    def write(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    def __getattr__(self, name):
        return getattr(self.file, name)


def test_a_full_disk_is_said_and_nothing_kept(tmp_path):
    writer = TokenStore.create(tmp_path / "store")
    writer._files["tokens"] = _Full(writer._files["tokens"])
    with pytest.raises(StorageError, match="No space left"):
        writer.add((sequence(1, 2),))
    assert list(tmp_path.iterdir()) == []
    writer = TokenStore.create(tmp_path / "store")
    writer._files["samples"] = _Full(writer._files["samples"])
    with pytest.raises(StorageError, match="No space left"):
        writer.close()
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        TokenStore.create(tmp_path / "file" / "store")


@pytest.mark.parametrize(
    ("ids", "scored"),
    [
        (np.zeros(2, np.int64), np.zeros(2, np.bool_)),
        (np.zeros(2, np.int32), np.zeros(2, np.int8)),
        (np.zeros(2, np.int32), np.zeros(3, np.bool_)),
        (np.zeros((1, 2), np.int32), np.zeros((1, 2), np.bool_)),
        (np.zeros(0, np.int32), np.zeros(0, np.bool_)),
        (np.zeros(2, np.int32), np.ones(2, np.bool_)),
    ],
    ids=["int64", "no bools", "another length", "a table", "nothing", "a first token that counts"],
)
def test_what_is_no_sequence(ids, scored):
    with pytest.raises(FormatError):
        TokenSequence(ids, scored)


def test_what_is_no_store(tmp_path):
    folder = filled(tmp_path / "store", (sequence(1, 2, 3), sequence(4, 5)), (), (sequence(6, 7),))
    whole = {file.name: file.read_bytes() for file in folder.iterdir()}

    def refused(name, raw):
        (folder / name).write_bytes(raw)
        with pytest.raises(LicetError):
            TokenStore.open(folder)
        (folder / name).write_bytes(whole[name])

    for name, raw in whole.items():
        refused(name, raw[:-2])
        refused(name, b"")
    for name in ("sequences", "samples"):
        starts = np.frombuffer(whole[name], np.int64)
        for i in range(len(starts)):
            refused(name, np.where(np.arange(len(starts)) == i, -1, starts).tobytes())
            refused(name, np.where(np.arange(len(starts)) == i, 1 << 40, starts).tobytes())
    head = json.loads(whole["store.json"])
    for change in ({"format": "token-store/2"}, {"tokens": -1}, {"tokens": 8}, {"samples": 1 << 60}, {"more": 1}):
        refused(storing._HEAD, json.dumps(head | change).encode())
    (folder / "tokens").unlink()
    with pytest.raises(StorageError):
        TokenStore.open(folder)
