"""Options that many commands share, and how a log and a key are named."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from licet.ledger.errors import ConfigError
from licet.ledger.files import read_whole
from licet.ledger.home import LOGS, Home
from licet.ledger.log import Ledger
from licet.ledger.note import NOTE_BYTES_MAX, VerifierKey
from licet.ledger.reader import LogReader

HomeOption = Annotated[
    Path | None, typer.Option("--home", help="The home directory; LICET_HOME, else the working directory.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]
LogArgument = Annotated[
    str, typer.Argument(metavar="LOG", help="registry, training or runtime of the home, or a path.")
]
KeyOption = Annotated[
    str | None,
    typer.Option("--key", help="The log's verifier key, or a file that holds it. For a log of the home: its own."),
]


def log_path(log: str, home: Path | None) -> Path:
    """The directory of a log of the home, or of a path."""
    return Home.find(home).log(log) if log in LOGS else Path(log)


def read_log(log: str, home: Path | None) -> LogReader:
    return LogReader.open(log_path(log, home))


def write_log(log: str, home: Path | None) -> Ledger:
    if log not in LOGS:
        raise ConfigError(
            f"{log} is not a log of a home, and writing needs its key.", remedy="Use --home and its name."
        )
    return Home.find(home).open_log(log)


def verifier_key(key: str | None, log: str, home: Path | None) -> VerifierKey:
    """The key to verify with. Never the one that a log says of itself: that would prove nothing."""
    if key is None:
        if log in LOGS:
            return Home.find(home).verifier_key(log)
        raise ConfigError(
            "A log cannot vouch for itself: say which key it should be signed by.",
            remedy="Pass --key with the verifier key that its operator published.",
        )
    if "+" not in key and Path(key).is_file():
        key = read_whole(Path(key), bytes_max=4096).decode(errors="replace")
    return VerifierKey.parse(key)


def read_note(path: Path | None) -> bytes | None:
    return None if path is None else read_whole(path, bytes_max=NOTE_BYTES_MAX)
