"""No byte of an exported log can be changed, added or removed without verification noticing."""

from __future__ import annotations

import random

import pytest

from licet.ledger.errors import LicetError, LimitError
from licet.ledger.export import export
from licet.ledger.note import SigningKey
from licet.ledger.tileview import TileView
from licet.ledger.verify import Report, verify
from tests.ledger.logs import training_log

KEY = SigningKey.generate("example.org/log")
FILES = (
    "checkpoint",
    "tile/0/000",
    "tile/0/001.p/4",
    "tile/1/000.p/1",
    "tile/entries/000",
    "tile/entries/001.p/4",
)


class Held:
    """Exported files in memory, some of them changed."""

    parallel = 1

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files

    def fetch(self, path: str, bytes_max: int) -> bytes | None:
        raw = self.files.get(path)
        if raw is not None and len(raw) > bytes_max:
            raise LimitError(f"{path} is too large.")
        return raw


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A training run of 260 entries: a full tile of each kind, and one that is not full."""
    folder = tmp_path_factory.mktemp("exported")
    with training_log(folder / "log", KEY, events=250) as ledger:
        export(ledger, folder / "tiles")
    found = {file.relative_to(folder / "tiles").as_posix(): file for file in (folder / "tiles").rglob("*")}
    return {name: file.read_bytes() for name, file in found.items() if file.is_file() and name != "lock"}


def _verified(files: dict[str, bytes]) -> Report:
    view = TileView(Held(files))
    return verify(view, view.note, KEY.verifier, leaf_tiles=True)


def test_the_log_as_it_is_verifies(exported):
    assert sorted(exported) == list(FILES)
    assert _verified(exported).size == 260


@pytest.mark.parametrize("name", FILES)
def test_every_changed_byte_is_noticed(exported, name):
    chance = random.Random(name)
    raw = exported[name]
    unnoticed = []
    for at in range(len(raw)):
        changed = raw[:at] + bytes([raw[at] ^ chance.randrange(1, 256)]) + raw[at + 1 :]
        try:
            _verified({**exported, name: changed})
        except LicetError as error:
            assert error.message
        else:
            unnoticed.append(at)
    assert not unnoticed


@pytest.mark.parametrize("name", FILES)
def test_cut_padded_and_missing_files_are_noticed(exported, name):
    raw = exported[name]
    without = {known: data for known, data in exported.items() if known != name}
    for files in (
        without,
        {**without, name: b""},
        {**without, name: raw[:-1]},
        {**without, name: raw[1:]},
        {**without, name: raw[: len(raw) // 2]},
        {**without, name: raw + b"\n"},
        {**without, name: raw + raw},
        {**without, name: b"\x00" + raw},
    ):
        with pytest.raises(LicetError):
            _verified(files)


def test_two_entries_that_changed_places_are_noticed(exported):
    """Even with their leaf hashes changed along with them: the nodes above are not."""
    name = "tile/entries/001.p/4"
    raw, leaves = exported[name], exported["tile/0/001.p/4"]
    lengths, at = [], 0
    while at < len(raw):
        lengths.append(2 + int.from_bytes(raw[at : at + 2]))
        at += lengths[-1]
    first, second = raw[: lengths[0]], raw[lengths[0] : lengths[0] + lengths[1]]
    assert first != second
    swapped = second + first + raw[lengths[0] + lengths[1] :]
    swapped_leaves = leaves[32:64] + leaves[:32] + leaves[64:]
    for files in ({name: swapped}, {name: swapped, "tile/0/001.p/4": swapped_leaves}):
        with pytest.raises(LicetError):
            _verified({**exported, **files})


def test_a_log_signed_by_another_key_is_noticed(exported):
    view = TileView(Held(exported))
    with pytest.raises(LicetError):
        verify(view, view.note, SigningKey.generate("example.org/log").verifier, leaf_tiles=True)
