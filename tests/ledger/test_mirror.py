"""A mirror takes over only what a log signed and what follows from what it saw before; else it keeps the evidence."""

from __future__ import annotations

import threading

import pytest

from licet.ledger.codec import encode
from licet.ledger.errors import (
    ConfigError,
    CorruptError,
    ForkError,
    LockedError,
    NotFoundError,
    RemoteError,
    RollbackError,
    SignatureError,
    VerificationError,
)
from licet.ledger.export import TileFolder, export
from licet.ledger.keys import rotation_statement
from licet.ledger.log import Ledger
from licet.ledger.mirror import Waiting, follow, mirror
from licet.ledger.note import Checkpoint, SigningKey
from licet.ledger.records import KeyRotated
from licet.ledger.sources import DirectoryTiles, HttpTiles
from licet.ledger.tileview import TileView
from licet.ledger.verify import verify
from tests.ledger.logs import append_opaque, training_log
from tests.ledger.serving import QUICK, MemoryLog, files_of, served


@pytest.fixture
def log(key):
    return MemoryLog(key)


@pytest.fixture
def origin(tmp_path):
    """Where the log publishes its tiles."""
    return tmp_path / "origin"


@pytest.fixture
def copy(tmp_path):
    """Where the mirror keeps them."""
    return tmp_path / "mirror"


@pytest.fixture
def update(origin, copy, key):
    return lambda: mirror(DirectoryTiles(origin), copy, key.verifier)


def _publish(log, origin, size=None, entry=None):
    """Export, whatever was there before: a log that misbehaves does not ask our exporter."""
    if size is not None:
        log.grow(size, **({"entry": entry} if entry else {}))
    fresh = origin.with_name("fresh")
    export(log, fresh, log.note)
    if origin.exists():
        origin.rename(origin.with_name(f"before-{len(list(origin.parent.iterdir()))}"))
    fresh.rename(origin)


def _entries(folder):
    view = TileView(DirectoryTiles(folder))
    return [chunk.entry(i) for chunk in view.chunks() for i in range(chunk.first, chunk.end)]


def _contents(folder):
    return {name: (folder / name).read_bytes() for name in files_of(folder)}


def _own(folder):
    return {name: raw for name, raw in _contents(folder).items() if not name.startswith("evidence")}


def _flip(path, at=-1):
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)


# ---- refused ---------------------------------------------------------------------------------------------------


def test_no_log(update, origin, copy):
    with pytest.raises(NotFoundError):
        update()
    assert not files_of(copy)


def test_wrong_key(log, origin, copy, key):
    _publish(log, origin, 300)
    for stranger in (SigningKey.generate(key.name), SigningKey.generate("example.org/other")):
        with pytest.raises(SignatureError):
            mirror(DirectoryTiles(origin), copy, stranger.verifier)
    assert not files_of(copy)


def test_altered_checkpoint(log, origin, copy, update):
    _publish(log, origin, 300)
    note = (origin / "checkpoint").read_bytes()
    (origin / "checkpoint").write_bytes(note.replace(b"\n300\n", b"\n299\n"))
    with pytest.raises(SignatureError):
        update()
    assert not files_of(copy)


@pytest.mark.parametrize("path", ["tile/0/002", "tile/0/003.p/132", "tile/1/000.p/3", "tile/entries/002"])
def test_altered_file(log, origin, copy, update, path):
    _publish(log, origin, 300)
    update()
    before = _own(copy)
    _publish(log, origin, 900)
    _flip(origin / path)
    with pytest.raises(VerificationError):
        update()
    assert (copy / "checkpoint").read_bytes() == before["checkpoint"]
    assert _entries(copy) == log.entries[:300]
    _flip(origin / path)
    update()
    assert _entries(copy) == log.entries


def test_truncated_and_missing_files(log, origin, copy, update):
    _publish(log, origin, 900)
    bundle = origin / "tile/entries/001"
    whole = bundle.read_bytes()
    bundle.write_bytes(whole[:-1])
    with pytest.raises(VerificationError, match="tile/entries/001"):
        update()
    bundle.unlink()
    with pytest.raises(VerificationError, match="missing"):
        update()
    assert not (copy / "checkpoint").exists()
    bundle.write_bytes(whole)
    update()


@pytest.mark.parametrize("size", [100, 300, 900])
def test_fork(log, origin, copy, update, key, size):
    """The same key signs another history: smaller, of the same size, larger."""
    _publish(log, origin, 300)
    update()
    before = _own(copy)
    forked = MemoryLog(key)
    _publish(forked, origin, size, lambda i: b"another history %d" % i)
    with pytest.raises(ForkError) as caught:
        update()
    assert (caught.value.ours, caught.value.theirs) == (log.note, forked.note)
    assert caught.value.remedy
    kept = {raw for name, raw in _contents(copy).items() if name.startswith("evidence/")}
    assert kept == {log.note, forked.note}
    assert _own(copy) == before


def test_fork_in_the_last_entry(log, origin, copy, update, key):
    _publish(log, origin, 300)
    update()
    forked = MemoryLog(key)
    forked.grow(299)
    _publish(forked, origin, 800, lambda i: b"entry %d" % (i if i != 299 else 0))
    with pytest.raises(ForkError):
        update()


def test_rollback(log, origin, copy, update, key):
    _publish(log, origin, 300)
    early = log.note
    _publish(log, origin, 600)
    update()
    before = _own(copy)
    rolled_back = MemoryLog(key)
    _publish(rolled_back, origin, 300)
    with pytest.raises(RollbackError) as caught:
        update()
    assert caught.value.remedy
    assert {raw for name, raw in _contents(copy).items() if name.startswith("evidence/")} == {early, log.note}
    assert _own(copy) == before


def test_forged_checkpoint_is_no_fork(log, origin, copy, update):
    """Without the log's signature it proves nothing, and leaves nothing behind."""
    _publish(log, origin, 300)
    update()
    forger = MemoryLog(SigningKey.generate(log.origin))
    _publish(forger, origin, 400, lambda i: b"forged %d" % i)
    with pytest.raises(SignatureError):
        update()
    assert not (copy / "evidence").exists()


def test_another_log(log, origin, copy, update, key):
    _publish(log, origin, 300)
    update()
    other = MemoryLog(key)
    other.origin = "example.org/other"
    _publish(other, origin, 400)
    with pytest.raises(ConfigError):
        update()


def test_mirror_that_was_altered(log, origin, copy, update, key):
    _publish(log, origin, 300)
    update()
    stranger = SigningKey.generate(key.name)
    (copy / "checkpoint").write_bytes(Checkpoint(key.name, 300, bytes(32)).sign([stranger]))
    with pytest.raises((CorruptError, VerificationError)):
        update()


def test_two_mirrors_at_once(log, origin, copy, update):
    _publish(log, origin, 300)
    with TileFolder.open(copy), pytest.raises(LockedError):
        update()


def test_unreachable(log, origin, copy, key):
    _publish(log, origin, 300)
    with served(origin) as server:
        tiles = HttpTiles(server.url, patience=QUICK)
        mirror(tiles, copy, key.verifier)
    with pytest.raises(RemoteError):
        mirror(tiles, copy, key.verifier)
    assert _entries(copy) == log.entries


# ---- rotations -------------------------------------------------------------------------------------------------


def _rotate(log, new, *, by=None):
    """Append a rotation to a log in memory and sign with both keys."""
    by = by or log.key
    statement = rotation_statement(log.origin, log.key.verifier, new.verifier)
    rotation = KeyRotated(
        str(log.key.verifier), str(new.verifier), by.sign_raw(statement), new.sign_raw(statement), "test", 0
    )
    log.grow(log.size + 1, lambda i: encode(rotation))
    old, log.key = log.key, new
    return old, log.sign(old, new)


@pytest.mark.parametrize("when", ["never", "before", "at", "after"])
def test_rotated_key_is_followed(log, origin, copy, update, key, when):
    """Whichever checkpoints the mirror saw, the first key is enough."""
    new = SigningKey.generate(key.name)
    _publish(log, origin, 300)
    if when == "before":
        update()
    _rotate(log, new)
    if when == "at":
        _publish(log, origin)
        update()
    _publish(log, origin, 700)
    update()
    _publish(log, origin, 800)
    update()
    newest = SigningKey.generate(key.name)
    _rotate(log, newest)
    _publish(log, origin, 900)
    update()
    assert _entries(copy) == log.entries
    mirror(DirectoryTiles(origin), copy, newest.verifier)


def test_rotation_by_another_key_is_not_followed(log, origin, copy, update, key):
    _publish(log, origin, 300)
    update()
    new = SigningKey.generate(key.name)
    _rotate(log, new, by=new)
    _publish(log, origin, 700)
    with pytest.raises(SignatureError):
        update()
    assert _entries(copy) == log.entries[:300]


def test_rotation_of_a_strangers_key_or_of_an_old_one_is_not_followed(log, origin, copy, update, key):
    """Each statement is signed by both keys that it names; the first of them is just not the log's now."""
    stranger, first = SigningKey.generate(key.name), log.key
    log.grow(300)
    for old in (stranger, first):
        _publish(log, origin)
        update()
        signing, log.key = log.key, old
        _rotate(log, SigningKey.generate(key.name))
        _publish(log, origin, log.size + 10)
        with pytest.raises(SignatureError):
            update()
        log.key = signing
        if old is stranger:
            _rotate(log, SigningKey.generate(key.name))
        log.sign()
    _publish(log, origin)
    update()


@pytest.mark.parametrize("seen", [0, 300, 301, 302, 500])
def test_old_key_signs_no_more_after_its_rotation(log, origin, copy, update, key, seen):
    """Whoever stole the old key cannot go on with the log."""
    log.grow(300)
    old, _ = _rotate(log, SigningKey.generate(key.name))
    if seen:
        size = log.size
        if seen == 300:
            _publish(_cut(log, 300, old), origin)
        else:
            _publish(log, origin, max(seen, size))
        update()
    log.grow(700)
    log.sign(old)
    _publish(log, origin)
    with pytest.raises(SignatureError):
        update()
    log.sign()
    _publish(log, origin)
    update()
    assert _entries(copy) == log.entries


def _cut(log, size, key):
    short = MemoryLog(key)
    short.grow(size)
    return short


def test_database_with_a_rotation(path, key, origin, copy):
    new = SigningKey.generate(key.name)
    with training_log(path, key, events=500) as ledger:
        export(ledger, origin)
        mirror(DirectoryTiles(origin), copy, key.verifier)
        ledger.rotate_key(new, reason="yearly")
        append_opaque(ledger, 20)
        export(ledger, origin)
        assert mirror(DirectoryTiles(origin), copy, key.verifier).size == ledger.size
    view = TileView(DirectoryTiles(copy))
    assert verify(view, view.note, key.verifier).signed_by == (str(new.verifier),)


# ---- accepted --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(1, 2, 255), (256, 257, 512), (300, 300, 66_000), (65_536, 65_537)])
def test_mirror_over_http_equals_the_log(log, origin, copy, key, sizes):
    for size in sizes:
        log.grow(max(size, log.size))
        export(log, origin)
        with served(origin) as server:
            result = mirror(HttpTiles(server.url, patience=QUICK), copy, key.verifier)
        assert (result.size, result.root) == (size, log.root_at(size))
    assert _contents(copy) == _contents(origin)


def test_only_what_is_new_is_fetched(log, origin, copy, key):
    log.grow(66_000)
    export(log, origin)
    mirror(DirectoryTiles(origin), copy, key.verifier)
    log.grow(66_300)
    export(log, origin)
    with served(origin) as server:
        assert mirror(HttpTiles(server.url, patience=QUICK), copy, key.verifier).new_entries == 300
        bundles = [path for path in server.asked if "entries" in path]
        assert sorted(bundles) == ["tile/entries/257", "tile/entries/258.p/252"]
        assert len(server.asked) < 20
        server.asked.clear()
        assert mirror(HttpTiles(server.url, patience=QUICK), copy, key.verifier).new_entries == 0
        assert not [path for path in server.asked if "entries" in path and "258" not in path]


def test_mirror_of_a_mirror(log, origin, copy, update, tmp_path, key):
    _publish(log, origin, 700)
    update()
    with served(copy) as server:
        mirror(HttpTiles(server.url, patience=QUICK), tmp_path / "second", key.verifier)
    assert _contents(tmp_path / "second") == _contents(copy)


def test_new_cosignatures_are_taken_over(log, origin, copy, update, key):
    _publish(log, origin, 300)
    update()
    witness = SigningKey.generate("witness.example")
    cosigned = log.note + witness.cosign(log.note.partition(b"\n\n")[0] + b"\n", 1)
    export(log, origin, cosigned)
    update()
    assert (copy / "checkpoint").read_bytes() == cosigned


def test_partial_tile_that_goes_away_between_requests(log, origin, copy, key):
    _publish(log, origin, 300)
    note = log.note
    log.grow(600)
    export(log, origin)
    assert "tile/0/001.p/44" not in files_of(origin)
    with served(origin) as server:
        server.faults["checkpoint"] = [(200, {}, note)]
        assert mirror(HttpTiles(server.url, patience=QUICK), copy, key.verifier).size == 300
    assert _entries(copy) == log.entries[:300]


def test_killed_mirror_is_resumed(log, origin, copy, key, monkeypatch):
    log.grow(1500)
    export(log, origin)
    put = TileFolder._put

    def dies(self, path, *args, **kwargs):
        if path == "tile/entries/003":
            raise KeyboardInterrupt
        put(self, path, *args, **kwargs)

    with served(origin) as server:
        tiles = HttpTiles(server.url, patience=QUICK)
        with monkeypatch.context() as patch:
            patch.setattr(TileFolder, "_put", dies)
            with pytest.raises(KeyboardInterrupt):
                mirror(tiles, copy, key.verifier)
        assert not (copy / "checkpoint").exists()
        server.asked.clear()
        mirror(tiles, copy, key.verifier)
        assert not {"tile/entries/000", "tile/entries/001", "tile/entries/002"} & set(server.asked)
    assert _contents(copy) == _contents(origin)


def test_what_a_crash_left_half_written_is_fetched_again(log, origin, copy, update):
    _publish(log, origin, 1500)
    (copy / "tile/entries").mkdir(parents=True)
    (copy / "tile/entries/001").write_bytes(b"")
    (copy / "tile/0").mkdir()
    (copy / "tile/0/002").write_bytes(bytes(8192))
    update()
    assert _contents(copy) == _contents(origin)


def test_follow(log, origin, copy, key, monkeypatch):
    monkeypatch.setattr("licet.ledger.mirror.INTERVAL_S_MIN", 0)
    _publish(log, origin, 10)
    stop = threading.Event()
    results = []

    with served(origin) as server:

        def report(result):
            results.append(result)
            if len(results) == 1:
                server.faults["checkpoint"] = [(503, {}, b"")] * QUICK.attempts_max
            if len(results) == 2:
                log.grow(400)
                export(log, origin)
            if len(results) == 3:
                stop.set()

        tiles = HttpTiles(server.url, patience=QUICK)
        follow(tiles, copy, key.verifier, interval_s=0.01, stop=stop, report=report)
    assert [getattr(result, "size", None) for result in results] == [10, None, 400]
    assert isinstance(results[1], Waiting)


def test_follow_ends_with_a_fork(log, origin, copy, key):
    _publish(log, origin, 10)
    mirror(DirectoryTiles(origin), copy, key.verifier)
    _publish(MemoryLog(key), origin, 20, lambda i: b"fork %d" % i)
    with pytest.raises(ForkError):
        follow(DirectoryTiles(origin), copy, key.verifier)
    with pytest.raises(ConfigError):
        follow(DirectoryTiles(origin), copy, key.verifier, interval_s=0.1)


def test_empty_log_that_grows(log, origin, copy, update):
    log.sign()
    _publish(log, origin)
    assert update().size == 0
    _publish(log, origin, 5)
    assert update().new_entries == 5


def test_log_in_use(path, key, origin, copy):
    with Ledger.create(path, key) as ledger:
        for count in (1, 254, 1, 300):
            append_opaque(ledger, count)
            export(ledger, origin)
            mirror(DirectoryTiles(origin), copy, key.verifier)
            assert _entries(copy) == [entry for _, entry in ledger.entries()]
