"""Key files: what is written can be read by its owner, and by nobody and nothing else."""

from __future__ import annotations

import subprocess

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from licet.ledger import keys
from licet.ledger.errors import KeyFileError, LimitError, MissingFileError, SignatureError, StorageError
from licet.ledger.note import SigningKey

ORIGIN = "example.org/log"


@pytest.fixture
def file(tmp_path):
    return tmp_path / "log.key"


def _same(a: SigningKey, b: SigningKey) -> bool:
    return a.name == b.name and a.private.private_bytes_raw() == b.private.private_bytes_raw()


def _says_what_to_do(caught) -> None:
    assert caught.value.message
    assert caught.value.remedy


@pytest.mark.parametrize("passphrase", [None, "", "open sesame", "påss\n wörd 🔑"])
def test_a_key_comes_back_as_it_went(file, key, passphrase):
    keys.save_key(file, key, passphrase)
    assert _same(keys.load_key(file, passphrase), key)
    assert file.stat().st_mode & 0o777 == 0o600
    assert [found.name for found in file.parent.iterdir()] == [file.name]


def test_the_mode_does_not_depend_on_the_umask(file, key):
    import os

    before = os.umask(0)
    try:
        keys.save_key(file, key)
    finally:
        os.umask(before)
    assert file.stat().st_mode & 0o777 == 0o600


def test_an_encrypted_file_does_not_hold_the_plain_key(tmp_path, key):
    keys.save_key(tmp_path / "plain", key)
    keys.save_key(tmp_path / "sealed", key, "open sesame")
    secret = key.private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    assert b"ENCRYPTED" in (tmp_path / "sealed").read_bytes()
    assert b"ENCRYPTED" not in (tmp_path / "plain").read_bytes()
    assert secret not in (tmp_path / "sealed").read_bytes()


def test_other_tools_read_it_too(file, key):
    keys.save_key(file, key)
    pem = file.read_bytes().partition(b"\n")[2]
    try:
        told = subprocess.run(["openssl", "pkey", "-noout", "-text"], input=pem, capture_output=True, check=True).stdout
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    assert b"ED25519" in told.upper()


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o777, 0o610, 0o601])
def test_a_file_that_others_may_touch_is_refused(file, key, mode):
    keys.save_key(file, key)
    file.chmod(mode)
    with pytest.raises(KeyFileError, match=f"{mode:o}") as caught:
        keys.load_key(file)
    assert "chmod 600" in caught.value.remedy


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_file_of_its_owner_is_accepted(file, key, mode):
    keys.save_key(file, key)
    file.chmod(mode)
    assert _same(keys.load_key(file), key)


@pytest.mark.parametrize(("saved", "given"), [("right", "wrong"), ("right", None), ("right", ""), (None, "right")])
def test_a_wrong_passphrase_is_refused(file, key, saved, given):
    keys.save_key(file, key, saved)
    with pytest.raises(KeyFileError) as caught:
        keys.load_key(file, given)
    _says_what_to_do(caught)
    assert "right" not in str(caught.value)


def test_an_existing_key_is_never_overwritten(file, key):
    keys.save_key(file, key)
    before = file.read_bytes()
    with pytest.raises(KeyFileError) as caught:
        keys.save_key(file, SigningKey.generate(ORIGIN))
    _says_what_to_do(caught)
    assert file.read_bytes() == before


def test_a_missing_file_is_said_to_be_missing(file):
    with pytest.raises(MissingFileError) as caught:
        keys.load_key(file)
    _says_what_to_do(caught)


def test_a_folder_that_is_missing_cannot_be_written_to(tmp_path, key):
    with pytest.raises(StorageError) as caught:
        keys.save_key(tmp_path / "missing" / "log.key", key)
    _says_what_to_do(caught)


def _pem(private) -> bytes:
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


_GOOD = _pem(SigningKey.generate(ORIGIN).private)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"Key-Name: example.org/log\n",
        b"Key-Name: example.org/log\n" + _GOOD[:60],
        b"Key-Name: example.org/log\n" + _GOOD.replace(b"PRIVATE", b"PUBLIC"),
        b"Key-Name: example.org/log\r\n" + _GOOD,
        b"Key-Name: \n" + _GOOD,
        b"Key-Name: two words\n" + _GOOD,
        b"Key-Name: plus+sign\n" + _GOOD,
        b"Key-Name: \xff\n" + _GOOD,
        b"key-name: example.org/log\n" + _GOOD,
        _GOOD,
        bytes(200),
        b"\xff" * 200,
        b"Key-Name: example.org/log\n" + _pem(ec.generate_private_key(ec.SECP256R1())),
        b"Key-Name: example.org/log\n" + _pem(rsa.generate_private_key(65537, 2048)),
    ],
    ids=range(16),
)
def test_garbage_is_refused(file, content):
    file.write_bytes(content)
    file.chmod(0o600)
    with pytest.raises(KeyFileError) as caught:
        keys.load_key(file)
    assert caught.value.message


def test_an_enormous_file_is_refused(file):
    file.write_bytes(bytes(keys.KEY_BYTES_MAX + 1))
    file.chmod(0o600)
    with pytest.raises(LimitError):
        keys.load_key(file)


# ---- rotation --------------------------------------------------------------------------------------------------


def test_both_keys_agree_to_a_rotation(key):
    new = SigningKey.generate(ORIGIN)
    statement = keys.rotation_statement(ORIGIN, key.verifier, new.verifier)
    by_old, by_new = key.sign_raw(statement), new.sign_raw(statement)
    keys.verify_rotation(ORIGIN, key.verifier, new.verifier, by_old=by_old, by_new=by_new)
    for origin, old, successor, a, b in [
        ("example.org/else", key, new, by_old, by_new),
        (ORIGIN, new, key, by_old, by_new),
        (ORIGIN, new, key, by_new, by_old),
        (ORIGIN, key, new, by_new, by_old),
        (ORIGIN, key, new, by_old, by_old),
        (ORIGIN, key, new, by_new, by_new),
        (ORIGIN, key, new, b"", by_new),
        (ORIGIN, key, new, by_old, b""),
        (ORIGIN, key, SigningKey.generate(ORIGIN), by_old, by_new),
        (ORIGIN, SigningKey.generate(ORIGIN), new, by_old, by_new),
    ]:
        with pytest.raises(SignatureError):
            keys.verify_rotation(origin, old.verifier, successor.verifier, by_old=a, by_new=b)


def test_a_rotation_statement_is_no_checkpoint(key):
    """What one signature says can never be read as the other."""
    statement = keys.rotation_statement(ORIGIN, key.verifier, key.verifier)
    assert statement.startswith(b"licet/key-rotation/v1\n")
    from licet.ledger.errors import FormatError
    from licet.ledger.note import Checkpoint

    with pytest.raises(FormatError):
        Checkpoint.parse(statement)
