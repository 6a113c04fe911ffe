"""Reading content to be attested: a folder of files, rows of JSON lines, Parquet or a saved dataset, or one file.

Only digests are kept, one text at a time is in memory. What is left out of a folder is said; a row that cannot be read
refuses the whole, with its number, because whoever signs should know what for.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from licet.ledger.errors import FormatError, LicetError, LimitError, NotFoundError, StorageError
from licet.ledger.records import Digest
from licet.policies.cli.file_rows import Report, attested_bytes, bad_row, beside, has_rows, read_columns, unreadable
from licet.policies.manifest import ManifestEntry, check_name
from licet.policies.statement import MANIFEST_ENTRIES_MAX

_READ_BYTES = 1 << 20


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


def collect(path: Path, columns: Sequence[str], report: Report) -> Collected:
    """Everything that a path holds. Rows are named after their file and number, files by their path in the folder."""
    skipped: list[Skipped] = []
    if has_rows(path):
        entries = list(_rows(path, columns, report))
        skipped += [Skipped(n, "it is no part of the dataset") for n in beside(path)] if path.is_dir() else []
    elif path.is_dir():
        entries = list(_folder(path, skipped, report))
    else:
        digest, size = _digest_of_file(path)
        entries = [ManifestEntry(check_name(path.name), digest, size)]
    if not entries:
        raise NotFoundError(f"There is no content in {path}.", remedy=_hint(skipped))
    return Collected(tuple(entries), tuple(skipped))


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
        raise unreadable(path, error) from error
    return Digest(hashed.digest()), size


# -- rows


def _rows(path: Path, columns: Sequence[str], report: Report) -> Iterator[ManifestEntry]:
    """Each row as a content of its own."""
    prefix = check_name(path.absolute().name)
    for count, row in enumerate(read_columns(path, columns, (), report)):
        if count >= MANIFEST_ENTRIES_MAX:
            raise LimitError(f"{path} has more than {MANIFEST_ENTRIES_MAX} rows.", remedy="Attest it in parts.")
        try:
            raw = attested_bytes(row.values)
        except LicetError as error:
            raise bad_row(path, row.number, error.message) from error
        yield ManifestEntry(f"{prefix}#{row.number:08d}", Digest(hashlib.sha256(raw).digest()), len(raw))
