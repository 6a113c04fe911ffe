"""Content that can be erased: texts in files of their own, of which the logs hold only salted commitments.

A commitment is SHA-256 over a purpose, 32 random bytes of salt, and the content. While salt and content are here,
anybody may be shown that they belong to it; once they are deleted, it tells nothing, not even to somebody who guesses
the content, and every proof about the entry that holds it stays valid.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from licet.ledger.errors import MissingFileError, NotFoundError, StorageError, VerificationError
from licet.ledger.files import read_whole, sync_folder, write_whole
from licet.ledger.records import Digest

CONTENT_BYTES_MAX = 1 << 30
_SALT_BYTES = 32
_PURPOSE = b"licet/content/v1\x00"


def commit_to(content: bytes, salt: bytes) -> Digest:
    """The commitment to some content under a salt."""
    if len(salt) != _SALT_BYTES:
        raise ValueError("a salt has 32 bytes")
    return Digest(hashlib.sha256(_PURPOSE + salt + content).digest())


@dataclass(frozen=True, slots=True)
class Opening:
    """What shows that a commitment is to some content."""

    salt: bytes
    content: bytes


@dataclass(frozen=True, slots=True)
class ContentStore:
    """A folder of openings, each under its commitment and readable by its owner only."""

    path: Path

    def put(self, content: bytes) -> Digest:
        """Keep some content; its commitment, which is another each time."""
        salt = secrets.token_bytes(_SALT_BYTES)
        commitment = commit_to(content, salt)
        place = self._place(commitment)
        try:
            place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise StorageError(f"{place.parent} could not be made: {error.strerror}.") from error
        write_whole(place, salt + content, mode=0o600)
        return commitment

    def open(self, commitment: bytes) -> Opening:
        """Salt and content, checked against the commitment."""
        try:
            raw = read_whole(self._place(commitment), bytes_max=CONTENT_BYTES_MAX)
        except MissingFileError as error:
            raise NotFoundError(f"The content of {commitment.hex()} is not here: erased, or never kept.") from error
        salt, content = raw[:_SALT_BYTES], raw[_SALT_BYTES:]
        if len(salt) != _SALT_BYTES or commit_to(content, salt) != commitment:
            raise VerificationError(
                f"The file kept for {commitment.hex()} is not what was committed to.",
                remedy="Restore it from a backup, or erase it.",
            )
        return Opening(salt, content)

    def __contains__(self, commitment: bytes) -> bool:
        return self._place(commitment).exists()

    def erase(self, commitment: bytes) -> bool:
        """Delete salt and content for good; whether they were here.

        The file is overwritten first, as far as the file system writes in place; copies in backups are not reached.
        """
        place = self._place(commitment)
        try:
            with place.open("r+b") as file:
                file.write(os.urandom(min(place.stat().st_size, 1 << 20)))
                file.flush()
                os.fsync(file.fileno())
            place.unlink()
            sync_folder(place.parent)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise StorageError(f"{place} could not be erased: {error.strerror}.") from error
        return True

    def _place(self, commitment: bytes) -> Path:
        name = commitment.hex()
        return self.path / name[:2] / name
