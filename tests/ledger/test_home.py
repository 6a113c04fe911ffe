"""A home: made whole or not at all, settings with their origin."""

import pytest

from licet.ledger.errors import ConfigError, FormatError, KeyFileError, NotFoundError
from licet.ledger.home import LOGS, Home
from licet.ledger.reader import LogReader


@pytest.fixture
def home(tmp_path):
    return Home.create(tmp_path / "home", "example.org/acme")


def test_a_home_has_its_logs_keys_and_folders(home):
    for log in LOGS:
        with LogReader.open(home.log(log)) as view:
            assert view.origin == f"example.org/acme/{log}"
            assert view.latest_checkpoint() is not None
            assert view.first_key == home.verifier_key(log)
    assert home.key_file("training").stat().st_mode & 0o777 == 0o600
    assert (home.path / "keys").stat().st_mode & 0o777 == 0o700


def test_logs_open_for_writing_with_the_homes_keys(home):
    with home.open_log("registry") as ledger:
        assert ledger.checkpoint()
    with pytest.raises(NotFoundError):
        home.open_log("other")


def test_encrypted_keys_need_their_passphrase(tmp_path, monkeypatch):
    home = Home.create(tmp_path / "home", "example.org", "open sesame")
    with pytest.raises(KeyFileError):
        home.open_log("registry")
    monkeypatch.setenv("LICET_PASSPHRASE", "wrong")
    with pytest.raises(KeyFileError):
        home.open_log("registry")
    monkeypatch.setenv("LICET_PASSPHRASE", "open sesame")
    home.open_log("registry").close()


def test_a_directory_with_something_in_it_is_left_alone(tmp_path):
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(ConfigError):
        Home.create(tmp_path, "example.org")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_nothing_is_left_of_a_home_that_could_not_be_made(tmp_path):
    with pytest.raises(FormatError):
        Home.create(tmp_path / "home", "two words")
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_no_home(tmp_path, monkeypatch):
    monkeypatch.delenv("LICET_HOME", raising=False)
    with pytest.raises(ConfigError, match="licet init"):
        Home.find(tmp_path)


def test_home_from_the_environment(home, monkeypatch):
    monkeypatch.setenv("LICET_HOME", str(home.path))
    assert Home.find(None).path == home.path


def test_flags_come_before_variables_and_these_before_the_file(home, monkeypatch):
    home.settings_file.write_text('name = "from.file"\ncheckpoint_s = 5\n')
    monkeypatch.setenv("LICET_CHECKPOINT_S", "7")
    by_name = {s.name: s for s in home.settings({"name": "from.flag"})}
    assert (by_name["name"].value, by_name["name"].origin) == ("from.flag", "flag")
    assert (by_name["checkpoint_s"].value, by_name["checkpoint_s"].origin) == (7.0, "LICET_CHECKPOINT_S")
    assert by_name["checkpoint_s"].name == "checkpoint_s"


@pytest.mark.parametrize(
    "text", ["checkpoint_s = 0", 'checkpoint_s = "soon"', "unknown = 1", "name = 7", "= 3", "\x00", "[name]\n"]
)
def test_settings_that_cannot_be_used_are_named(home, text):
    home.settings_file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        home.settings()
    assert caught.value.remedy
