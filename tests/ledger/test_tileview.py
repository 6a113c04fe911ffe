"""Reading tiles: whatever was altered, cut or withheld is found where it lies."""

from __future__ import annotations

import numpy as np
import pytest

from licet.ledger import merkle
from licet.ledger.errors import FormatError, NotFoundError, SignatureError, VerificationError
from licet.ledger.export import export
from licet.ledger.note import Checkpoint
from licet.ledger.proof import make_receipt, verify_receipt
from licet.ledger.records import RunStarted
from licet.ledger.sources import DirectoryTiles
from licet.ledger.tileview import TileView
from licet.ledger.tree import TILE
from licet.ledger.verify import verify
from tests.ledger.logs import training_log
from tests.ledger.serving import MemoryLog, files_of

SIZE = 66_000


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A log with tiles on three levels: [257 full + 208], [1 full + 1], [1]."""
    from licet.ledger.note import SigningKey

    log = MemoryLog(SigningKey.generate("example.org/log"))
    log.grow(SIZE)
    folder = tmp_path_factory.mktemp("published")
    export(log, folder)
    return log, folder


class Altered:
    """A directory in which some files are replaced (or, with None, missing)."""

    parallel = 3

    def __init__(self, folder, changes):
        self._source = DirectoryTiles(folder)
        self._changes = changes
        self.asked = []

    def fetch(self, path, bytes_max):
        self.asked.append(path)
        if path in self._changes:
            return self._changes[path]
        return self._source.fetch(path, bytes_max)


def _altered(published, **changes):
    folder = published[1]
    return Altered(folder, changes)


def _flip(raw, at):
    return raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]


def _everything(view):
    for _ in view.chunks():
        pass
    view.root_at(SIZE)


# ---- refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "at", "first"),
    [
        ("tile/0/000", 5 * 32, 0),
        ("tile/0/256", 0, 65_536),
        ("tile/0/257.p/208", 10, None),
        ("tile/1/000", 255 * 32, 0),
        ("tile/1/001.p/1", 0, None),
        ("tile/2/000.p/1", 31, None),
    ],
)
def test_altered_hash_tile(published, path, at, first):
    raw = (published[1] / path).read_bytes()
    with pytest.raises(VerificationError) as caught:
        _everything(TileView(Altered(published[1], {path: _flip(raw, at)})))
    assert caught.value.index == first
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("path", "index"), [("tile/entries/000", 3), ("tile/entries/255", 65_283), ("tile/entries/257.p/208", 65_795)]
)
def test_altered_entry(published, path, index):
    raw = (published[1] / path).read_bytes()
    at = 0
    for _ in range(3):
        at += 2 + int.from_bytes(raw[at : at + 2], "big")
    with pytest.raises(VerificationError, match=f"Entry {index} ") as caught:
        _everything(TileView(Altered(published[1], {path: _flip(raw, at + 2)})))
    assert caught.value.index == index
    assert TileView(Altered(published[1], {path: _flip(raw, at + 2)})).entry(1000) == published[0].entries[1000]


@pytest.mark.parametrize("path", ["tile/0/000", "tile/1/000", "tile/0/257.p/208", "tile/2/000.p/1", "tile/entries/001"])
@pytest.mark.parametrize(
    "change", [lambda raw: raw[:-1], lambda raw: raw + b"\x00", lambda raw: b"", lambda raw: raw[32:]]
)
def test_truncated_or_overlong_file(published, path, change):
    raw = change((published[1] / path).read_bytes())
    with pytest.raises(VerificationError, match=path):
        _everything(TileView(Altered(published[1], {path: raw})))


@pytest.mark.parametrize("path", ["tile/0/000", "tile/1/000", "tile/1/001.p/1", "tile/entries/001"])
def test_withheld_file(published, path):
    with pytest.raises(VerificationError, match="missing"):
        _everything(TileView(Altered(published[1], {path: None})))


def test_oversized_file(published, tmp_path):
    export(published[0], tmp_path)
    (tmp_path / "tile/1/000").write_bytes(bytes(10_000))
    with pytest.raises(VerificationError):
        _everything(TileView(DirectoryTiles(tmp_path)))


def test_swapped_bundles(published):
    one, two = ((published[1] / f"tile/entries/00{i}").read_bytes() for i in (1, 2))
    with pytest.raises(VerificationError) as caught:
        _everything(TileView(Altered(published[1], {"tile/entries/001": two, "tile/entries/002": one})))
    assert caught.value.index == 256


def test_checkpoint_of_another_log(published, key):
    other = MemoryLog(key)
    note = other.grow(SIZE, lambda i: b"other %d" % i)
    with pytest.raises(VerificationError, match="root"):
        _everything(TileView(DirectoryTiles(published[1]), note))
    with pytest.raises(VerificationError):
        TileView(DirectoryTiles(published[1]), note).entry(0)


@pytest.mark.parametrize("size", [SIZE - 1, SIZE + 1, 2**40, 2**63 - 1])
def test_checkpoint_of_another_size(published, key, size):
    note = Checkpoint("example.org/log", size, published[0].root_at(SIZE)).sign([key])
    with pytest.raises(VerificationError):
        _everything(TileView(DirectoryTiles(published[1]), note))


def test_no_log_there(tmp_path):
    with pytest.raises(NotFoundError) as caught:
        TileView(DirectoryTiles(tmp_path))
    assert caught.value.remedy


@pytest.mark.parametrize("note", [b"", b"nonsense", b"a\n1\nAA==\n\n\xe2\x80\x94 a AAAAAAA=\n"])
def test_no_checkpoint_there(tmp_path, note):
    (tmp_path / "checkpoint").write_bytes(note)
    with pytest.raises((SignatureError, FormatError)):
        TileView(DirectoryTiles(tmp_path))


def test_beyond_the_end(published):
    view = TileView(DirectoryTiles(published[1]))
    for index in (-1, SIZE):
        with pytest.raises(NotFoundError):
            view.entry(index)
    for ask in (
        lambda: view.hashes(0, SIZE - 1, 2),
        lambda: view.hashes(1, 257, 1),
        lambda: view.hashes(0, -1, 1),
        lambda: view.root_at(SIZE + 1),
        lambda: view.prove_inclusion(0, SIZE + 1),
        lambda: view.prove_consistency(1, SIZE + 1),
    ):
        with pytest.raises(NotFoundError):
            ask()


# ---- accepted --------------------------------------------------------------------------------------------------


def test_partial_tile_that_went_away(published, tmp_path):
    """The log grew between two requests and dropped the partial tiles that its old checkpoint speaks of."""
    log = MemoryLog(published[0].key)
    old = log.grow(300)
    export(log, tmp_path)
    view = TileView(DirectoryTiles(tmp_path))
    log.grow(600)
    export(log, tmp_path)
    assert "tile/0/001.p/44" not in files_of(tmp_path)
    assert view.note == old
    assert [c.entry(i) for c in view.chunks() for i in range(c.first, c.end)] == log.entries[:300]
    assert view.entry(299) == log.entries[299]


def test_same_hashes_entries_and_proofs_as_the_log(published):
    log, folder = published
    view = TileView(DirectoryTiles(folder))
    for level, start, count in ((0, 0, 1), (0, 200, 700), (0, SIZE - 1, 1), (1, 250, 7), (2, 0, 1), (0, 5, 0)):
        assert (view.hashes(level, start, count) == log.hashes(level, start, count)).all()
    for start, stop in ((0, 1), (255, 257), (65_500, None), (10, 10), (0, 10**9)):
        chunks = list(view.chunks(start, stop))
        entries = [c.entry(i) for c in chunks for i in range(c.first, c.end)]
        assert entries == log.entries[start:stop]
        assert all(c.end - c.first <= TILE for c in chunks)
    for index in (0, 255, 256, 65_999):
        leaf = merkle.leaf_hash(view.entry(index))
        merkle.verify_inclusion(index, SIZE, leaf, view.prove_inclusion(index), view.checkpoint.root)
    merkle.verify_consistency(257, SIZE, view.root_at(257), view.checkpoint.root, view.prove_consistency(257))
    verify_receipt(make_receipt(view, 1234), [log.key.verifier])


def test_little_is_fetched_for_one_proof(published):
    source = Altered(published[1], {})
    view = TileView(source)
    view.prove_inclusion(12_345)
    assert len(source.asked) <= 8


def test_verifies_like_a_database(path, key, tmp_path):
    with training_log(path, key, events=900) as ledger:
        export(ledger, tmp_path / "tiles")
        view = TileView(DirectoryTiles(tmp_path / "tiles"))
        report = verify(view, view.note, key.verifier, leaf_tiles=True)
        assert (report.size, report.root) == (ledger.size, ledger.head.root)
        assert isinstance(view.record(1), RunStarted)
        raw = bytearray((tmp_path / "tiles/tile/entries/001").read_bytes())
        raw[-1] ^= 1
        (tmp_path / "tiles/tile/entries/001").write_bytes(raw)
        with pytest.raises(VerificationError) as caught:
            verify(view, view.note, key.verifier, leaf_tiles=True)
        assert caught.value.index == 511


def test_empty_log(key, tmp_path):
    log = MemoryLog(key)
    log.sign()
    export(log, tmp_path)
    view = TileView(DirectoryTiles(tmp_path))
    view.check_root()
    assert list(view.chunks()) == []
    assert np.asarray(view.hashes(0, 0, 0)).shape == (0, 32)
