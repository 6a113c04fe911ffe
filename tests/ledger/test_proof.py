"""A proof convinces only of the entry, the index and the log that it was made for."""

from __future__ import annotations

import base64
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from licet.ledger.errors import FormatError, LicetError, LimitError, NotFoundError, ProofError, SignatureError
from licet.ledger.note import NOTE_BYTES_MAX, SigningKey
from licet.ledger.proof import PROOF_BYTES_MAX, Proof, make_proof, make_receipt, verify_proof, verify_receipt
from licet.ledger.records import Opaque
from tests.ledger.logs import append_opaque


@pytest.fixture
def signed(ledger):
    append_opaque(ledger, 10)
    return ledger


# ---- refused ---------------------------------------------------------------------------------------------------


def test_another_entry(signed, key):
    proof = make_proof(signed, 3)
    with pytest.raises(ProofError):
        verify_proof(proof, signed.entry(4), [key.verifier])


def test_another_index(signed, key):
    proof = make_proof(signed, 3)
    for index in (2, 4, 10, 11, 2**62):
        with pytest.raises(ProofError):
            verify_proof(replace(proof, index=index), signed.entry(3), [key.verifier])


@pytest.mark.parametrize("change", [lambda h: h[:-1], lambda h: (*h, bytes(32)), lambda h: h[::-1], lambda h: ()])
def test_another_path(signed, key, change):
    proof = make_proof(signed, 3)
    with pytest.raises(ProofError):
        verify_proof(replace(proof, hashes=change(proof.hashes)), signed.entry(3), [key.verifier])


def test_key_of_another_log(signed, key):
    proof = make_receipt(signed, 3)
    for stranger in (SigningKey.generate(key.name), SigningKey.generate("example.org/other")):
        with pytest.raises(SignatureError) as caught:
            verify_receipt(proof, [stranger.verifier])
        assert caught.value.remedy
    with pytest.raises(SignatureError):
        verify_receipt(proof, [])


def test_witness_key_does_not_stand_for_the_log(signed, key):
    proof = make_receipt(signed, 3)
    cosigned = replace(
        proof, checkpoint=proof.checkpoint + key.cosign(proof.checkpoint.partition(b"\n\n")[0] + b"\n", 1)
    )
    with pytest.raises(SignatureError):
        verify_receipt(cosigned, [key.witness_verifier])


def test_checkpoint_of_another_size(signed, key):
    proof = make_receipt(signed, 3)
    later = append_opaque(signed, 7)
    with pytest.raises(ProofError):
        verify_receipt(replace(proof, checkpoint=later), [key.verifier])


def test_altered_extra(signed, key):
    proof = make_receipt(signed, 3)
    for extra in (proof.extra + b"!", proof.extra[:-1], b""):
        with pytest.raises(ProofError):
            verify_receipt(replace(proof, extra=extra), [key.verifier])


def test_proof_without_its_entry_is_no_receipt(signed, key):
    with pytest.raises(FormatError) as caught:
        verify_receipt(make_proof(signed, 3), [key.verifier])
    assert caught.value.remedy


def test_entry_not_signed_yet(signed):
    index = signed.append(Opaque(200, 1, b"new"))
    signed.commit()
    for beyond in (index, -1):
        with pytest.raises(NotFoundError):
            make_proof(signed, beyond)


def test_too_few_witnesses(signed, key):
    proof = make_receipt(signed, 3)
    body = proof.checkpoint.partition(b"\n\n")[0] + b"\n"
    one, two = SigningKey.generate("witness.example/1"), SigningKey.generate("witness.example/2")
    known = [one.witness_verifier, two.witness_verifier]
    cosigned = replace(proof, checkpoint=proof.checkpoint + one.cosign(body, 1))
    verify_receipt(cosigned, [key.verifier], witnesses=known, witnesses_min=1)
    twice = replace(proof, checkpoint=cosigned.checkpoint + one.cosign(body, 2))
    for proof in (cosigned, twice):
        with pytest.raises(SignatureError):
            verify_receipt(proof, [key.verifier], witnesses=known, witnesses_min=2)
    with pytest.raises(SignatureError):
        verify_receipt(cosigned, [key.verifier], witnesses=[two.witness_verifier], witnesses_min=1)
    wrong = cosigned.checkpoint.replace(one.cosign(body, 1), two.cosign(body, 1)[:-8] + b"AAAAAA=\n")
    with pytest.raises(SignatureError):
        verify_receipt(replace(proof, checkpoint=wrong), [key.verifier], witnesses=known, witnesses_min=1)


_HASH = base64.b64encode(bytes(32)).decode()
_NOTE = "origin\n1\n" + _HASH + "\n\n— o AAAAAAA=\n"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "c2sp.org/tlog-proof@v1\n",
        f"c2sp.org/tlog-proof@v1\nindex 0\n\n{''}",
        f"c2sp.org/tlog-proof@v2\nindex 0\n\n{_NOTE}",
        f"c2sp.org/tlog-proof@v1\n\n{_NOTE}",
        f"c2sp.org/tlog-proof@v1\r\nindex 0\n\n{_NOTE}",
        f"c2sp.org/tlog-proof@v1\nindex 00\n\n{_NOTE}",
        f"c2sp.org/tlog-proof@v1\nindex -1\n\n{_NOTE}",
        f"c2sp.org/tlog-proof@v1\nindex +1\n\n{_NOTE}",
        f"c2sp.org/tlog-proof@v1\nindex 1_0\n\n{_NOTE}",
        f"c2sp.org/tlog-proof@v1\nindex ²\n\n{_NOTE}",
        f"c2sp.org/tlog-proof@v1\nindex 9223372036854775808\n\n{_NOTE}",
        f"c2sp.org/tlog-proof@v1\nindex {'9' * 5000}\n\n{_NOTE}",
        f"c2sp.org/tlog-proof@v1\nindex \n\n{_NOTE}",
        f"c2sp.org/tlog-proof@v1\nindex 0\nextra AA==\n\n{_NOTE}",
        f"c2sp.org/tlog-proof@v1\nextra AA=\nindex 0\n\n{_NOTE}",
        f"c2sp.org/tlog-proof@v1\nextra AB==\nindex 0\n\n{_NOTE}",
        f"c2sp.org/tlog-proof@v1\nextra AA==\nextra AA==\nindex 0\n\n{_NOTE}",
        f"c2sp.org/tlog-proof@v1\nindex 0\n{_HASH[:-4]}\n\n{_NOTE}",
        f"c2sp.org/tlog-proof@v1\nindex 0\n{_HASH} \n\n{_NOTE}",
        "c2sp.org/tlog-proof@v1\nindex 0\n" + f"{_HASH}\n" * 64 + f"\n{_NOTE}",
        f"c2sp.org/tlog-proof@v1\nindex 0\n\n{'x' * (NOTE_BYTES_MAX + 1)}",
        "c2sp.org/tlog-proof@v1\nindex 0\n\n" + "x" * PROOF_BYTES_MAX,
    ],
)
def test_malformed(text):
    with pytest.raises(FormatError) as caught:
        Proof.parse(text.encode())
    assert caught.value.remedy


def test_too_much_extra():
    with pytest.raises(LimitError):
        Proof(0, (), b"note", bytes(PROOF_BYTES_MAX)).format()


@given(st.binary(max_size=300) | st.text(alphabet="c2sp.org/tlog-prof@v1\nidexa =Ab0", max_size=200).map(str.encode))
def test_any_bytes_are_read_or_refused(raw):
    for text in (raw, b"c2sp.org/tlog-proof@v1\n" + raw, b"c2sp.org/tlog-proof@v1\nindex 1\n" + raw):
        try:
            proof = Proof.parse(text)
        except LicetError:
            continue
        assert proof.format() == text


# ---- accepted --------------------------------------------------------------------------------------------------


@given(
    index=st.integers(0, 2**63 - 1),
    hashes=st.lists(st.binary(min_size=32, max_size=32), max_size=63).map(tuple),
    note=st.binary(min_size=1, max_size=200),
    extra=st.none() | st.binary(max_size=200),
)
def test_round_trip(index, hashes, note, extra):
    proof = Proof(index, hashes, note, extra)
    assert Proof.parse(proof.format()) == proof


def test_every_entry(signed, key):
    for index in range(signed.size):
        proof = Proof.parse(make_proof(signed, index).format())
        assert proof.extra is None
        assert verify_proof(proof, signed.entry(index), [key.verifier]).size == signed.size


def test_receipt_needs_only_the_key(signed, key):
    raw = make_receipt(signed, 3).format()
    assert raw.startswith(b"c2sp.org/tlog-proof@v1\nextra ")
    checkpoint, entry = verify_receipt(Proof.parse(raw), [key.verifier])
    assert (checkpoint.origin, checkpoint.size, entry) == (key.name, signed.size, signed.entry(3))


def test_log_of_one_entry(ledger, key):
    proof = make_receipt(ledger, 0)
    assert proof.hashes == ()
    verify_receipt(Proof.parse(proof.format()), [key.verifier])


def test_older_checkpoint(signed, key):
    note = signed.latest_checkpoint()
    append_opaque(signed, 300)
    assert verify_proof(make_proof(signed, 3, note), signed.entry(3), [key.verifier]).size == 11
