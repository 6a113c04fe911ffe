"""A home directory: where the logs, keys, models and settings of one deployment lie.

licet.toml      settings                       keys/     private keys, and the public halves as *.pub
policy.toml     the active policy
logs/registry   sources, attestations, policies, revocations
logs/training   admissions, events, seals      models/   sealed checkpoints
logs/runtime    verdicts, corrections          runs/     what runs need to go on
content/        erasable text                  fingerprints/  rebuildable indexes
"""

from __future__ import annotations

import os
import shutil
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from licet.ledger.content import ContentStore
from licet.ledger.errors import ConfigError, FormatError, NotFoundError
from licet.ledger.files import read_whole, sync_folder, write_whole
from licet.ledger.keys import load_key, save_key
from licet.ledger.log import Ledger
from licet.ledger.note import SigningKey, VerifierKey, check_key_name

LOGS = ("registry", "training", "runtime")
PASSPHRASE_VARIABLE = "LICET_PASSPHRASE"  # noqa: S105  the name of a variable, not a passphrase
_PREFIX = "LICET_"
_SETTINGS_BYTES_MAX = 1 << 20


class Settings(BaseModel):
    """What licet.toml may say. Flags come before LICET_* variables, and these before the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(default="licet.local", description="prefix of the logs' origins, as example.org/models")
    checkpoint_s: float = Field(default=10.0, gt=0, description="a busy log is signed at least this often")


@dataclass(frozen=True, slots=True)
class Setting:
    """One value, and where it comes from."""

    name: str
    value: Any
    origin: str


@dataclass(frozen=True, slots=True)
class Home:
    """One deployment's directory."""

    path: Path

    @classmethod
    def create(cls, path: Path, name: str, passphrase: str | None = None) -> Home:
        """Make a home with its keys and empty, signed logs. It appears whole or not at all."""
        check_key_name(f"{name}/registry")
        if path.exists() and any(path.iterdir()):
            raise ConfigError(f"{path} is not empty.", remedy="Choose a new directory for the home.")
        making = cls(path.with_name(f".{path.name}.creating"))
        shutil.rmtree(making.path, ignore_errors=True)
        try:
            for folder in ("keys", "logs", "models", "fingerprints", "content"):
                private = folder in ("keys", "content")
                (making.path / folder).mkdir(parents=True, mode=0o700 if private else 0o755)
            write_whole(making.settings_file, f'name = "{name}"\n'.encode())
            for log in LOGS:
                key = SigningKey.generate(f"{name}/{log}")
                save_key(making.key_file(log), key, passphrase)
                write_whole(making.public_key_file(log), f"{key.verifier}\n".encode())
                Ledger.create(making.log(log), key).close()
            if path.exists():
                path.rmdir()
            making.path.rename(path)
            sync_folder(path.parent)
        except OSError as error:
            raise ConfigError(f"{path} cannot be made: {error.strerror}.", remedy="Look at permissions.") from error
        finally:
            shutil.rmtree(making.path, ignore_errors=True)
        return cls(path)

    @classmethod
    def find(cls, flag: Path | None) -> Home:
        """The home that a flag or LICET_HOME names, else the working directory."""
        path = flag or Path(os.environ.get("LICET_HOME") or ".")
        home = cls(path)
        if not home.settings_file.is_file():
            raise ConfigError(
                f"{path.resolve()} is not a home of Licet.",
                remedy="Name one with --home or LICET_HOME, or make one with `licet init DIR`.",
            )
        return home

    @property
    def settings_file(self) -> Path:
        return self.path / "licet.toml"

    @property
    def policy_file(self) -> Path:
        """The active policy, as it was adopted; what counts is the registry log."""
        return self.path / "policy.toml"

    @property
    def content(self) -> ContentStore:
        return ContentStore(self.path / "content")

    def log(self, name: str) -> Path:
        return self.path / "logs" / name

    def key_file(self, log: str) -> Path:
        return self.path / "keys" / f"{log}.key"

    def public_key_file(self, log: str) -> Path:
        return self.path / "keys" / f"{log}.pub"

    def verifier_key(self, log: str) -> VerifierKey:
        """The first key of one of the home's logs, as this home kept it."""
        raw = read_whole(self.public_key_file(log), bytes_max=4096)
        try:
            return VerifierKey.parse(raw.decode())
        except UnicodeDecodeError as error:
            raise FormatError(f"{self.public_key_file(log)} holds no verifier key.") from error

    def open_log(self, name: str) -> Ledger:
        """One of the home's logs, for writing."""
        if name not in LOGS:
            raise NotFoundError(f"A home has no log {name}.", remedy=f"Its logs are {', '.join(LOGS)}.")
        return Ledger.open(self.log(name), load_key(self.key_file(name), passphrase()))

    def settings(self, flags: Mapping[str, Any] | None = None) -> list[Setting]:
        """Every setting with its origin."""
        origins: dict[str, str] = {}
        values: dict[str, Any] = {}
        file = self._read_settings()
        for name in [*Settings.model_fields, *(file.keys() - Settings.model_fields.keys())]:
            variable = _PREFIX + name.upper()
            if flags and flags.get(name) is not None:
                values[name], origins[name] = flags[name], "flag"
            elif variable in os.environ:
                values[name], origins[name] = os.environ[variable], variable
            elif name in file:
                values[name], origins[name] = file[name], str(self.settings_file)
        try:
            settings = Settings.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"])
            raise ConfigError(
                f"The setting {name} (from {origins.get(name, 'nowhere')}) cannot be used: {first['msg']}.",
                remedy="`licet config show` lists the settings and what they mean.",
            ) from error
        return [Setting(name, value, origins.get(name, "default")) for name, value in settings]

    def _read_settings(self) -> dict[str, Any]:
        raw = read_whole(self.settings_file, bytes_max=_SETTINGS_BYTES_MAX)
        try:
            return tomllib.loads(raw.decode())
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{self.settings_file} is not TOML: {error}.", remedy="Mend that line.") from error


def passphrase() -> str | None:
    """What unlocks encrypted keys: an environment variable, so that it stands in no command line."""
    return os.environ.get(PASSPHRASE_VARIABLE) or None
