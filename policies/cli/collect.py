"""Reading content to be attested: a folder of files, rows of JSON lines or Parquet, or one file.

Only digests are kept, one text at a time is in memory. What is left out of a folder is said; a row that cannot be read
refuses the whole, with its number, because whoever signs should know what for.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from licet.ledger.errors import ConfigError, FormatError, LimitError, MissingFileError, NotFoundError, StorageError
from licet.ledger.records import Digest
from licet.policies.manifest import ManifestEntry, check_name
from licet.policies.statement import MANIFEST_ENTRIES_MAX

ROW_BYTES_MAX = 64 << 20
_READ_BYTES = 1 << 20
_ROWS_AT_ONCE = 256
JSON_LINES = (".jsonl", ".ndjson")
PARQUET = ".parquet"

Report = Callable[[int, int], None]
"""How far the reading is: done, and of how much."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """Something in a folder that is not attested, and why."""

    name: str
    why: str


@dataclass(frozen=True, slots=True)
class Collected:
    """The content that was found."""

    entries: tuple[ManifestEntry, ...]
    skipped: tuple[Skipped, ...] = ()


def collect(path: Path, column: str, report: Report) -> Collected:
    """Everything that a path holds. Rows are named after their file and number, files by their path in the folder."""
    skipped: list[Skipped] = []
    kind = _kind_of(path)
    if stat.S_ISDIR(kind):
        entries = list(_folder(path, skipped, report))
    elif not stat.S_ISREG(kind):  # a pipe would keep us waiting for ever
        raise StorageError(f"{path} is no regular file.", remedy="Name a file or a folder.")
    elif path.suffix.lower() in JSON_LINES:
        entries = list(_rows(path, _json_lines(path, column, report)))
    elif path.suffix.lower() == PARQUET:
        entries = list(_rows(path, _parquet(path, column, report)))
    else:
        digest, size = _digest_of_file(path)
        entries = [ManifestEntry(check_name(path.name), digest, size)]
    if not entries:
        raise NotFoundError(f"There is no content in {path}.", remedy=_hint(skipped))
    return Collected(tuple(entries), tuple(skipped))


def _kind_of(path: Path) -> int:
    try:
        return path.stat().st_mode
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def _hint(skipped: list[Skipped]) -> str:
    return "; ".join(f"{one.name}: {one.why}" for one in skipped[:8]) or "Name a folder or file that holds some."


# -- files


def _folder(folder: Path, skipped: list[Skipped], report: Report) -> Iterator[ManifestEntry]:
    found = sorted(_walk(folder, "", skipped))
    for done, name in enumerate(found, start=1):
        try:
            digest, size = _digest_of_file(folder / name)
            yield ManifestEntry(check_name(name), digest, size)
        except (StorageError, FormatError) as error:
            skipped.append(Skipped(ascii(name)[1:-1], error.message.encode(errors="backslashreplace").decode()))
        report(done, len(found))


def _walk(folder: Path, prefix: str, skipped: list[Skipped]) -> Iterator[str]:
    """The regular files below a folder. Links are not followed: what they lead to may lie anywhere."""
    waiting = [prefix]
    count = 0
    while waiting:
        here = waiting.pop()
        try:
            found = sorted(os.scandir(folder / here), key=lambda item: item.name)
        except OSError as error:
            skipped.append(Skipped(here or ".", f"the folder cannot be read: {error.strerror}"))
            continue
        for item in found:
            name = f"{here}/{item.name}" if here else item.name
            why = _why_not(item)
            if why is not None:
                skipped.append(Skipped(ascii(name)[1:-1], why))
            elif item.is_dir(follow_symlinks=False):
                waiting.append(name)
            else:
                count += 1
                if count > MANIFEST_ENTRIES_MAX:
                    raise LimitError(f"{folder} has more than {MANIFEST_ENTRIES_MAX} files.", remedy="Attest parts.")
                yield name


def _why_not(item: os.DirEntry[str]) -> str | None:
    if item.name.startswith("."):
        return "it is hidden"
    if item.is_symlink():
        return "it is a link"
    if not item.is_dir(follow_symlinks=False) and not item.is_file(follow_symlinks=False):
        return "it is no regular file"
    return None


def _digest_of_file(path: Path) -> tuple[Digest, int]:
    """The digest and the length of a file; one that became a pipe meanwhile does not keep us waiting."""
    hashed, size = hashlib.sha256(), 0
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise StorageError(f"{path} is no regular file.", remedy="Name a file or a folder.")
            while chunk := file.read(_READ_BYTES):
                hashed.update(chunk)
                size += len(chunk)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    return Digest(hashed.digest()), size


def _unreadable(path: Path, error: Exception) -> StorageError:
    if isinstance(error, FileNotFoundError):
        return MissingFileError(f"There is no {path}.", remedy="Check the path.")
    why = error.strerror if isinstance(error, OSError) else error
    return StorageError(f"{path} cannot be read: {why}.", remedy="Look at its permissions.")


# -- rows


def _rows(path: Path, texts: Iterator[tuple[int, str]]) -> Iterator[ManifestEntry]:
    """Each row as a content of its own: the digest is of its text in UTF-8."""
    prefix = check_name(path.name)
    for count, (number, text) in enumerate(texts):
        if count >= MANIFEST_ENTRIES_MAX:
            raise LimitError(f"{path} has more than {MANIFEST_ENTRIES_MAX} rows.", remedy="Attest it in parts.")
        try:
            raw = text.encode()
        except UnicodeEncodeError as error:
            raise _bad_row(path, number, "its text is not Unicode: it holds half of a surrogate pair") from error
        yield ManifestEntry(f"{prefix}#{number:08d}", Digest(hashlib.sha256(raw).digest()), len(raw))


def _json_lines(path: Path, column: str, report: Report) -> Iterator[tuple[int, str]]:
    done = 0
    try:
        with path.open("rb") as file:
            total = os.fstat(file.fileno()).st_size
            number = 0
            while line := file.readline(ROW_BYTES_MAX + 1):
                number += 1
                if len(line) > ROW_BYTES_MAX:
                    raise _bad_row(path, number, f"it has more than {ROW_BYTES_MAX >> 20} MiB")
                if line.strip():
                    yield number, _text_of(path, number, line, column)
                done += len(line)
                if number % _ROWS_AT_ONCE == 0 or done == total:
                    report(done, total)
    except OSError as error:
        raise _unreadable(path, error) from error


def _text_of(path: Path, number: int, line: bytes, column: str) -> str:
    try:
        row: Any = json.loads(line.decode())
    except (ValueError, RecursionError) as error:  # a wrong encoding is a ValueError too
        raise _bad_row(path, number, f"it is no JSON: {error}") from error
    text = row.get(column) if isinstance(row, dict) else None
    if not isinstance(text, str):
        why = f"it has no text {column!a}" if isinstance(row, dict) else "it is no object"
        raise _bad_row(path, number, why)
    return text


def _parquet(path: Path, column: str, report: Report) -> Iterator[tuple[int, str]]:
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if column not in names:
                raise ConfigError(
                    f"{path} has no column {column!a}.",
                    remedy=f"Name one with --column; it has {', '.join(map(ascii, names[:20])) or 'none'}.",
                )
            kind = file.schema_arrow.field(column).type
            if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
                raise ConfigError(
                    f"The column {column!a} of {path} holds {kind}, and not text.", remedy="Use --column."
                )
            total, number = file.metadata.num_rows, 0
            for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=[column]):
                for text in batch.column(0):
                    number += 1
                    yield number, _text_of_cell(path, number, text)
                report(number, total)
    except (pa.ArrowException, OSError) as error:
        raise FormatError(
            f"{path} cannot be read as Parquet: {str(error)[:300]}.", remedy="Write it anew: it may have been cut off."
        ) from error


def _text_of_cell(path: Path, number: int, cell: Any) -> str:
    try:
        text = cell.as_py()
    except UnicodeDecodeError as error:
        raise _bad_row(path, number, "its text is not UTF-8") from error
    if not isinstance(text, str):
        raise _bad_row(path, number, "its text is null")
    return text


def _bad_row(path: Path, number: int, why: str) -> FormatError:
    what = "Row" if path.suffix.lower() == PARQUET else "Line"
    return FormatError(f"{what} {number} of {path} cannot be attested: {why}.", remedy="Mend it, or take it out.")
