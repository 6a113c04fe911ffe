"""Private keys on disk: one file each, readable by its owner only, optionally encrypted with a passphrase.

A file is a PKCS #8 key in PEM, which other tools read too, under a line that gives the name the key signs as.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from licet.ledger.errors import FormatError, KeyFileError, MissingFileError
from licet.ledger.files import read_whole, write_whole
from licet.ledger.note import SigningKey, VerifierKey, check_key_name, verify_ed25519

KEY_BYTES_MAX = 16_384
_NAME = b"Key-Name: "


def save_key(path: Path, key: SigningKey, passphrase: str | None = None) -> None:
    """Write a new key file; an existing one is never overwritten."""
    if path.exists():
        raise KeyFileError(
            f"{path} already holds a key.", remedy="Choose another path; a lost key cannot be brought back."
        )
    encryption: KeySerializationEncryption = NoEncryption()
    if passphrase:
        encryption = BestAvailableEncryption(passphrase.encode())
    pem = key.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    write_whole(path, _NAME + key.name.encode() + b"\n" + pem, mode=0o600)


def load_key(path: Path, passphrase: str | None = None) -> SigningKey:
    """Read a key file, refusing one that others could have read."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        raise MissingFileError(
            f"There is no key file {path}.", remedy="`licet init` makes the keys of a home."
        ) from error
    if mode & 0o077 and os.name == "posix":
        raise KeyFileError(
            f"{path} can be read by others (mode {mode:o}).",
            remedy=f"Run `chmod 600 {path}`, and rotate the key if somebody may have read it.",
        )
    head, _, pem = read_whole(path, bytes_max=KEY_BYTES_MAX).partition(b"\n")
    try:
        if not head.startswith(_NAME):
            raise ValueError("no name")
        name = head.removeprefix(_NAME).decode()
        check_key_name(name)
        private = load_pem_private_key(pem, passphrase.encode() if passphrase else None)
    except TypeError as error:  # a passphrase where none belongs, or none where one does
        raise KeyFileError(
            f"{path} {'is not encrypted' if passphrase else 'is encrypted'}.",
            remedy="Set LICET_PASSPHRASE for encrypted keys only.",
        ) from error
    except (ValueError, FormatError, UnsupportedAlgorithm) as error:
        raise KeyFileError(
            f"{path} is not a key file of Licet, or the passphrase is wrong.",
            remedy="Check LICET_PASSPHRASE; restore the file from your backup if it is damaged.",
        ) from error
    if not isinstance(private, Ed25519PrivateKey):
        raise KeyFileError(f"{path} holds a key that is not Ed25519.")
    return SigningKey(name, private)


def rotation_statement(origin: str, old: VerifierKey, new: VerifierKey) -> bytes:
    """What both keys sign when one succeeds the other."""
    return f"licet/key-rotation/v1\n{origin}\n{old}\n{new}\n".encode()


def verify_rotation(origin: str, old: VerifierKey, new: VerifierKey, *, by_old: bytes, by_new: bytes) -> None:
    """Raise unless the old key agreed to the new one and the new one exists."""
    statement = rotation_statement(origin, old, new)
    verify_ed25519(old.public, by_old, statement, who=f"{old.name} (the old key)")
    verify_ed25519(new.public, by_new, statement, who=f"{new.name} (the new key)")
