"""What an auditor finds: in a directory, in a mirror, with an older checkpoint, after a rotation."""

import random
import shutil

import numpy as np
import pytest

from licet.ledger import codec
from licet.ledger.chunks import key as chunk_key
from licet.ledger.chunks import pack, unpack
from licet.ledger.errors import CorruptError, ForkError, LicetError, RollbackError, SignatureError, VerificationError
from licet.ledger.export import export
from licet.ledger.fsck import INDEX_TABLES, fsck, repair
from licet.ledger.log import Ledger
from licet.ledger.note import SigningKey
from licet.ledger.reader import LogReader
from licet.ledger.records import GradientApplied
from licet.ledger.sources import DirectoryTiles
from licet.ledger.store import Store, Table
from licet.ledger.tileview import TileView
from licet.ledger.verify import verify
from tests.ledger.training import Trainer


@pytest.fixture
def run(path, key, monkeypatch):
    """A signed training log with several runs and closed segments; its path."""
    monkeypatch.setattr("licet.ledger.run_exposure.SEGMENT_EVENTS_MIN", 64)
    with Ledger.create(path, key) as ledger:
        trainer = Trainer(ledger, random.Random(5))
        for _ in range(2):
            trainer.start(4)
            trainer.declare_some()
            trainer.admit(40)
            for _ in range(12):
                trainer.take_step(50)
                ledger.commit()
        ledger.checkpoint()
    return path


def tampered(path, change):
    """Change the database behind the log's back."""
    store = Store.open_writer(path / "db")
    batch = store.batch()
    change(store, batch)
    store.write(batch)
    store.close()


def rewrite_entry(index, alter):
    def change(store, batch):
        found = store.last_at_or_before(Table.ENTRIES, chunk_key(index))
        chunk = unpack(*found)
        entries = [chunk.entry(i) for i in range(chunk.first, chunk.end)]
        entries[index - chunk.first] = alter(entries[index - chunk.first])
        lengths = np.array([len(e) for e in entries])
        batch.put(Table.ENTRIES, found[0], pack(b"".join(entries), lengths, chunk.marks))

    return change


def test_a_good_log_verifies_with_all_that_was_checked(run, key):
    report = fsck(run, key.verifier)
    assert report.checked == ("signature", "entries", "tree", "indexes")
    assert report.kinds["GradientApplied"] == 1200
    assert report.signed_by == (str(key.verifier),)


def test_another_key_is_refused(run):
    with pytest.raises(SignatureError) as caught:
        fsck(run, SigningKey.generate("example.org/log").verifier)
    assert caught.value.remedy


def event_index(run):
    with LogReader.open(run) as log:
        return next(i for i, entry in log.entries() if entry[0] == GradientApplied.KIND) + 700


@pytest.mark.parametrize(
    "byte", [2, 4, 14, 19, 24, -1], ids=["flags", "step", "example", "attestation", "profile", "norm"]
)
def test_an_altered_event_is_found(run, key, byte):
    index = event_index(run)

    def alter(entry):
        changed = bytearray(entry)
        changed[byte] ^= 0x10
        return bytes(changed)

    tampered(run, rewrite_entry(index, alter))
    with pytest.raises(LicetError) as caught:
        fsck(run, key.verifier)
    assert isinstance(caught.value, VerificationError)
    assert caught.value.index == index


def test_an_altered_entry_in_a_mirror_is_named_exactly(run, key, tmp_path):
    with LogReader.open(run) as log:
        export(log, tmp_path / "tiles")
    bundle = sorted((tmp_path / "tiles/tile/entries").rglob("[0-9]*"))[3]
    raw = bytearray(bundle.read_bytes())
    at, wanted = 0, 17  # the 18th entry of the bundle
    for _ in range(wanted):
        at += 2 + int.from_bytes(raw[at : at + 2], "big")
    raw[at + 2 + 5] ^= 1
    bundle.write_bytes(raw)
    view = TileView(DirectoryTiles(tmp_path / "tiles"))
    with pytest.raises(VerificationError) as caught:
        verify(view, view.note, key.verifier, leaf_tiles=True)
    assert caught.value.index == 3 * 256 + wanted


def test_an_older_checkpoint_must_be_a_beginning(run, key, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    shutil.copy(f"{run}.anchor", f"{copy}.anchor")
    with Ledger.open(run, key) as log:
        older = log.latest_checkpoint()
        log.append(codec.Opaque(200, 1, b"ours"))
        ours = log.checkpoint()
    with Ledger.open(copy, key) as log:
        log.append(codec.Opaque(200, 1, b"theirs"))
        log.checkpoint()
    assert fsck(run, key.verifier, older=older).older_size is not None
    with pytest.raises(ForkError) as caught:
        fsck(copy, key.verifier, older=ours)
    assert caught.value.ours == ours
    assert caught.value.theirs


def test_a_log_shorter_than_the_checkpoint_that_was_kept(run, key, tmp_path):
    shutil.copytree(run, tmp_path / "short")
    with Ledger.open(run, key) as log:
        log.append(codec.Opaque(200, 1, b"more"))
        kept = log.checkpoint()
    with pytest.raises(ForkError):
        fsck(tmp_path / "short", key.verifier, older=kept)


def test_rotation_is_followed_from_either_key(run, key):
    new = SigningKey.generate(key.name)
    with Ledger.open(run, key) as log:
        older = log.latest_checkpoint()
        log.rotate_key(new, reason="test")
        log.append(codec.Opaque(200, 1, b"after"))
        log.checkpoint()
    assert fsck(run, key.verifier, older=older).signed_by == (str(new.verifier),)
    assert fsck(run, new.verifier, older=older).signed_by == (str(new.verifier),)


def delete_first(table):
    def change(store, batch):
        key, _ = next(store.scan(table, b"", b"\xff" * 40))
        batch.delete(table, key)

    return change


def add_one(table):
    return lambda store, batch: batch.put(table, b"\xfe" * 12, b"")


def alter_last(table):
    def change(store, batch):
        *_, (key, value) = store.scan(table, b"", b"\xff" * 40)
        batch.put(table, key, value[:-1] + bytes([value[-1] ^ 1]) if value else b"x")

    return change


@pytest.mark.parametrize("table", INDEX_TABLES)
@pytest.mark.parametrize("damage", [delete_first, add_one, alter_last])
def test_a_wrong_index_is_found_and_repaired(run, key, table, damage):
    with LogReader.open(run) as log:
        before = log.exposure.reverse(["layer.0"]), log.exposure.forward(source="source 1")
    tampered(run, damage(table))
    with pytest.raises(LicetError) as caught:
        fsck(run, key.verifier)
    assert isinstance(caught.value, (VerificationError, CorruptError))
    repair(run)
    assert "indexes" in fsck(run, key.verifier).checked
    with Ledger.open(run, key) as log:
        assert (log.exposure.reverse(["layer.0"]), log.exposure.forward(source="source 1")) == before


def test_entries_that_do_not_hash_to_the_head_are_not_repaired_from(run, key):
    tampered(run, rewrite_entry(event_index(run), lambda entry: entry[:-1] + bytes([entry[-1] ^ 1])))
    with pytest.raises(CorruptError):
        repair(run)


def test_an_interrupted_repair_keeps_writers_out_until_it_is_run_again(run, key, monkeypatch):
    monkeypatch.setattr("licet.ledger.fsck._Rebuild._rebuild", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        repair(run)
    monkeypatch.undo()
    with pytest.raises(CorruptError, match="interrupted"):
        Ledger.open(run, key)
    repair(run)
    Ledger.open(run, key).close()
    assert "indexes" in fsck(run, key.verifier).checked


def test_a_running_writer_is_not_in_the_way(run, key):
    with Ledger.open(run, key) as log:
        log.append(codec.Opaque(200, 1, b"more"))
        log.commit()
        assert fsck(run, key.verifier).size == log.size


def test_an_older_copy_beside_its_anchor_is_found(run, key, tmp_path):
    shutil.copytree(run, tmp_path / "older")
    with Ledger.open(run, key) as log:
        log.append(codec.Opaque(200, 1, b"more"))
        log.checkpoint()
    shutil.rmtree(run)
    (tmp_path / "older").rename(run)
    with pytest.raises(RollbackError):
        fsck(run, key.verifier)
