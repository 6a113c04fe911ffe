"""A run's own folder under the home: what has to be kept beside log and seals so that a run can go on.

run.toml          as the run was begun
run.json          the entry that started it, and the digests of lessons, tokens and tokenizer: signed, because whoever
                  can change these can change what is learned; written last, so that a beginning cut off does not count
lessons.arrow     what was admitted
tokens/           the samples
tokenizer/        as it was trained or loaded
state/            of the last seal
metrics.jsonl     a line for each step
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from licet.ledger.errors import ConfigError, FormatError, LicetError, SignatureError, StorageError, VerificationError
from licet.ledger.files import read_whole, write_whole
from licet.ledger.home import Home
from licet.ledger.log import Ledger
from licet.ledger.note import SigningKey
from licet.ledger.records import RunStarted
from licet.policies import dsse, strict_json
from licet.train.run.file import Run
from licet.train.seals.tensor_file import digest_of

PAYLOAD_TYPE = "application/vnd.licet.run.v1+json"
_JSON_BYTES_MAX = 1 << 20
_ANEW = "Begin anew: `licet train --fresh`."


@dataclass(frozen=True, slots=True)
class RunFolder:
    """HOME/runs/RUN."""

    path: Path

    @classmethod
    def of(cls, home: Home, run: str) -> RunFolder:
        return cls(home.path / "runs" / run)

    @property
    def lessons(self) -> Path:
        return self.path / "lessons.arrow"

    @property
    def tokens(self) -> Path:
        return self.path / "tokens"

    @property
    def tokenizer(self) -> Path:
        return self.path / "tokenizer"

    @property
    def state(self) -> Path:
        return self.path / "state"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def _begun(self) -> Path:
        return self.path / "run.json"

    @property
    def has_begun(self) -> bool:
        return self._begun.is_file()

    @property
    def has_state(self) -> bool:
        return (self.state / "state.json").is_file()

    def clear(self) -> None:
        """Make room for a new beginning."""
        try:
            shutil.rmtree(self.path, ignore_errors=True)
            self.path.mkdir(parents=True, mode=0o700, exist_ok=True)
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def keep_tokenizer(self, tokenizer: Any) -> None:
        """Keep the run's tokenizer. Its writer raises whatever there is where the disk is full."""
        try:
            tokenizer.save_pretrained(self.tokenizer)
        except Exception as error:
            raise _unwritable(self.tokenizer, error) from error

    def begin(self, run: Run, entry: int, key: SigningKey) -> None:
        """Say that the run has begun, with what lies in the folder now."""
        write_whole(self.path / "run.toml", run.text.encode())
        files = {name: digest_of(self.path / name).hex() for name in self._kept()}
        said = {"run": run.name, "entry": int(entry), "config": run.digest.hex(), "files": files}
        write_whole(self._begun, dsse.sign(strict_json.spell(said), PAYLOAD_TYPE, key))

    def entry(self, run: Run, log: Ledger) -> tuple[int, RunStarted]:
        """The entry that started this run. Another run file, other samples, or a log that went on with another run are
        refused."""
        entry, config, files = self._read(log)
        if config != run.digest.hex():
            raise ConfigError(
                f"The run {run.name} was begun with another run file.",
                remedy=f"It is kept as {self.path / 'run.toml'}. Put it back, give the run a new name, or begin anew "
                "with --fresh.",
            )
        started = log.record(entry) if 0 <= entry < log.size else None
        if not isinstance(started, RunStarted) or started.run != run.name or started.config != run.digest:
            raise VerificationError(
                f"The training log does not say that the run {run.name} was begun.", index=entry, remedy=_ANEW
            )
        self._check_kept(files)
        later = [index for index, _ in log.all_of(RunStarted) if index > entry]
        if later:
            raise ConfigError(
                f"Another run was begun after {run.name} (entry {later[0]}), so this one cannot go on.",
                remedy="Start a new run whose [model] base is the last seal's folder.",
            )
        return entry, started

    def _read(self, log: Ledger) -> tuple[int, str, dict[str, str]]:
        """What run.json says, if the training log's key signed it."""
        raw = read_whole(self._begun, bytes_max=_JSON_BYTES_MAX)
        try:
            envelope = dsse.read(raw, bytes_max=_JSON_BYTES_MAX)
            said = json.loads(envelope.payload)
            found = int(said["entry"]), str(said["config"]), dict(said["files"])
        except (LicetError, ValueError, KeyError, TypeError) as error:
            raise FormatError(f"{self._begun} is damaged.", remedy=_ANEW) from error
        keys, signatures = log.verifier_keys(), envelope.signatures
        signed = any(envelope.is_signed_by(key, signature) for key in keys for signature in signatures)
        if envelope.payload_type != PAYLOAD_TYPE or not signed:
            raise SignatureError(f"{self._begun} was not signed by the training log's key.", remedy=_ANEW)
        return found

    def _check_kept(self, files: dict[str, str]) -> None:
        here = set(self._kept())
        for name in sorted(here | files.keys()):
            if name not in here or digest_of(self.path / name).hex() != files.get(name):
                raise VerificationError(f"{self.path / name} is not what was kept.", remedy=_ANEW)

    def _kept(self) -> Iterator[str]:
        """The files that do not change once the run has begun."""
        for place in (self.lessons, self.tokens, self.tokenizer):
            for file in sorted(place.iterdir()) if place.is_dir() else (place,) if place.exists() else ():
                yield str(file.relative_to(self.path))


def _unwritable(path: Path, error: Exception) -> StorageError:
    why = getattr(error, "strerror", None) or error
    return StorageError(
        f"{path} could not be written: {why}.", remedy="Look at free space and permissions; the run has not begun."
    )
