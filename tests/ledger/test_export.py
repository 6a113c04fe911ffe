"""A directory of tiles: whole at every instant, never rewritten, and only ever of one log."""

from __future__ import annotations

import pytest

from licet.ledger.errors import ConfigError, ForkError, LockedError, RollbackError, StorageError, VerificationError
from licet.ledger.export import TileFolder, export
from licet.ledger.log import Ledger
from licet.ledger.note import Checkpoint, SigningKey
from licet.ledger.reader import LogReader
from licet.ledger.sources import DirectoryTiles
from licet.ledger.tileview import TileView
from tests.ledger.logs import append_opaque, training_log
from tests.ledger.serving import MemoryLog, files_of


@pytest.fixture
def memory(key):
    return MemoryLog(key)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "tiles"


def _read(folder, size=None):
    view = TileView(DirectoryTiles(folder))
    assert size is None or view.size == size
    return [chunk.entry(i) for chunk in view.chunks() for i in range(chunk.first, chunk.end)]


# ---- refused ---------------------------------------------------------------------------------------------------


def test_unsigned_log(memory, folder):
    with pytest.raises(ConfigError):
        export(memory, folder)
    assert not folder.exists()


def test_checkpoint_that_is_not_the_logs(memory, folder, key):
    memory.grow(10)
    other = SigningKey.generate("example.org/other")
    for origin, size in ((other.name, 10), (key.name, 11)):
        note = Checkpoint(origin, size, memory.root_at(10)).sign([key])
        with pytest.raises(ConfigError):
            export(memory, folder, note)
    wrong = Checkpoint(key.name, 10, bytes(32)).sign([key])
    with pytest.raises(VerificationError):
        export(memory, folder, wrong)
    assert not (folder / "checkpoint").exists()


def test_directory_of_another_log(memory, folder):
    memory.grow(10)
    export(memory, folder)
    other = MemoryLog(SigningKey.generate("example.org/other"))
    other.grow(20)
    with pytest.raises(ConfigError):
        export(other, folder)


def test_fork(memory, folder, key):
    memory.grow(300)
    export(memory, folder)
    before = {name: (folder / name).read_bytes() for name in files_of(folder)}
    for size in (299, 300, 400):
        forked = MemoryLog(key)
        theirs = memory.note
        ours = forked.grow(400, lambda i: b"other %d" % i)
        if size < 400:
            ours = Checkpoint(key.name, size, forked.root_at(400)).sign([key])
        with pytest.raises(ForkError) as caught:
            export(forked, folder, ours)
        assert (caught.value.ours, caught.value.theirs) == (ours, theirs)
    assert {name: (folder / name).read_bytes() for name in files_of(folder)} == before


def test_rollback(memory, folder, key):
    early = memory.grow(10)
    memory.grow(300)
    export(memory, folder)
    with pytest.raises(RollbackError):
        export(memory, folder, early)
    rolled_back = MemoryLog(key)
    rolled_back.grow(10)
    with pytest.raises(RollbackError):
        export(rolled_back, folder)
    assert len(_read(folder)) == 300


def test_database_directory(ledger, path):
    with pytest.raises(ConfigError):
        export(ledger, path)


def test_two_at_once(memory, folder):
    memory.grow(10)
    with TileFolder.open(folder), pytest.raises(LockedError) as caught:
        export(memory, folder)
    assert "server" not in caught.value.remedy
    export(memory, folder)


def test_target_that_cannot_be_written(memory, folder, tmp_path):
    memory.grow(10)
    folder.write_bytes(b"a file")
    with pytest.raises(StorageError) as caught:
        export(memory, folder)
    assert caught.value.remedy
    (tmp_path / "blocked").mkdir()
    (tmp_path / "blocked" / "tile").write_bytes(b"a file")
    with pytest.raises(StorageError):
        export(memory, tmp_path / "blocked")


# ---- what is written -------------------------------------------------------------------------------------------


def test_files_of_the_specifications_example(memory, folder):
    memory.grow(70_000)
    result = export(memory, folder)
    names = files_of(folder)
    assert result.new_files + 1 == len(names) == 1 + 2 * 274 + 2 + 1
    assert {"tile/0/272", "tile/0/273.p/112", "tile/1/000", "tile/1/001.p/17", "tile/2/000.p/1"} <= names
    assert {"tile/entries/272", "tile/entries/273.p/112", "checkpoint"} <= names
    assert not {name for name in names if name.endswith(".tmp")}
    assert (folder / "tile/0/000").read_bytes() == memory.hashes(0, 0, 256).tobytes()
    assert (folder / "tile/1/001.p/17").read_bytes() == memory.hashes(1, 256, 17).tobytes()
    assert (folder / "checkpoint").read_bytes() == memory.note
    assert TileView(DirectoryTiles(folder)).root_at(12_345) == memory.root_at(12_345)


@pytest.mark.parametrize("sizes", [(1, 255, 256, 257), (100, 511, 512), (300, 300, 66_000), (65_536, 65_537)])
def test_growing_in_steps_equals_one_export(memory, folder, tmp_path, sizes, key):
    for size in sizes:
        if size > memory.size:
            memory.grow(size)
        export(memory, folder)
        assert _read(folder, size) == memory.entries
    export(memory, tmp_path / "once")
    once = files_of(tmp_path / "once")
    grown = files_of(folder)
    assert once <= grown
    assert all(".p/" in name for name in grown - once), "only partial tiles of earlier checkpoints are left over"
    for name in once:
        assert (folder / name).read_bytes() == (tmp_path / "once" / name).read_bytes()


def test_full_tiles_are_never_rewritten_and_partial_ones_go_when_full(memory, folder):
    memory.grow(600)
    export(memory, folder)
    full = {name: (folder / name).stat().st_ino for name in files_of(folder) if ".p/" not in name}
    assert "tile/0/002.p/88" in files_of(folder)
    memory.grow(700)
    assert export(memory, folder).new_files == 2
    assert {"tile/0/002.p/88", "tile/0/002.p/188"} <= files_of(folder), "earlier checkpoints still need it"
    memory.grow(769)
    export(memory, folder)
    assert not {name for name in files_of(folder) if "002.p" in name}
    full.pop("checkpoint")
    assert {name: (folder / name).stat().st_ino for name in full} == full


def test_nothing_new(memory, folder, key):
    memory.grow(300)
    export(memory, folder)
    assert export(memory, folder).new_files == 0
    body = memory.note.partition(b"\n\n")[0] + b"\n"
    cosigned = memory.note + key.cosign(body, 1)
    export(memory, folder, cosigned)
    assert (folder / "checkpoint").read_bytes() == cosigned
    export(memory, folder)
    assert (folder / "checkpoint").read_bytes() == cosigned, "cosignatures are not dropped"


def test_killed_run_is_resumed(memory, folder, monkeypatch):
    memory.grow(300)
    export(memory, folder)
    memory.grow(1500)
    put = TileFolder._put
    count = 0

    def dies(self, *args, **kwargs):
        nonlocal count
        count += 1
        if count == 6:
            raise KeyboardInterrupt
        put(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(TileFolder, "_put", dies)
        with pytest.raises(KeyboardInterrupt):
            export(memory, folder)
    assert len(_read(folder)) == 300, "the old checkpoint and its tiles stay readable"
    # A crash of the machine may leave a name whose bytes never reached the disk.
    (folder / "tile/entries/002").write_bytes(b"")
    kept = (folder / "tile/0/001").stat().st_ino
    export(memory, folder)
    assert _read(folder, 1500) == memory.entries
    assert (folder / "tile/0/001").stat().st_ino == kept


def test_checkpoint_comes_last(memory, folder, monkeypatch):
    memory.grow(300)
    export(memory, folder)
    memory.grow(900)

    def full_disk(self):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(TileFolder, "_sync", full_disk)
    with pytest.raises(StorageError):
        export(memory, folder)
    assert len(_read(folder)) == 300


def test_damaged_database_is_not_published(memory, folder):
    memory.grow(600)
    memory.entries[77] = b"altered"
    with pytest.raises(VerificationError):
        export(memory, folder)
    assert not (folder / "checkpoint").exists()


def test_progress(memory, folder):
    seen = []
    memory.grow(300)
    export(memory, folder)
    memory.grow(5000)
    export(memory, folder, progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1] == (4700, 4700)


def test_database(path, key, folder):
    """A real log, exported by another process's reader while it is being written to."""
    with training_log(path, key, events=700) as ledger:
        export(ledger, folder)
        append_opaque(ledger, 50)
        with LogReader.open(path) as reader:
            append_opaque(ledger, 10)
            result = export(reader, folder)
            assert result.size == reader.size == ledger.size - 10
        assert _read(folder) == [entry for _, entry in ledger.entries(0, result.size)]


def test_two_databases_of_one_key(path, key, folder, tmp_path):
    with Ledger.create(path, key) as ledger:
        append_opaque(ledger, 5)
        export(ledger, folder)
    with Ledger.create(tmp_path / "second", key) as second:
        append_opaque(second, 4)
        append_opaque(second, 6)
        with pytest.raises(ForkError):
            export(second, folder)
