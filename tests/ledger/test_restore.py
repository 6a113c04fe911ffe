"""A lost log made anew from a mirror, and the ways in which that must be refused."""

import random
import shutil

import pytest

from licet.ledger import codec
from licet.ledger.errors import ConfigError, LicetError, SignatureError, VerificationError
from licet.ledger.export import export
from licet.ledger.fsck import fsck
from licet.ledger.log import Ledger
from licet.ledger.note import SigningKey
from licet.ledger.restore import restore
from licet.ledger.sources import DirectoryTiles
from licet.ledger.tileview import TileView
from tests.ledger.training import Trainer


@pytest.fixture
def lost(path, key, tmp_path):
    """A log that was exported and then lost; what its exposure was."""
    with Ledger.create(path, key) as ledger:
        trainer = Trainer(ledger, random.Random(4))
        trainer.start(3)
        trainer.declare_some()
        trainer.admit(50)
        for _ in range(8):
            trainer.take_step(60)
            ledger.commit()
        ledger.checkpoint()
        export(ledger, tmp_path / "tiles")
        before = ledger.head, ledger.exposure.reverse(["layer.0", "layer.2"])
    shutil.rmtree(path)
    path.with_name("log.anchor").unlink()
    return before


def tiles(tmp_path):
    return TileView(DirectoryTiles(tmp_path / "tiles"))


def test_it_is_the_same_log_and_goes_on(lost, path, key, tmp_path):
    restore(tiles(tmp_path), path, key.verifier)
    assert "indexes" in fsck(path, key.verifier).checked
    with Ledger.open(path, key) as ledger:
        assert (ledger.head, ledger.exposure.reverse(["layer.0", "layer.2"])) == lost
        ledger.append(codec.Opaque(200, 1, b"on"))
        ledger.checkpoint()
        export(ledger, tmp_path / "tiles")
    assert tiles(tmp_path).size == lost[0].size + 1


def test_under_another_key_nothing_is_made(lost, path, tmp_path):
    with pytest.raises(SignatureError):
        restore(tiles(tmp_path), path, SigningKey.generate("example.org/log").verifier)
    assert not path.exists()


def test_from_an_altered_mirror_nothing_is_made(lost, path, key, tmp_path):
    bundle = next((tmp_path / "tiles/tile/entries").rglob("000"))
    raw = bytearray(bundle.read_bytes())
    raw[700] ^= 1
    bundle.write_bytes(raw)
    with pytest.raises(VerificationError):
        restore(tiles(tmp_path), path, key.verifier)
    assert not path.exists()
    assert [p.name for p in tmp_path.iterdir() if "restoring" in p.name] == []


def test_nothing_is_overwritten(lost, path, key, tmp_path):
    restore(tiles(tmp_path), path, key.verifier)
    with pytest.raises(ConfigError):
        restore(tiles(tmp_path), path, key.verifier)
    shutil.rmtree(path)
    with pytest.raises(ConfigError):  # the anchor is evidence
        restore(tiles(tmp_path), path, key.verifier)


def test_interrupted_it_can_be_done_again(lost, path, key, tmp_path, monkeypatch):
    monkeypatch.setattr("licet.ledger.fsck.repair", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        restore(tiles(tmp_path), path, key.verifier)
    monkeypatch.undo()
    assert not path.exists()
    restore(tiles(tmp_path), path, key.verifier)
    with pytest.raises(LicetError):
        Ledger.create(path, key)
