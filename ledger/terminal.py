"""How commands speak: data on stdout, progress and errors on stderr, `--json` for machines, stable exit codes.

0 good · 1 a negative finding · 2 usage, configuration or input and output · 101 a bug
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import Any, NoReturn

from licet.ledger.errors import ForkError, LicetError, VerificationError

BUG = 101


def plain(value: Any) -> Any:
    """A value as JSON has it: bytes in hexadecimal, records as objects."""
    if isinstance(value, bytes):
        return value.hex()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    return value


def show_json(value: Any) -> None:
    sys.stdout.write(json.dumps(plain(value), ensure_ascii=False) + "\n")


def show(text: str = "") -> None:
    sys.stdout.write(text + "\n")


def show_result(facts: dict[str, Any], text: str, *, as_json: bool) -> None:
    """What a command did: the facts for a program, the sentence for a person."""
    if as_json:
        show_json(facts)
    else:
        show(text)


def say(text: str) -> None:
    """Something for the person who waits, not for the program that reads."""
    sys.stderr.write(text + "\n")


def show_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, right: frozenset[int] = frozenset()) -> None:
    """Aligned columns, whatever the width of the terminal; the columns numbered in `right` are flush right."""
    cells = [list(columns), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    for row in cells:
        padded = (c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        show("  ".join(padded).rstrip())


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr for work that may take long; nothing where nobody watches."""
    if not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def run(command: Callable[[], Any], *, as_json: bool) -> NoReturn:
    """Run a command line to its exit code."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that what was opened is closed
    try:
        code = command()
        sys.stdout.flush()
    except LicetError as error:
        _report(error, as_json=as_json)
        code = error.exit_code
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = 0
    except KeyboardInterrupt:
        say("Interrupted.")
        code = 130
    except Exception:  # noqa: BLE001  the last line of defence says that it is one
        traceback.print_exc()
        say("This is a bug in Licet: please report it with the lines above.")
        code = BUG
    sys.exit(code if isinstance(code, int) else 0)


def _report(error: LicetError, *, as_json: bool) -> None:
    if as_json:
        index = error.index if isinstance(error, VerificationError) else None
        kind = type(error).__name__
        show_json({"error": kind, "message": error.message, "remedy": error.remedy, "index": index})
        return
    say(f"error: {error.message}")
    if error.remedy:
        say(f"  what to do: {error.remedy}")
    if isinstance(error, ForkError):
        say("evidence, two contradicting checkpoints:")
        for note in (error.ours, error.theirs):
            say(note.decode(errors="replace"))


def text(value: Any) -> str:
    """A value on one line for a person."""
    value = plain(value)
    if isinstance(value, dict):
        return " ".join(f"{key}={text(item)}" for key, item in value.items())
    if isinstance(value, list):
        return "[" + ", ".join(text(item) for item in value) + "]"
    return "-" if value is None else str(value).replace("\n", "⏎")
