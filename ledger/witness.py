"""A witness: it cosigns a log's checkpoint only if it grew from the last one that it cosigned (C2SP tlog-witness).

A log that wants to show two histories must then deceive every witness too. What was cosigned is on the disk before the
cosignature leaves, so a crash can at worst lose an answer, never the memory of having given it.

`witness_server.py` puts this behind HTTP; `submit` is the log's side.
"""

from __future__ import annotations

import base64
import hashlib
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from licet.ledger.directory import LogDirectory, WriterLock
from licet.ledger.errors import (
    ConfigError,
    CorruptError,
    FormatError,
    LicetError,
    LimitError,
    LockedError,
    MissingFileError,
    ProofError,
    RemoteError,
    RollbackError,
    SignatureError,
    StorageError,
)
from licet.ledger.files import read_whole, write_whole
from licet.ledger.merkle import verify_consistency
from licet.ledger.note import (
    SIGNATURES_MAX,
    Checkpoint,
    KeyType,
    SigningKey,
    VerifierKey,
    open_checkpoint,
    open_note_by,
    split_note,
)
from licet.ledger.proof import parse_hashes, parse_size
from licet.ledger.tree import EMPTY_ROOT
from licet.ledger.web import Patience, check_url, post

REQUEST_BYTES_MAX = 64 << 10
ANSWER_BYTES_MAX = 64 << 10
EVIDENCE_FILES_MAX = 256
ATTEMPTS_MAX = 4
SIZE_TYPE = "text/x.tlog.size"

_TEXT = "text/plain; charset=utf-8"
_REQUEST = re.compile(rb"old ([0-9]{1,19})\n((?:[A-Za-z0-9+/=]+\n)*)\n", re.ASCII)


@dataclass(frozen=True, slots=True)
class Reply:
    """What a witness answers: an HTTP status, headers and a body."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    @classmethod
    def text(cls, status: int, message: str) -> Reply:
        return cls(status, (("Content-Type", _TEXT),), message.encode() + b"\n")

    @classmethod
    def conflict(cls, size: int) -> Reply:
        return cls(409, (("Content-Type", SIZE_TYPE),), b"%d\n" % size)


@dataclass(frozen=True, slots=True)
class Submission:
    """A request to cosign: the size of the last cosigned checkpoint, the proof from there, the new checkpoint."""

    old_size: int
    hashes: tuple[bytes, ...]
    note: bytes

    def format(self) -> bytes:
        lines = [f"old {self.old_size}", *(base64.b64encode(value).decode() for value in self.hashes)]
        return "\n".join(lines).encode() + b"\n\n" + self.note

    @classmethod
    def parse(cls, body: bytes) -> Submission:
        match = _REQUEST.match(body)
        old_size = parse_size(match[1].decode()) if match is not None else None
        hashes = parse_hashes(match[2].decode().splitlines()) if match is not None else None
        if match is None or old_size is None or hashes is None:
            raise FormatError("The request is not `old SIZE`, at most 63 hashes, an empty line and a checkpoint.")
        return cls(old_size, hashes, body[match.end() :])


class Witness:
    """What a witness knows of each log, and its decision on each checkpoint.

    `logs` gives the keys of each origin. State lies in `folder`: the last cosigned checkpoint of each log, as its log
    signed it. The folder belongs to one process.
    """

    def __init__(
        self,
        key: SigningKey,
        logs: Mapping[str, Sequence[VerifierKey]],
        folder: Path,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._key = key
        self._logs = {origin: tuple(keys) for origin, keys in logs.items()}
        for origin, keys in self._logs.items():
            if not any(key.type is KeyType.ED25519 for key in keys):
                raise ConfigError(f"The witness has no key of the log {origin}.", remedy="Pass its verifier key.")
        self._folder = folder
        self._clock = clock
        self._locks = {origin: threading.Lock() for origin in self._logs}
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"{folder} cannot be made: {error.strerror}.", remedy="Choose a folder that you may write to."
            ) from error
        self._process_lock: WriterLock | None = None
        try:
            self._process_lock = WriterLock.take(LogDirectory(folder))
        except LockedError as error:
            remedy = "One witness keeps one folder: stop the other first, or choose another folder."
            raise LockedError(error.message, pid=error.pid, remedy=remedy) from error

    @property
    def verifier(self) -> VerifierKey:
        """The key that checks this witness's cosignatures."""
        return self._key.witness_verifier

    def close(self) -> None:
        if self._process_lock is not None:
            self._process_lock.release()
            self._process_lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def last(self, origin: str) -> Checkpoint | None:
        """The last checkpoint of a log that was cosigned. A state that is damaged is never taken for no state."""
        note = self._last_note(origin)
        if note is None:
            return None
        try:
            return open_checkpoint(note, self._logs[origin], origin=origin)
        except (SignatureError, FormatError) as error:
            raise CorruptError(
                f"{self._state(origin)} does not hold a checkpoint that {origin} signed with a key known here.",
                remedy="If a key was removed from the witness's configuration, add it again; else restore the file.",
            ) from error

    def add_checkpoint(self, body: bytes) -> Reply:
        """Decide on a request."""
        # The statuses come in the order in which the specification asks for them.
        try:
            if len(body) > REQUEST_BYTES_MAX:
                return Reply.text(413, f"A request may have {REQUEST_BYTES_MAX} bytes.")
            submission = Submission.parse(body)
            claimed = Checkpoint.parse(split_note(submission.note)[0])
        except (FormatError, SignatureError) as error:
            return Reply.text(400, error.message)
        keys = self._logs.get(claimed.origin)
        if keys is None:
            return Reply.text(404, "This witness does not know the log.")
        try:
            checkpoint = open_checkpoint(submission.note, keys, origin=claimed.origin)
        except SignatureError as error:
            return Reply.text(403, error.message)
        if submission.old_size > checkpoint.size:
            return Reply.text(400, "The old size is greater than the checkpoint's.")
        with self._locks[checkpoint.origin]:
            return self._decide(submission, checkpoint)

    def _decide(self, submission: Submission, checkpoint: Checkpoint) -> Reply:
        """The part that must see one request of a log at a time, up to the state's being on the disk."""
        last = self.last(checkpoint.origin)
        size, root = (last.size, last.root) if last is not None else (0, EMPTY_ROOT)
        if submission.old_size != size:
            return Reply.conflict(size)
        if checkpoint.size == size and checkpoint.root != root:
            self._keep_evidence(checkpoint.origin, submission.note)
            return Reply.conflict(size)
        try:
            if size:
                verify_consistency(size, checkpoint.size, root, checkpoint.root, submission.hashes)
            elif submission.hashes:
                raise ProofError("The proof from the empty log is empty.")
        except ProofError as error:
            self._keep_evidence(checkpoint.origin, submission.note)
            return Reply.text(422, error.message)
        if last != checkpoint:
            write_whole(self._state(checkpoint.origin), submission.note)
        return Reply(200, (("Content-Type", _TEXT),), self._key.cosign(checkpoint.body(), int(self._clock())))

    def _state(self, origin: str) -> Path:
        return self._folder / f"{_file_name(origin)}.checkpoint"

    def _last_note(self, origin: str) -> bytes | None:
        try:
            return read_whole(self._state(origin), bytes_max=REQUEST_BYTES_MAX)
        except MissingFileError:
            return None
        except LimitError as error:
            raise CorruptError(error.message, remedy="Restore the witness's state from a backup.") from error

    def _keep_evidence(self, origin: str, note: bytes) -> None:
        """A checkpoint that its log signed and that does not follow may prove a fork: keep it, within bounds."""
        folder = self._folder / "evidence"
        folder.mkdir(exist_ok=True)
        path = folder / f"{_file_name(origin)}-{hashlib.sha256(note).hexdigest()[:16]}.checkpoint"
        if not path.exists() and sum(1 for _ in folder.iterdir()) < EVIDENCE_FILES_MAX:
            write_whole(path, note)


class Growing(Protocol):
    """A log that can prove how it grew: its database, or tiles of it."""

    def prove_consistency(self, size1: int, size2: int | None = None) -> list[bytes]: ...


def submit(
    url: str,
    note: bytes,
    log: Growing,
    witness_key: VerifierKey,
    *,
    old_size: int = 0,
    patience: Patience | None = None,
) -> bytes:
    """Have a witness cosign a checkpoint of this log; the note with its cosignature.

    `old_size` is what the witness cosigned last, as far as one knows: it tells if that is wrong.
    """
    url = check_url(url) + "/add-checkpoint"
    if witness_key.type is not KeyType.COSIGNATURE:
        raise ConfigError(
            f"{witness_key} is a log's key, not a witness's.",
            remedy="Pass the verifier key that the witness published.",
        )
    checkpoint = Checkpoint.parse(split_note(note)[0])
    asked: set[int] = set()
    for _ in range(ATTEMPTS_MAX):
        old_size = _known_size(old_size, checkpoint, asked)
        proof = log.prove_consistency(old_size, checkpoint.size) if 0 < old_size < checkpoint.size else []
        body = Submission(old_size, tuple(proof), note).format()
        answer = post(url, body, bytes_max=ANSWER_BYTES_MAX, patience=patience or Patience())
        if answer.status == 200:
            return _with_cosignature(note, answer.body, witness_key)
        told = parse_size(answer.body.decode("ascii", "replace").removesuffix("\n")) if answer.status == 409 else None
        if told is None:
            raise _refused(url, answer.status, answer.body)
        old_size = told
    raise RemoteError(f"{url} told another size each time it was asked.", remedy="Ask again when the log is quiet.")


def _known_size(old_size: int, checkpoint: Checkpoint, asked: set[int]) -> int:
    """The size to prove from; raise where the witness knows something that this log does not."""
    if old_size > checkpoint.size:
        raise RollbackError(
            f"The witness cosigned {old_size} entries of {checkpoint.origin}; this checkpoint has {checkpoint.size}.",
            remedy="Submit the newest checkpoint. If this is the newest, the log was rolled back.",
        )
    if old_size in asked:
        raise RollbackError(
            f"The witness cosigned another log of {old_size} entries under the name {checkpoint.origin}.",
            remedy="The log was forked: compare with a mirror and ask the witness for the checkpoint it keeps.",
        )
    asked.add(old_size)
    return old_size


def _refused(url: str, status: int, body: bytes) -> LicetError:
    said = body[:200].decode("utf-8", "replace").strip()
    why = {
        403: "It does not know the key that signed this checkpoint: give its operator the log's newest key.",
        404: "It does not know this log, or the URL is wrong: ask its operator to add the log.",
        422: "The log is not the one that it cosigned before: compare with a mirror.",
    }
    message = f"{url} did not cosign (status {status}): {said!r}."
    if status == 422:
        return ProofError(message, remedy=why[status])
    return RemoteError(message, remedy=why.get(status, "Check that the URL is a witness's."))


def _with_cosignature(note: bytes, answer: bytes, key: VerifierKey) -> bytes:
    """The note with the cosignature of this witness that an answer brings, in place of an older one."""
    body, signatures = split_note(note)
    lines = note[len(body) + 1 :].decode().split("\n")[:-1]
    kept = [line for line, s in zip(lines, signatures, strict=True) if (s.name, s.key_id) != (key.name, key.id)]
    for line in answer.decode("utf-8", "replace").split("\n")[:SIGNATURES_MAX]:
        try:
            open_note_by(body + b"\n" + line.encode() + b"\n", [key])
        except SignatureError:
            continue
        if len(kept) >= SIGNATURES_MAX:
            raise LimitError(f"A note carries {SIGNATURES_MAX} signatures at most.", remedy="Ask fewer witnesses.")
        return body + b"\n" + "".join(f"{each}\n" for each in [*kept, line]).encode()
    raise SignatureError(
        f"The witness answered without a cosignature by {key}.",
        remedy="Compare the key with the one that the witness publishes.",
    )


def _file_name(origin: str) -> str:
    """Origins are other people's text: they never become part of a path."""
    return hashlib.sha256(origin.encode()).hexdigest()[:32]
