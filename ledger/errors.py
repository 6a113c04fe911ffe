"""The error tree: every failure a user can meet, each with a message that says what to do."""

from __future__ import annotations


class LicetError(Exception):
    """Base of every error Licet raises on purpose.

    `message` says what is wrong, `remedy` what the reader can do about it.
    """

    exit_code = 2

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}".rstrip()


class ConfigError(LicetError):
    """A home directory, a setting or an argument that cannot be used."""


class Finding(LicetError):
    """A negative finding: the question was answered, and the answer is no."""

    exit_code = 1


class ProofError(Finding):
    """A Merkle proof does not lead to the root it should."""


class SignatureError(Finding):
    """A note is not signed by a key that was asked for."""


class ForkError(Finding):
    """Two signed checkpoints of one log contradict each other."""

    def __init__(self, message: str, *, ours: bytes, theirs: bytes, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.ours = ours
        self.theirs = theirs


class VerificationError(Finding):
    """What a log holds is not what it proves. `index` names the first bad entry where there is one."""

    def __init__(self, message: str, *, index: int | None = None, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.index = index


class NotFoundError(Finding):
    """The log holds no such entry, source, attestation, example or seal."""


class FormatError(LicetError):
    """Bytes that are not what they claim to be: a record, a note, a proof, a tile, a key."""


class KeyFileError(LicetError):
    """A key file that cannot be read, written or unlocked."""


class LedgerError(LicetError):
    """A log that cannot be opened, read or written."""


class NotALedgerError(LedgerError):
    """The directory holds no log."""


class LockedError(LedgerError):
    """Another process writes to this log."""

    def __init__(self, message: str, *, pid: int | None, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.pid = pid


class RollbackError(LedgerError):
    """The log is older than, or differs from, what was signed before."""


class CorruptError(LedgerError):
    """The log's own parts contradict each other."""


class ClosedError(LedgerError):
    """The log was closed, or stopped after a failed write, and takes no more entries."""


class StorageError(LedgerError):
    """The disk refused: full, read-only, or failing."""


class RemoteError(LicetError):
    """A server that could not be reached, or that answered with something other than what was asked for."""


class MissingFileError(StorageError):
    """A file that was named is not there."""


class LimitError(LicetError):
    """More than a documented limit allows."""


class OrderError(LicetError):
    """Records offered in an order that the log does not allow."""
