"""Signed notes and checkpoints in the C2SP formats: the text, its signatures, the keys that made them.

Everything here works on bytes already read; files of keys are `keys.py`'s.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from licet.ledger.errors import FormatError, SignatureError

NOTE_BYTES_MAX = 1_000_000
SIGNATURES_MAX = 16
_SIGNATURE_LINE = re.compile(r"— ([^ ]+) ([A-Za-z0-9+/=]+)\n")
_SIZE_LIMIT = 2**63


class KeyType(IntEnum):
    """What a key signs: the note itself, or a timed cosignature of it by a witness."""

    ED25519 = 0x01
    COSIGNATURE = 0x04


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """The public half of a key, under the name it signs as."""

    name: str
    public: bytes
    type: KeyType = KeyType.ED25519

    def __post_init__(self) -> None:
        check_key_name(self.name)
        if len(self.public) != 32:
            raise FormatError("An Ed25519 public key has 32 bytes.")

    @property
    def id(self) -> bytes:
        """Four bytes that tell signatures of one name's keys apart."""
        return hashlib.sha256(self.name.encode() + b"\n" + bytes([self.type]) + self.public).digest()[:4]

    def __str__(self) -> str:
        encoded = base64.b64encode(bytes([self.type]) + self.public).decode()
        return f"{self.name}+{self.id.hex()}+{encoded}"

    @classmethod
    def parse(cls, text: str) -> VerifierKey:
        """Read `name+id+base64`; the id must be the key's own."""
        bad = FormatError(
            "This is not a verifier key.",
            remedy="It is one line: NAME+8 hex digits+base64, as `licet ledger key` prints it.",
        )
        parts = text.strip().split("+", 2)
        if len(parts) != 3:
            raise bad
        name, key_id, encoded = parts
        raw = strict_base64(encoded)
        if raw is None or len(raw) != 33 or raw[0] not in tuple(KeyType):
            raise bad
        key = cls(name, raw[1:], KeyType(raw[0]))
        if key.id.hex() != key_id:
            raise FormatError(f"The verifier key of {name} does not carry its own id: it was mistyped or altered.")
        return key

    def verify(self, signature: bytes, body: bytes) -> None:
        """Raise unless `signature` (the part after the key id) is this key's over `body`."""
        message = body
        if self.type is KeyType.COSIGNATURE:
            if len(signature) != 72:
                raise SignatureError(f"The cosignature of {self.name} has a wrong length.")
            (time,) = struct.unpack(">Q", signature[:8])
            message, signature = _cosigned(body, time), signature[8:]
        verify_ed25519(self.public, signature, message, who=self.name)


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key and the name it signs as. Its text form never shows the private half."""

    name: str
    private: Ed25519PrivateKey = field(repr=False)

    def __post_init__(self) -> None:
        check_key_name(self.name)

    @classmethod
    def generate(cls, name: str) -> SigningKey:
        return cls(name, Ed25519PrivateKey.generate())

    @property
    def verifier(self) -> VerifierKey:
        return VerifierKey(self.name, self.private.public_key().public_bytes_raw())

    @property
    def witness_verifier(self) -> VerifierKey:
        """The verifier of this key's cosignatures."""
        return VerifierKey(self.name, self.verifier.public, KeyType.COSIGNATURE)

    def sign_raw(self, message: bytes) -> bytes:
        """A bare Ed25519 signature."""
        return self.private.sign(message)

    def sign(self, body: bytes) -> bytes:
        """The signature line for a note with this body."""
        return _line(self.verifier, self.private.sign(body))

    def cosign(self, body: bytes, time_s: int) -> bytes:
        """The cosignature line of a witness that saw `body` at `time_s`."""
        signature = self.private.sign(_cosigned(body, time_s))
        return _line(self.witness_verifier, struct.pack(">Q", time_s) + signature)


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature line of a note, not yet verified."""

    name: str
    key_id: bytes
    raw: bytes


def check_key_name(name: str) -> None:
    """Raise unless `name` can stand in a signature line."""
    if not name or "+" in name or any(c.isspace() or ord(c) < 0x21 for c in name) or not _utf8(name):
        raise FormatError(
            f"{name!r} cannot name a key.", remedy="Take a name without spaces and '+', as example.org/log."
        )


def verify_ed25519(public: bytes, signature: bytes, message: bytes, *, who: str) -> None:
    """Raise `SignatureError` unless `signature` is `public`'s over `message`."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError) as error:
        raise SignatureError(
            f"The signature of {who} does not match.", remedy="Compare the verifier key and the bytes that were signed."
        ) from error


def sign_note(body: bytes, signers: Iterable[SigningKey]) -> bytes:
    """The note: `body`, an empty line, a signature line from each signer."""
    _check_body(body)
    return body + b"\n" + b"".join(signer.sign(body) for signer in signers)


def split_note(text: bytes) -> tuple[bytes, list[Signature]]:
    """The body and the signatures of a note, none of them verified."""
    if len(text) > NOTE_BYTES_MAX:
        raise SignatureError(f"A note may have {NOTE_BYTES_MAX} bytes; this one has {len(text)}.")
    at = text.rfind(b"\n\n")
    if at < 0:
        raise SignatureError("This is not a signed note: it has no empty line before its signatures.")
    body, tail = text[: at + 1], text[at + 2 :]
    try:
        _check_body(body)
        lines = tail.decode()
    except (FormatError, UnicodeDecodeError) as error:
        raise SignatureError("This is not a signed note: it is not plain UTF-8 text.") from error
    if not lines.endswith("\n"):
        raise SignatureError("This is not a signed note: its last line does not end.")
    # Only "\n" ends a line; splitlines() would also split at other Unicode line ends.
    signatures = [_signature(line + "\n") for line in lines[:-1].split("\n")]
    if len(signatures) > SIGNATURES_MAX:
        raise SignatureError(f"A note may carry {SIGNATURES_MAX} signatures; this one has {len(signatures)}.")
    return body, signatures


def open_note(text: bytes, verifier_keys: Sequence[str]) -> bytes:
    """The body of a note that at least one of these keys signed.

    Signatures of unknown keys are ignored; a wrong signature of a known key refuses the whole note.
    """
    return open_note_by(text, [VerifierKey.parse(key) for key in verifier_keys])[0]


def open_note_by(text: bytes, keys: Sequence[VerifierKey]) -> tuple[bytes, list[VerifierKey]]:
    """The body of a note and which of `keys` signed it; at least one did."""
    body, signatures = split_note(text)
    found: list[VerifierKey] = []
    for signature in signatures:
        for key in keys:
            if key.name == signature.name and key.id == signature.key_id and key not in found:
                key.verify(signature.raw, body)
                found.append(key)
    if not found:
        signers = ", ".join(dict.fromkeys(f"{s.name}+{s.key_id.hex()}" for s in signatures)) or "nobody"
        raise SignatureError(
            f"No key that was asked for signed this note; it is signed by {signers}.",
            remedy="Pass the log's own verifier key; after a rotation, the newest.",
        )
    return body, found


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A log's commitment to its first `size` entries."""

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    def body(self) -> bytes:
        lines = [self.origin, str(self.size), base64.b64encode(self.root).decode(), *self.extensions]
        return ("\n".join(lines) + "\n").encode()

    @classmethod
    def parse(cls, body: bytes) -> Checkpoint:
        try:
            origin, size, root, *extensions = body.decode().removesuffix("\n").split("\n")
        except ValueError as error:
            raise FormatError("This is not a checkpoint: it needs an origin, a size and a root.") from error
        raw = strict_base64(root)
        digits = size.isascii() and size.isdigit() and (size == "0" or size[0] != "0") and len(size) < 20
        if not origin or not digits or int(size) >= _SIZE_LIMIT or raw is None or len(raw) != 32:
            raise FormatError("This is not a checkpoint: its origin, size or root is malformed.")
        if not all(extensions):
            raise FormatError("This is not a checkpoint: an extension line is empty.")
        return cls(origin, int(size), raw, tuple(extensions))

    def sign(self, signers: Iterable[SigningKey]) -> bytes:
        return sign_note(self.body(), signers)


def open_checkpoint(text: bytes, keys: Sequence[VerifierKey], *, origin: str | None = None) -> Checkpoint:
    """The checkpoint in a signed note, verified by the log's key and, if given, bound to its origin."""
    logs = [key for key in keys if key.type is KeyType.ED25519]
    checkpoint = Checkpoint.parse(open_note_by(text, logs)[0])
    if origin is not None and checkpoint.origin != origin:
        raise SignatureError(
            f"This checkpoint is of the log {checkpoint.origin}, not of {origin}.",
            remedy="Ask for the checkpoint of the log you mean.",
        )
    return checkpoint


def _line(key: VerifierKey, signature: bytes) -> bytes:
    return f"— {key.name} {base64.b64encode(key.id + signature).decode()}\n".encode()


def _cosigned(body: bytes, time_s: int) -> bytes:
    return f"cosignature/v1\ntime {time_s}\n".encode() + body


def _check_body(body: bytes) -> None:
    if not body.endswith(b"\n"):
        raise FormatError("The text of a note ends with a newline.")
    if any(byte < 0x20 and byte != 0x0A for byte in body):
        raise FormatError("The text of a note holds no control characters.")
    if _decoded(body) is None:
        raise FormatError("The text of a note is UTF-8.")


def _signature(line: str) -> Signature:
    match = _SIGNATURE_LINE.fullmatch(line)
    raw = strict_base64(match[2]) if match else None
    if match is None or raw is None or len(raw) < 5:
        raise SignatureError("This is not a signed note: a signature line is malformed.")
    return Signature(match[1], raw[:4], raw[4:])


def strict_base64(text: str) -> bytes | None:
    """Strict base64: only the one canonical spelling of some bytes is accepted."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw if base64.b64encode(raw).decode() == text else None


def _decoded(raw: bytes) -> str | None:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return None


def _utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
