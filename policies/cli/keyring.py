"""Where a home keeps the keys of its sources, and how a command comes by the key that it needs."""

from __future__ import annotations

from pathlib import Path

from licet.ledger.errors import ConfigError, FormatError, KeyFileError, MissingFileError, StorageError
from licet.ledger.files import read_whole
from licet.ledger.home import Home, passphrase
from licet.ledger.keys import KEY_BYTES_MAX, load_key, save_key
from licet.ledger.note import SigningKey, VerifierKey
from licet.policies.acts import check_source_id, source_key
from licet.policies.registry import Source


def key_file(home: Home, source: str) -> Path:
    """The key file of a source that this home keeps."""
    return home.path / "keys" / "sources" / f"{check_source_id(source)}.key"


def new_key(file: Path, source: str) -> SigningKey:
    """A new key for a source, saved; one that a run left there before the log knew of it is taken up."""
    if file.exists():
        return load_key(file, passphrase())
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise StorageError(f"{file.parent} could not be made: {error.strerror}.") from error
    key = SigningKey.generate(source)
    save_key(file, key, passphrase())
    return key


def public_key(file: Path) -> VerifierKey:
    """The public half in a file: a private key of Licet, or the line of a verifier key."""
    raw = read_whole(file, bytes_max=KEY_BYTES_MAX)
    if raw.startswith(b"Key-Name: "):
        return load_key(file, passphrase()).verifier
    try:
        return source_key(raw.decode())
    except (UnicodeDecodeError, FormatError) as error:
        raise KeyFileError(
            f"{file} holds neither a key of Licet nor a verifier key.",
            remedy="A verifier key is one line: NAME+8 hex digits+base64.",
        ) from error


def signing_key(home: Home, source: Source, file: Path | None) -> SigningKey:
    """The key that a source signs with now, from a file or from where the home keeps it."""
    place = file or key_file(home, source.id)
    try:
        key = load_key(place, passphrase())
    except MissingFileError as error:
        raise MissingFileError(
            f"There is no key file {place}.", remedy=f"Name the key of {source.id} with --key."
        ) from error
    if str(key.verifier) != source.key:
        raise ConfigError(
            f"{place} is not the key that {source.id} signs with now, {source.key}.",
            remedy="Name the right key with --key; after an interrupted rotation it ends in .key.new.",
        )
    return key
