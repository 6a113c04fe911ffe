"""Signed notes and checkpoints: the published vector, and every way in which they must be refused."""

from __future__ import annotations

import base64
import struct

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from licet.ledger import note
from licet.ledger.errors import FormatError, SignatureError
from licet.ledger.note import Checkpoint, KeyType, SigningKey, VerifierKey

VECTOR_KEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
VECTOR = (
    "This is an example message.\n\n"
    "— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
).encode()
SIGNER = SigningKey("example.org/log", Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
OTHER = SigningKey("example.org/other", Ed25519PrivateKey.from_private_bytes(bytes(32)))
TWIN = SigningKey(SIGNER.name, OTHER.private)
BODY = b"example.org/log\n5\n" + base64.b64encode(bytes(32)) + b"\n"
DASH = "—".encode()


def _line(key: VerifierKey, raw: bytes) -> bytes:
    return DASH + b" " + key.name.encode() + b" " + base64.b64encode(key.id + raw) + b"\n"


def _refused(text: bytes, *keys: VerifierKey) -> pytest.ExceptionInfo:
    with pytest.raises(SignatureError) as caught:
        note.open_note(text, [str(key) for key in keys or (SIGNER.verifier,)])
    return caught


# ---- accepted --------------------------------------------------------------------------------------------------


def test_the_published_vector():
    assert note.open_note(VECTOR, [VECTOR_KEY]) == b"This is an example message.\n"
    assert str(VerifierKey.parse(VECTOR_KEY)) == VECTOR_KEY


@given(st.lists(st.text(st.characters(exclude_categories=["Cc", "Cs"])), max_size=5))
def test_what_was_signed_is_opened(lines):
    body = ("\n".join(lines) + "\n").encode()
    assert note.open_note(note.sign_note(body, [SIGNER]), [str(SIGNER.verifier)]) == body


def test_a_body_may_hold_empty_lines_and_lines_like_signatures():
    body = b"first\n\nsecond\n\n" + DASH + b" nobody AAAAAAAA\nlast\n"
    signed = note.sign_note(body, [SIGNER])
    assert note.open_note(signed, [str(SIGNER.verifier)]) == body


def test_unknown_keys_are_ignored():
    signed = note.sign_note(BODY, [OTHER, SIGNER, TWIN])
    for key in (SIGNER, OTHER, TWIN):
        assert note.open_note(signed, [str(key.verifier)]) == BODY


def test_unknown_types_of_signature_are_ignored():
    """Another algorithm's signature may be of any length."""
    strange = DASH + b" example.org/log " + base64.b64encode(b"\xff\xff\xff\xff" + bytes(1000)) + b"\n"
    assert note.open_note(BODY + b"\n" + strange + SIGNER.sign(BODY), [str(SIGNER.verifier)]) == BODY


def test_it_is_said_which_keys_signed():
    signed = note.sign_note(BODY, [SIGNER, OTHER])
    assert note.open_note_by(signed, [OTHER.verifier, SIGNER.verifier, TWIN.verifier]) == (
        BODY,
        [SIGNER.verifier, OTHER.verifier],
    )


def test_a_line_end_of_another_kind_is_text():
    body = "one\u2028two\u0085three\n".encode()
    assert note.open_note(note.sign_note(body, [SIGNER]), [str(SIGNER.verifier)]) == body


# ---- refused ---------------------------------------------------------------------------------------------------


def test_a_note_of_other_keys_only_is_refused():
    caught = _refused(note.sign_note(BODY, [OTHER, TWIN]))
    assert "example.org/other" in caught.value.message
    assert caught.value.remedy
    assert caught.value.exit_code == 1


def test_a_wrong_signature_of_a_known_key_refuses_the_whole_note():
    forged = _line(SIGNER.verifier, bytes(64))
    for text in (
        BODY + b"\n" + forged,
        BODY + b"\n" + forged + OTHER.sign(BODY),
        BODY + b"\n" + OTHER.sign(BODY) + forged,
        BODY + b"\n" + _line(SIGNER.verifier, OTHER.sign_raw(BODY)),
        BODY + b"\n" + _line(SIGNER.verifier, SIGNER.sign_raw(BODY)[:-1]),
        BODY + b"\n" + _line(SIGNER.verifier, b"\x00"),
        BODY + b"\n" + _line(SIGNER.verifier, SIGNER.sign_raw(BODY + b"\n")),
    ):
        assert _refused(text, SIGNER.verifier, OTHER.verifier).value.remedy


def test_the_id_of_one_key_does_not_lend_itself_to_another():
    _refused(BODY + b"\n" + _line(SIGNER.verifier, TWIN.sign_raw(BODY)))


@settings(max_examples=400)
@given(st.integers(0, 10**6), st.integers(1, 255))
def test_any_changed_byte_is_refused(at, change):
    signed = bytearray(note.sign_note(BODY, [SIGNER]))
    signed[at % len(signed)] ^= change
    _refused(bytes(signed))


def test_every_cut_is_refused():
    signed = note.sign_note(BODY, [SIGNER])
    for end in range(len(signed)):
        _refused(signed[:end])
        _refused(signed[end + 1 :])


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\n",
        b"\n\n",
        BODY,
        BODY + b"\n",
        b"no newline at its end\n\n" + DASH + b" a AAAAAAAA",
        # control characters, a carriage return, a body that is not UTF-8
        b"a\tb\n\n" + SIGNER.sign(b"a\tb\n"),
        b"a\r\n\n" + SIGNER.sign(b"a\r\n"),
        b"a\x00\n\n" + SIGNER.sign(b"a\x00\n"),
        b"a\xff\n\n" + SIGNER.sign(b"a\xff\n"),
        # signature lines that are none
        BODY + b"\n" + SIGNER.sign(BODY) + b"\n",
        BODY + b"\n" + SIGNER.sign(BODY) + b"trailing words\n",
        BODY + b"\n" + SIGNER.sign(BODY)[:-1],
        BODY + b"\n" + SIGNER.sign(BODY).replace(DASH, b"-"),
        BODY + b"\n" + SIGNER.sign(BODY).replace(b" ", b"  "),
        BODY + b"\n" + SIGNER.sign(BODY).replace(b"\n", b" \n"),
        BODY + b"\n" + SIGNER.sign(BODY).replace(b"\n", b"\r\n"),
        BODY + b"\n" + SIGNER.sign(BODY).replace(b"\n", "\u2028\n".encode()),
        BODY + b"\n" + DASH + b" example.org/log !!!!\n",
        BODY + b"\n" + DASH + b" example.org/log AAAA\n",
        BODY + b"\n" + DASH + b" example.org/log\n",
        BODY + b"\n" + DASH + b"  AAAAAAAA\n",
        BODY + b"\n\xff\xff\n",
    ],
    ids=repr,
)
def test_what_is_no_note_is_refused(text):
    _refused(text)


def test_base64_has_one_spelling():
    """The last bits of the last character carry nothing; only zeros may stand there."""
    padded = _line(SIGNER.verifier, bytes(64))  # 68 bytes: two bits are left over
    encoded = padded.split()[2]
    assert encoded.endswith(b"=")
    assert not encoded.endswith(b"==")
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    sloppy = encoded[:-2] + bytes([alphabet[alphabet.index(encoded[-2]) + 1]]) + b"="
    assert base64.b64decode(sloppy) == base64.b64decode(encoded)
    with pytest.raises(SignatureError, match="malformed"):
        note.split_note(BODY + b"\n" + padded.replace(encoded, sloppy))


def test_sixteen_signatures_and_no_more():
    signers = [SigningKey.generate(f"example.org/{i}") for i in range(15)]
    full = note.sign_note(BODY, [*signers, SIGNER])
    assert note.open_note(full, [str(SIGNER.verifier)]) == BODY
    caught = _refused(full + OTHER.sign(BODY))
    assert "16" in caught.value.message


def test_a_note_beyond_the_limit_is_refused():
    largest = b"x" * (note.NOTE_BYTES_MAX - 200) + b"\n"
    assert note.open_note(note.sign_note(largest, [SIGNER]), [str(SIGNER.verifier)]) == largest
    huge = b"x" * note.NOTE_BYTES_MAX + b"\n"
    _refused(note.sign_note(huge, [SIGNER]))


@pytest.mark.parametrize("body", [b"", b"no newline", b"a\tb\n", b"a\x7fb", b"\xff\n", b"a\r\n"])
def test_what_could_not_be_opened_is_not_signed(body):
    with pytest.raises(FormatError):
        note.sign_note(body, [SIGNER])


# ---- keys ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key_type", KeyType)
@given(public=st.binary(min_size=32, max_size=32))
def test_verifier_keys_come_back_as_they_went(key_type, public):
    key = VerifierKey("example.org/log", public, key_type)
    assert VerifierKey.parse(str(key)) == key
    assert VerifierKey.parse(f"  {key}\n") == key


def test_every_mistyped_character_of_a_verifier_key_is_noticed():
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/= .é"
    for at in range(len(VECTOR_KEY)):
        for character in alphabet:
            typo = VECTOR_KEY[:at] + character + VECTOR_KEY[at + 1 :]
            if typo != VECTOR_KEY:
                with pytest.raises(FormatError):
                    VerifierKey.parse(typo)
        with pytest.raises(FormatError):
            VerifierKey.parse(VECTOR_KEY[:at] + VECTOR_KEY[at + 1 :])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "+",
        "++",
        "a",
        "a+530d903a",
        "a++AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
        VECTOR_KEY.upper(),
        VECTOR_KEY.replace("530d903a", "530D903A"),
        VECTOR_KEY.replace("530d903a", "0"),
        VECTOR_KEY.replace("AekyeR", "AukyeR"),
        VECTOR_KEY + "A",
        VECTOR_KEY + "=",
        "a+00000000+AA==",
        "\ud800+00000000+AA==",
    ],
    ids=ascii,
)
def test_what_is_no_verifier_key_is_refused(text):
    with pytest.raises(FormatError) as caught:
        VerifierKey.parse(text)
    assert caught.value.message


def test_other_algorithms_are_refused_by_name():
    for number in (0, 2, 3, 5, 0xFF):
        raw = bytes([number]) + bytes(32)
        import hashlib

        key_id = hashlib.sha256(b"a\n" + raw).hexdigest()[:8]
        with pytest.raises(FormatError) as caught:
            VerifierKey.parse(f"a+{key_id}+{base64.b64encode(raw).decode()}")
        assert caught.value.remedy


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\nb", "\t", "a\u00a0b", "a\x00", "\ud800", "a\u2003b"])
def test_names_that_could_not_stand_in_a_line_are_refused(name):
    for make in (lambda: SigningKey.generate(name), lambda: VerifierKey(name, bytes(32))):
        with pytest.raises(FormatError) as caught:
            make()
        assert caught.value.remedy


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_public_key_has_32_bytes(length):
    with pytest.raises(FormatError):
        VerifierKey("a", bytes(length))


def test_a_public_key_that_is_no_point_verifies_nothing():
    key = VerifierKey("example.org/log", b"\xff" * 32)
    _refused(BODY + b"\n" + _line(key, bytes(64)), key)


def test_a_signing_key_never_shows_its_private_half():
    private = SIGNER.private.private_bytes_raw()
    for text in (repr(SIGNER), str(SIGNER), f"{SIGNER}"):
        assert private.hex() not in text
        assert "private" not in text


# ---- cosignatures ----------------------------------------------------------------------------------------------


def test_a_witness_cosigns_with_its_time():
    signed = note.sign_note(BODY, [SIGNER]) + OTHER.cosign(BODY, 1_700_000_000)
    body, by = note.open_note_by(signed, [SIGNER.verifier, OTHER.witness_verifier])
    assert (body, by) == (BODY, [SIGNER.verifier, OTHER.witness_verifier])


def test_a_cosignature_is_checked_with_the_time_it_names():
    line = OTHER.cosign(BODY, 5)
    raw = base64.b64decode(line.split()[2])
    for spoiled in (
        raw[:4] + struct.pack(">Q", 6) + raw[12:],
        raw[:4] + raw[12:],
        raw + b"\x00",
        raw[:-1],
        raw[:4] + struct.pack(">Q", 5) + OTHER.sign_raw(BODY),
    ):
        text = BODY + b"\n" + DASH + b" example.org/other " + base64.b64encode(spoiled) + b"\n"
        _refused(text, OTHER.witness_verifier)


def test_a_cosignature_does_not_stand_for_the_logs_own():
    """Else a witness could speak for the log."""
    witness = SigningKey(SIGNER.name, SIGNER.private)
    cosigned = BODY + b"\n" + witness.cosign(BODY, 5)
    with pytest.raises(SignatureError):
        note.open_checkpoint(cosigned, [SIGNER.verifier, SIGNER.witness_verifier])
    _refused(cosigned, SIGNER.verifier)
    _refused(note.sign_note(BODY, [SIGNER]), SIGNER.witness_verifier)


# ---- checkpoints -----------------------------------------------------------------------------------------------

_ORIGIN = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1)


@given(_ORIGIN, st.integers(0, 2**63 - 1), st.binary(min_size=32, max_size=32), st.lists(_ORIGIN, max_size=3))
def test_checkpoints_come_back_as_they_went(origin, size, root, extensions):
    checkpoint = Checkpoint(origin, size, root, tuple(extensions))
    assert Checkpoint.parse(checkpoint.body()) == checkpoint


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"\n5\n", b"\n05\n"),
        (b"\n5\n", b"\n00\n"),
        (b"\n5\n", b"\n-5\n"),
        (b"\n5\n", b"\n+5\n"),
        (b"\n5\n", b"\n 5\n"),
        (b"\n5\n", b"\n5 \n"),
        (b"\n5\n", b"\n\n"),
        (b"\n5\n", b"\n5.0\n"),
        (b"\n5\n", b"\n5_0\n"),
        (b"\n5\n", b"\n0x5\n"),
        (b"\n5\n", "\n٥\n".encode()),
        (b"\n5\n", "\n²\n".encode()),
        (b"\n5\n", b"\n9223372036854775808\n"),
        (b"\n5\n", b"\n" + b"9" * 5000 + b"\n"),
        (b"example.org/log\n", b"\n"),
        (b"example.org/log\n", b""),
        (b"example.org/log", b"\xff"),
        (b"AAAA=\n", b"AAA=\n"),
        (b"AAAA=\n", b"AAAA\n"),
        (b"AAAA=\n", b"AAAAA=\n"),
        (b"AAAA=\n", b"AAAA=\n\n"),
        (b"AAAA=\n", b"AAAA=\n\nmore\n"),
        (b"AAAA=\n", b"AAAA=\nmore\n\n"),
        (b"AAA=\n", b"AAB=\n"),  # the same bytes in sloppy base64
        (b"AAAA=\n", b"\n"),
    ],
    ids=lambda part: repr(part)[:30],
)
def test_malformed_checkpoints_are_refused(old, new):
    assert Checkpoint.parse(BODY).size == 5
    assert old in BODY
    with pytest.raises(FormatError):
        Checkpoint.parse(BODY.replace(old, new))


@pytest.mark.parametrize("body", [b"", b"\n", b"a\n", b"a\n5\n", b"\n5\n\n", b"\xff\xfe\n1\n2\n"])
def test_checkpoints_with_lines_missing_are_refused(body):
    with pytest.raises(FormatError):
        Checkpoint.parse(body)


def test_a_checkpoint_is_bound_to_its_origin():
    signed = Checkpoint("example.org/log", 5, bytes(32)).sign([SIGNER])
    assert note.open_checkpoint(signed, [SIGNER.verifier], origin="example.org/log").size == 5
    with pytest.raises(SignatureError) as caught:
        note.open_checkpoint(signed, [SIGNER.verifier], origin="example.org/else")
    assert caught.value.remedy


def test_a_signed_note_that_is_no_checkpoint_is_refused():
    with pytest.raises(FormatError):
        note.open_checkpoint(note.sign_note(b"hello\n", [SIGNER]), [SIGNER.verifier])
