"""Files that are either whole or absent, and reads that cannot be made to swallow a disk."""

from __future__ import annotations

import os
from pathlib import Path

from licet.ledger.errors import LimitError, MissingFileError, StorageError


def write_whole(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write so that a crash at any instant leaves the old file or the new, and the new survives once this returns."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)
    except OSError as error:
        raise StorageError(
            f"{path} could not be written: {error.strerror or error}.",
            remedy="Look at free space and permissions; nothing was changed.",
        ) from error


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_whole(path: Path, *, bytes_max: int) -> bytes:
    """The contents of a file of at most `bytes_max` bytes."""
    try:
        with path.open("rb") as file:
            data = file.read(bytes_max + 1)
    except FileNotFoundError as error:
        raise MissingFileError(f"There is no file {path}.", remedy="Check the path.") from error
    except OSError as error:
        raise StorageError(f"{path} could not be read: {error.strerror or error}.") from error
    if len(data) > bytes_max:
        raise LimitError(f"{path} has more than the {bytes_max} bytes that such a file may have.")
    return data
