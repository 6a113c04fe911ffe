"""What lies where in a log's directory, who may write to it, and the anchor beside it.

logs/training/ledger.json    what this log is: origin, first verifier key, format
logs/training/db/            the database
logs/training/lock           held by the one writer, and who that is
logs/training.anchor         the last signed checkpoint, outside what a restored backup would bring back
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from licet.ledger.errors import (
    FormatError,
    LedgerError,
    LockedError,
    MissingFileError,
    NotALedgerError,
    RollbackError,
    StorageError,
)
from licet.ledger.files import read_whole, write_whole
from licet.ledger.note import NOTE_BYTES_MAX, VerifierKey

FORMAT = 1
_DESCRIPTION_BYTES_MAX = 65_536


@dataclass(frozen=True, slots=True)
class Description:
    """What a log says of itself. It is not signed: a verifier brings the key it trusts."""

    origin: str
    verifier_key: VerifierKey

    def to_json(self) -> bytes:
        text = {"format": FORMAT, "origin": self.origin, "verifier_key": str(self.verifier_key)}
        return json.dumps(text, indent=2).encode() + b"\n"


@dataclass(frozen=True, slots=True)
class LogDirectory:
    """The paths of one log."""

    path: Path

    @property
    def database(self) -> Path:
        return self.path / "db"

    @property
    def anchor(self) -> Path:
        return self.path.with_name(self.path.name + ".anchor")

    @property
    def description_file(self) -> Path:
        return self.path / "ledger.json"

    def describe(self) -> Description:
        """Read what this log is."""
        try:
            raw = read_whole(self.description_file, bytes_max=_DESCRIPTION_BYTES_MAX)
        except StorageError as error:
            raise NotALedgerError(
                f"{self.path} is not a log.",
                remedy="A log's directory holds ledger.json and db/; `licet init` makes a home with its logs.",
            ) from error
        try:
            fields = json.loads(raw)
            version, origin = fields["format"], fields["origin"]
            key = VerifierKey.parse(fields["verifier_key"])
            if not isinstance(origin, str):
                raise TypeError("an origin is a text")
        except (ValueError, TypeError, KeyError, AttributeError, FormatError) as error:
            raise NotALedgerError(
                f"{self.description_file} does not describe a log.", remedy="Restore it from a backup or mirror."
            ) from error
        if version != FORMAT:
            raise LedgerError(
                f"{self.path} has format {version}; this release reads format {FORMAT}.",
                remedy="Use a release that knows it.",
            )
        return Description(origin, key)

    def read_anchor(self) -> bytes | None:
        """The signed checkpoint beside the database, if there is one."""
        try:
            return read_whole(self.anchor, bytes_max=NOTE_BYTES_MAX)
        except MissingFileError:
            return None

    def write_anchor(self, note: bytes) -> None:
        write_whole(self.anchor, note)

    def missing_anchor(self) -> RollbackError:
        return RollbackError(
            f"{self.anchor} is missing, though this log was signed before: it may have been rolled back.",
            remedy=f"If you hold a checkpoint that you trust, put it there; else take the risk knowingly with "
            f"`licet ledger re-anchor {self.path}`.",
        )


class WriterLock:
    """The right to write to a log: held by one process, given up by its end however that comes."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    @classmethod
    def take(cls, directory: LogDirectory) -> WriterLock:
        path = directory.path / "lock"
        try:
            file = open(path, "a+", encoding="utf-8")  # noqa: SIM115  held open for as long as the lock is
        except OSError as error:
            raise StorageError(
                f"{path} cannot be opened for writing: {error.strerror}.",
                remedy="Take a directory that you may write to, or read the log without writing.",
            ) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            holder = _Holder.parse(file.read(4096))
            file.close()
            raise LockedError(
                f"{directory.path} is being written to by {holder}.",
                pid=holder.pid,
                remedy="Go through that process (`licet revoke --server URL` for a server), or stop it first.",
            ) from error
        lock = cls(file)
        command = " ".join(Path(part).name if i == 0 else part for i, part in enumerate(sys.argv[:3]))
        try:
            file.truncate(0)
            file.write(f"{os.getpid()}\n{command[:200]}\n")
            file.flush()
        except OSError as error:
            lock.release()
            raise StorageError(
                f"{path} cannot be written: {error.strerror or error}.",
                remedy="Look at free space (df) and the disk's health.",
            ) from error
        return lock

    def release(self) -> None:
        """Let others write. What the file says of its holder is a courtesy, so failing to clear it is no failure."""
        with contextlib.suppress(OSError):
            self._file.truncate(0)
        with contextlib.suppress(OSError):
            self._file.close()


@dataclass(frozen=True, slots=True)
class _Holder:
    """Who holds a lock, as far as the lock file tells."""

    pid: int | None
    command: str

    @classmethod
    def parse(cls, text: str) -> _Holder:
        pid, _, command = text.partition("\n")
        return cls(int(pid) if pid.isascii() and pid.isdigit() else None, command.strip())

    def __str__(self) -> str:
        return f"process {self.pid} ({self.command})" if self.pid else "another process"
