"""A run's folder: what was begun is what goes on, and says so under the log's key."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from licet.ledger.errors import ConfigError, FormatError, SignatureError, StorageError, VerificationError
from licet.ledger.files import write_whole
from licet.ledger.home import Home
from licet.ledger.note import SigningKey
from licet.ledger.records import RunStarted
from licet.policies import dsse, strict_json
from licet.train.run.file import Run, read_run
from licet.train.run.folder import PAYLOAD_TYPE, RunFolder
from tests.train import places
from tests.train.homes import Place


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return places.trained(tmp_path)


def run_of(place: Place) -> Run:
    return read_run(place.run_file())


def folder_of(place: Place) -> RunFolder:
    return RunFolder.of(place.home, "run")


def entry(place: Place, run: Run | None = None) -> tuple[int, RunStarted]:
    with place.home.open_log("training") as log:
        return folder_of(place).entry(run or run_of(place), log)


def said(place: Place, **changes: Any) -> None:
    """Say something else in run.json, under the home's own key."""
    file = place.home.path / "runs/run/run.json"
    payload = strict_json.parse(dsse.read(file.read_bytes(), bytes_max=1 << 20).payload, bytes_max=1 << 20, what="it")
    assert isinstance(payload, dict)
    with place.home.open_log("training") as log:
        assert log.key is not None
        write_whole(file, dsse.sign(strict_json.spell({**payload, **changes}), PAYLOAD_TYPE, log.key))


def test_a_run_is_found_by_its_entry(place: Place) -> None:
    index, started = entry(place)
    assert (started.run, started.config) == ("run", run_of(place).digest)
    with places.training_log(place) as log:
        assert log.record(index) == started
    folder = folder_of(place)
    assert folder.has_begun and folder.has_state
    assert (folder.path / "run.toml").read_text() == run_of(place).text


def test_a_folder_without_its_last_file_has_not_begun(place: Place) -> None:
    (place.home.path / "runs/run/run.json").unlink()
    assert not folder_of(place).has_begun


def test_another_run_file_is_refused(place: Place) -> None:
    with pytest.raises(ConfigError, match="begun with another run file"):
        entry(place, replace(run_of(place), text="licet = 1\n"))


@pytest.mark.parametrize("index", [0, 1, -1, 10**12])
def test_an_entry_that_is_no_beginning_is_refused(place: Place, index: int) -> None:
    said(place, entry=index)
    with pytest.raises(VerificationError, match="does not say that the run run was begun"):
        entry(place)


@pytest.mark.parametrize("raw", [b"", b"{}", b"[" * 100_000, b"\xff"])
def test_what_is_no_envelope_is_damaged(place: Place, raw: bytes) -> None:
    (place.home.path / "runs/run/run.json").write_bytes(raw)
    with pytest.raises(FormatError, match="is damaged"):
        entry(place)


@pytest.mark.parametrize("changes", [{"entry": "two"}, {"entry": None}, {"files": 3}])
def test_what_says_nothing_of_use_is_damaged(place: Place, changes: dict[str, Any]) -> None:
    said(place, **changes)
    with pytest.raises(FormatError, match="is damaged"):
        entry(place)


def test_another_key_is_refused(place: Place) -> None:
    file = place.home.path / "runs/run/run.json"
    envelope = dsse.read(file.read_bytes(), bytes_max=1 << 20)
    other = SigningKey.generate("example.org/t/training")
    file.write_bytes(dsse.sign(envelope.payload, PAYLOAD_TYPE, other))
    with pytest.raises(SignatureError, match="was not signed"):
        entry(place)


def test_a_file_that_was_added_or_taken_away_is_named(place: Place) -> None:
    extra = place.home.path / "runs/run/tokenizer/added_tokens.json"
    extra.write_text("{}")
    with pytest.raises(VerificationError, match=r"added_tokens\.json is not what was kept"):
        entry(place)
    extra.unlink()
    (place.home.path / "runs/run/lessons.arrow").unlink()
    with pytest.raises(VerificationError, match=r"lessons\.arrow is not what was kept"):
        entry(place)


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file where a folder should be")
    with pytest.raises(StorageError, match="could not be written"):
        RunFolder.of(Home(tmp_path), "run").clear()
    with pytest.raises(StorageError, match="could not be written"):
        RunFolder(tmp_path / "runs").keep_tokenizer(_Full())


class _Full:
    """Writes as tokenizers do where the disk is full."""

    def save_pretrained(self, _: Path) -> None:
        raise Exception("No space left on device (os error 28)")
