"""A run's own folder under the home: what has to be kept beside log and seals so that a run can go on.

run.toml          as the run was begun
run.json          the entry that started it; written last, so that a beginning that was cut off does not count
lessons.arrow     what was admitted
tokens/           the samples
tokenizer/        as it was trained or loaded
state/            of the last seal
metrics.jsonl     a line for each step
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from licet.ledger.errors import ConfigError, FormatError, VerificationError
from licet.ledger.files import read_whole, write_whole
from licet.ledger.home import Home
from licet.ledger.log import Ledger
from licet.ledger.records import RunStarted
from licet.train.run_file import Run

_JSON_BYTES_MAX = 1 << 16


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
        shutil.rmtree(self.path, ignore_errors=True)
        self.path.mkdir(parents=True, mode=0o700)

    def begin(self, run: Run, entry: int) -> None:
        write_whole(self.path / "run.toml", run.text.encode())
        write_whole(self._begun, json.dumps({"run": run.name, "entry": entry, "config": run.digest.hex()}).encode())

    def entry(self, run: Run, log: Ledger) -> tuple[int, RunStarted]:
        """The entry that started this run. Another run file, or a log that went on with another run, is refused."""
        try:
            said = json.loads(read_whole(self._begun, bytes_max=_JSON_BYTES_MAX))
            entry, config = int(said["entry"]), str(said["config"])
        except (ValueError, KeyError, TypeError) as error:
            raise FormatError(f"{self._begun} is damaged.", remedy="Begin anew: `licet train --fresh`.") from error
        if config != run.digest.hex():
            raise ConfigError(
                f"The run {run.name} was begun with another run file.",
                remedy=f"It is kept as {self.path / 'run.toml'}. Put it back, give the run a new name, or begin anew "
                "with --fresh.",
            )
        started = log.record(entry) if entry < log.size else None
        if not isinstance(started, RunStarted) or started.run != run.name or started.config != run.digest:
            raise VerificationError(
                f"The training log does not say that the run {run.name} was begun.",
                index=entry,
                remedy="Begin anew: `licet train --fresh`.",
            )
        later = [index for index, _ in log.all_of(RunStarted) if index > entry]
        if later:
            raise ConfigError(
                f"Another run was begun after {run.name} (entry {later[0]}), so this one cannot go on.",
                remedy="Start a new run whose [model] base is the last seal's folder.",
            )
        return entry, started
