"""Proofs that an entry stands in a log, as C2SP tlog-proof files that verify offline.

A *receipt* of Licet is such a proof whose `extra` line carries the entry itself. The format does not authenticate that
line; here the inclusion proof does, because what is hashed into the leaf is the extra data. So a receipt and a verifier
key are all that `licet receipt verify FILE --key VKEY` needs.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from licet.ledger.errors import FormatError, LimitError, NotFoundError, SignatureError
from licet.ledger.merkle import leaf_hash, verify_inclusion
from licet.ledger.note import (
    NOTE_BYTES_MAX,
    Checkpoint,
    KeyType,
    VerifierKey,
    open_checkpoint,
    open_note_by,
    split_note,
    strict_base64,
)

PROOF_BYTES_MAX = 2 << 20
HASHES_MAX = 63
"""A log has fewer than 2^63 entries, so no path through its tree is longer."""

_FIRST_LINE = "c2sp.org/tlog-proof@v1"
_SUFFIX_HINT = "It is a text file that begins with `c2sp.org/tlog-proof@v1`, as `licet ledger prove` writes it."


class Provable(Protocol):
    """A log that can be asked for proofs: its database, or tiles of it."""

    def entry(self, index: int) -> bytes: ...
    def prove_inclusion(self, index: int, size: int | None = None) -> list[bytes]: ...
    def latest_checkpoint(self) -> bytes | None: ...


@dataclass(frozen=True, slots=True)
class Proof:
    """Where an entry stands, the hashes from its leaf up to the root, and the signed checkpoint with that root."""

    index: int
    hashes: tuple[bytes, ...]
    checkpoint: bytes
    extra: bytes | None = None

    def format(self) -> bytes:
        """The proof as a file."""
        lines = [_FIRST_LINE]
        if self.extra is not None:
            lines.append(f"extra {base64.b64encode(self.extra).decode()}")
        lines.append(f"index {self.index}")
        lines += [base64.b64encode(value).decode() for value in self.hashes]
        raw = "\n".join(lines).encode() + b"\n\n" + self.checkpoint
        if len(raw) > PROOF_BYTES_MAX:
            raise LimitError(f"A proof may have {PROOF_BYTES_MAX} bytes.", remedy="Carry less extra data.")
        return raw

    @classmethod
    def parse(cls, raw: bytes) -> Proof:
        """Read a proof; nothing in it is verified yet."""
        if len(raw) > PROOF_BYTES_MAX:
            raise FormatError(f"A proof may have {PROOF_BYTES_MAX} bytes; this one has more.", remedy=_SUFFIX_HINT)
        head, found, note = raw.partition(b"\n\n")
        try:
            lines = head.decode("ascii").split("\n")
        except UnicodeDecodeError as error:
            raise _malformed("its lines are not plain ASCII") from error
        if lines.pop(0) != _FIRST_LINE or not found:
            raise _malformed("its first line or the empty line before the checkpoint is missing")
        if not note or len(note) > NOTE_BYTES_MAX:
            raise _malformed("its checkpoint is missing or too large")
        extra = None
        if lines and lines[0].startswith("extra "):
            extra = strict_base64(lines.pop(0).removeprefix("extra "))
            if extra is None:
                raise _malformed("its extra line is not base64")
        if not lines or not lines[0].startswith("index "):
            raise _malformed("it has no index line")
        index = parse_size(lines.pop(0).removeprefix("index "))
        if index is None:
            raise _malformed("its index is not a number")
        hashes = parse_hashes(lines)
        if hashes is None:
            raise _malformed(f"it has more than {HASHES_MAX} hashes, or one that is not 32 bytes in base64")
        return cls(index, hashes, note, extra)


def parse_size(text: str) -> int | None:
    """A decimal number below 2^63 in its one spelling, as proofs and witnesses write it."""
    if not (text.isascii() and text.isdigit()) or len(text) > 19 or (text[0] == "0" and text != "0"):
        return None
    value = int(text)
    return value if value < 2**63 else None


def parse_hashes(lines: Sequence[str]) -> tuple[bytes, ...] | None:
    """The hashes of a proof, one to a line."""
    if len(lines) > HASHES_MAX:
        return None
    hashes = []
    for line in lines:
        value = strict_base64(line)
        if value is None or len(value) != 32:
            return None
        hashes.append(value)
    return tuple(hashes)


def make_proof(log: Provable, index: int, note: bytes | None = None, *, extra: bytes | None = None) -> Proof:
    """The proof of one entry at a signed checkpoint, by default the newest; it is checked before it is given out."""
    note = log.latest_checkpoint() if note is None else note
    if note is None:
        raise NotFoundError(
            "This log has no signed checkpoint, so nothing can be proved of it.", remedy="Sign one, then ask again."
        )
    checkpoint = Checkpoint.parse(split_note(note)[0])
    if not 0 <= index < checkpoint.size:
        raise NotFoundError(
            f"Entry {index} is not among the {checkpoint.size} that were signed.",
            remedy="Wait for the next checkpoint, or sign one, if the entry was appended just now.",
        )
    hashes = log.prove_inclusion(index, checkpoint.size)
    verify_inclusion(index, checkpoint.size, leaf_hash(log.entry(index)), hashes, checkpoint.root)
    return Proof(index, tuple(hashes), note, extra)


def make_receipt(log: Provable, index: int, note: bytes | None = None) -> Proof:
    """A proof that carries its entry."""
    return make_proof(log, index, note, extra=log.entry(index))


def verify_proof(
    proof: Proof,
    entry: bytes,
    keys: Sequence[VerifierKey],
    *,
    witnesses: Sequence[VerifierKey] = (),
    witnesses_min: int = 0,
) -> Checkpoint:
    """The checkpoint by which one of `keys` vouches that `entry` stands at the proof's index; else it raises.

    With `witnesses_min`, that many of `witnesses` must have cosigned the checkpoint too.
    """
    checkpoint = open_checkpoint(proof.checkpoint, keys)
    _check_witnesses(proof.checkpoint, witnesses, witnesses_min)
    verify_inclusion(proof.index, checkpoint.size, leaf_hash(entry), proof.hashes, checkpoint.root)
    return checkpoint


def verify_receipt(
    proof: Proof,
    keys: Sequence[VerifierKey],
    *,
    witnesses: Sequence[VerifierKey] = (),
    witnesses_min: int = 0,
) -> tuple[Checkpoint, bytes]:
    """The checkpoint and the entry of a receipt that verifies; else it raises."""
    if proof.extra is None:
        raise FormatError(
            "This proof does not carry its entry, so it is not a receipt.",
            remedy="Pass the entry along with it (`--entry FILE`), or ask for a receipt.",
        )
    return verify_proof(proof, proof.extra, keys, witnesses=witnesses, witnesses_min=witnesses_min), proof.extra


def _check_witnesses(note: bytes, witnesses: Sequence[VerifierKey], count_min: int) -> None:
    if count_min <= 0:
        return
    known = [key for key in witnesses if key.type is KeyType.COSIGNATURE]
    found = {key.public for key in open_note_by(note, known)[1]}
    if len(found) < count_min:
        raise SignatureError(
            f"{len(found)} of the known witnesses cosigned this checkpoint; {count_min} are asked for.",
            remedy="Ask for a proof at a checkpoint that more witnesses have seen.",
        )


def _malformed(what: str) -> FormatError:
    return FormatError(f"This is not a proof: {what}.", remedy=_SUFFIX_HINT)
