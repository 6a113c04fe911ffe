"""Content that can be erased, and proofs that survive it."""

import hashlib

import pytest

from licet.ledger import proof
from licet.ledger.content import ContentStore, commit_to
from licet.ledger.errors import NotFoundError, VerificationError
from licet.ledger.fsck import fsck
from licet.ledger.records import CorrectionReceived, Digest


@pytest.fixture
def store(tmp_path):
    return ContentStore(tmp_path / "content")


def files_of(store):
    return [path for path in store.path.rglob("*") if path.is_file()]


def test_what_was_put_is_opened_with_its_salt(store):
    commitment = store.put(b"a private letter")
    opening = store.open(commitment)
    assert opening.content == b"a private letter"
    assert commit_to(opening.content, opening.salt) == commitment


def test_the_same_content_is_never_recognised_by_its_commitment(store):
    assert store.put(b"yes") != store.put(b"yes")
    assert hashlib.sha256(b"yes").digest() != store.put(b"yes")


def test_only_the_owner_may_read(store):
    store.put(b"private")
    assert [path.stat().st_mode & 0o777 for path in files_of(store)] == [0o600]


def test_erasing_leaves_nothing_and_happens_once(store):
    commitment = store.put(b"to be forgotten")
    assert store.erase(commitment)
    assert files_of(store) == []
    assert not store.erase(commitment)
    assert commitment not in store
    with pytest.raises(NotFoundError):
        store.open(commitment)


@pytest.mark.parametrize(
    "damage", [lambda raw: raw[:-1], lambda raw: raw + b"x", lambda raw: b"", lambda raw: raw[:20]]
)
def test_a_damaged_file_is_refused(store, damage):
    commitment = store.put(b"original")
    (file,) = files_of(store)
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(VerificationError):
        store.open(commitment)


def test_a_file_under_another_commitment_is_refused(store):
    first, second = store.put(b"one"), store.put(b"two")
    store._place(first).write_bytes(store._place(second).read_bytes())
    with pytest.raises(VerificationError):
        store.open(first)


def test_every_proof_survives_erasure(store, ledger, key, path):
    """Receipts made before verify after, new ones can be made, and the whole log still verifies."""
    commitments = [store.put(f"correction {i}".encode()) for i in range(20)]
    indices = [
        ledger.append(CorrectionReceived(Digest(bytes([i] * 32)), 0, c, "reader", 0)) for i, c in enumerate(commitments)
    ]
    ledger.checkpoint()
    receipts = [proof.make_receipt(ledger, index).format() for index in indices]
    for commitment in commitments:
        assert store.erase(commitment)
    for index, commitment, receipt in zip(indices, commitments, receipts, strict=True):
        again = proof.make_receipt(ledger, index).format()
        for file in (receipt, again):
            _, entry = proof.verify_receipt(proof.Proof.parse(file), [key.verifier])
            assert commitment in entry
    ledger.close()
    assert fsck(path, key.verifier).kinds["CorrectionReceived"] == 20
