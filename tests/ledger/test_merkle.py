"""Proof mathematics against published vectors, two other implementations, and every flipped bit."""

from __future__ import annotations

import base64
import json
import random
from pathlib import Path
from types import SimpleNamespace

import pymerkle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sigstore._internal import merkle as sigstore_merkle
from sigstore.errors import VerificationError

from licet.ledger import merkle, tree
from licet.ledger.errors import Finding, ProofError
from tests.ledger.trees import Grown, Literal, entry_of, leaves_of, sha256

VECTORS = json.loads((Path(__file__).parent / "data" / "merkle_proofs.json").read_text())
PEER = 1 << 16
"""The peer's tree is grown in plain Python; this many entries take about a second."""


def _raw(text: str | None) -> bytes:
    return base64.b64decode(text or "")


@pytest.mark.parametrize("case", VECTORS, ids=lambda case: case["name"])
def test_published_vectors(case):
    proof = [_raw(text) for text in case["proof"] or []]
    if case["kind"] == "inclusion":
        check = merkle.verify_inclusion
        arguments = (case["leafIdx"], case["treeSize"], _raw(case["leafHash"]), proof, _raw(case["root"]))
    else:
        check = merkle.verify_consistency
        arguments = (case["size1"], case["size2"], _raw(case["root1"]), _raw(case["root2"]), proof)
    if case["wantErr"]:
        with pytest.raises(ProofError):
            check(*arguments)
    else:
        check(*arguments)


def test_all_vectors_are_there():
    assert len(VECTORS) == 98
    assert {case["kind"] for case in VECTORS} == {"inclusion", "consistency"}


def test_a_refusal_is_a_finding():
    with pytest.raises(Finding) as caught:
        merkle.verify_inclusion(0, 1, sha256(b"a"), [], sha256(b"b"))
    assert caught.value.exit_code == 1


def test_an_entry_never_passes_for_a_node():
    left, right = merkle.leaf_hash(b"l"), merkle.leaf_hash(b"r")
    assert merkle.leaf_hash(left + right) != sha256(b"\x01" + left + right)


# ---- every small size ------------------------------------------------------------------------------------------


def test_every_inclusion_in_every_small_tree(small_tree):
    for size in range(1, small_tree.size + 1):
        for index in {0, 1, size // 2, size - 2, size - 1} & set(range(size)):
            proof = tree.prove_inclusion(index, size, small_tree)
            leaf = small_tree.leaf(index)
            assert merkle.root_from_inclusion(index, size, leaf, proof) == small_tree.roots[size]
            merkle.verify_inclusion(index, size, leaf, proof, small_tree.roots[size])


def test_every_index_of_some_sizes(small_tree, small_literal):
    for size in (1, 2, 3, 7, 8, 9, 63, 100, 255, 256, 257, 300):
        for index in range(size):
            proof = small_literal.inclusion(index, size)
            merkle.verify_inclusion(index, size, small_tree.leaf(index), proof, small_tree.roots[size])


def test_consistency_between_all_small_sizes(small_tree, small_literal):
    for size2 in range(1, 131):
        for size1 in range(1, size2 + 1):
            proof = small_literal.consistency(size1, size2)
            merkle.verify_consistency(size1, size2, small_tree.roots[size1], small_tree.roots[size2], proof)


# ---- other implementations -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def peer():
    grown = pymerkle.InmemoryTree(algorithm="sha256")
    for i in range(PEER):
        grown.append_entry(entry_of(i))
    return grown


def _sigstore_entry(index: int, size: int, proof: list[bytes], root: bytes) -> SimpleNamespace:
    """The few fields of a Rekor entry that its verifier reads."""
    inclusion = SimpleNamespace(log_index=index, tree_size=size, hashes=proof, root_hash=root)
    return SimpleNamespace(_inner=SimpleNamespace(inclusion_proof=inclusion, canonicalized_body=entry_of(index)))


def _random_pairs(count: int, size_max: int, seed: int) -> list[tuple[int, int]]:
    """(index, size), small and large sizes alike."""
    chance = random.Random(seed)
    sizes = [int(size_max ** chance.random()) for _ in range(count)]
    return [(chance.randrange(size), size) for size in sizes]


def _agrees_with_peer(peer, grown: Grown, index: int, size: int) -> None:
    root = tree.root_at(size, grown)
    assert peer.get_root(size) == root
    theirs = peer.prove_inclusion(index + 1, size)
    path = theirs.path[1:]
    assert path == tree.prove_inclusion(index, size, grown)
    merkle.verify_inclusion(index, size, merkle.leaf_hash(entry_of(index)), path, root)
    pymerkle.verify_inclusion(merkle.leaf_hash(entry_of(index)), root, theirs)


def test_pymerkle_agrees_at_every_small_size(peer, small_tree):
    chance = random.Random(3)
    for size in range(1, small_tree.size + 1):
        _agrees_with_peer(peer, small_tree, chance.randrange(size), size)


def test_pymerkle_agrees_at_larger_sizes(peer, big_tree):
    for index, size in [*_random_pairs(300, PEER, seed=4), (0, PEER), (PEER - 1, PEER)]:
        _agrees_with_peer(peer, big_tree, index, size)


def test_pymerkle_accepts_our_roots_as_consistent(peer, big_tree):
    for size1, size2 in _random_pairs(200, PEER, seed=5):
        if size1 == 0:
            continue
        ours = [tree.root_at(size, big_tree) for size in (size1, size2)]
        pymerkle.verify_consistency(*ours, peer.prove_consistency(size1, size2))
        merkle.verify_consistency(size1, size2, *ours, tree.prove_consistency(size1, size2, big_tree))


def test_pymerkle_refuses_what_we_refuse(peer, small_tree):
    other = merkle.leaf_hash(b"another entry")
    proof = peer.prove_inclusion(8, 21)
    with pytest.raises(pymerkle.InvalidProof):
        pymerkle.verify_inclusion(other, small_tree.roots[21], proof)
    with pytest.raises(ProofError):
        merkle.verify_inclusion(7, 21, other, proof.path[1:], small_tree.roots[21])


def test_sigstore_agrees_at_every_small_size(small_tree):
    for size in range(1, small_tree.size + 1):
        for index in {0, size // 3, size - 1}:
            proof = tree.prove_inclusion(index, size, small_tree)
            root = small_tree.roots[size]
            sigstore_merkle.verify_merkle_inclusion(_sigstore_entry(index, size, proof, root))
            for bad in (proof[:-1], [*proof, root], [bytes(32), *proof[1:]]):
                if bad != proof:
                    _both_refuse(index, size, bad, root)


def _both_refuse(index: int, size: int, proof: list[bytes], root: bytes) -> None:
    with pytest.raises(VerificationError):
        sigstore_merkle.verify_merkle_inclusion(_sigstore_entry(index, size, proof, root))
    with pytest.raises(ProofError):
        merkle.verify_inclusion(index, size, merkle.leaf_hash(entry_of(index)), proof, root)


def test_sigstore_agrees_up_to_a_million_entries(big_tree):
    pairs = [*_random_pairs(300, big_tree.size, seed=6), (big_tree.size - 1, big_tree.size)]
    for index, size in pairs:
        proof, root = tree.prove_inclusion(index, size, big_tree), tree.root_at(size, big_tree)
        sigstore_merkle.verify_merkle_inclusion(_sigstore_entry(index, size, proof, root))
        merkle.verify_inclusion(index, size, merkle.leaf_hash(entry_of(index)), proof, root)


def test_consistency_up_to_a_million_entries(big_tree):
    for size1, size2 in _random_pairs(300, big_tree.size, seed=7):
        if size1 == 0:
            continue
        roots = [tree.root_at(size, big_tree) for size in (size1, size2)]
        proof = tree.prove_consistency(size1, size2, big_tree)
        merkle.verify_consistency(size1, size2, *roots, proof)
        if proof:
            with pytest.raises(ProofError):
                merkle.verify_consistency(size1, size2, *roots, proof[:-1])


# ---- nothing else is accepted ----------------------------------------------------------------------------------

_GROWN = Grown()
_GROWN.grow(leaves_of(0, 260))
_LITERAL = Literal([_GROWN.leaf(i) for i in range(_GROWN.size)])


def _flip(raw: bytes, bit: int) -> bytes:
    return (int.from_bytes(raw) ^ 1 << bit % (8 * len(raw))).to_bytes(len(raw))


@st.composite
def _inclusions(draw):
    size = draw(st.integers(1, _GROWN.size))
    index = draw(st.integers(0, size - 1))
    return index, size, _GROWN.leaf(index), _LITERAL.inclusion(index, size), _LITERAL.root(size)


@st.composite
def _consistencies(draw):
    size2 = draw(st.integers(2, _GROWN.size))
    size1 = draw(st.integers(1, size2 - 1))
    return size1, size2, _LITERAL.root(size1), _LITERAL.root(size2), _LITERAL.consistency(size1, size2)


@given(_inclusions(), st.integers(0, 255), st.data())
def test_a_flipped_bit_refuses_an_inclusion(case, bit, data):
    index, size, leaf, proof, root = case
    merkle.verify_inclusion(*case)
    spoiled = [(index, size, _flip(leaf, bit), proof, root), (index, size, leaf, proof, _flip(root, bit))]
    if proof:
        at = data.draw(st.integers(0, len(proof) - 1))
        spoiled.append((index, size, leaf, [*proof[:at], _flip(proof[at], bit), *proof[at + 1 :]], root))
    for bad in spoiled:
        with pytest.raises(ProofError):
            merkle.verify_inclusion(*bad)


@given(_inclusions(), st.integers(0, 62))
def test_a_flipped_bit_of_the_index_refuses(case, bit):
    index, size, leaf, proof, root = case
    with pytest.raises(ProofError):
        merkle.verify_inclusion(index ^ 1 << bit, size, leaf, proof, root)


@given(_inclusions(), st.integers(0, 62))
def test_another_size_never_proves_another_index(case, bit):
    """The size alone is bound by the signed checkpoint; with it changed, a proof may only lead to the same leaf."""
    index, size, leaf, proof, root = case
    other = size ^ 1 << bit
    try:
        merkle.verify_inclusion(index, other, leaf, proof, root)
    except ProofError:
        return
    # The shape of the path to this leaf is the same in both trees, so the root binds the same leaf.
    assert (index ^ (other - 1)).bit_length() + (index >> (index ^ (other - 1)).bit_length()).bit_count() == len(proof)
    with pytest.raises(ProofError):
        merkle.verify_inclusion(index, other, _flip(leaf, bit), proof, root)


@given(_consistencies(), st.integers(0, 255), st.data())
def test_a_flipped_bit_refuses_a_consistency(case, bit, data):
    size1, size2, root1, root2, proof = case
    merkle.verify_consistency(*case)
    at = data.draw(st.integers(0, len(proof) - 1))
    for bad in [
        (size1, size2, _flip(root1, bit), root2, proof),
        (size1, size2, root1, _flip(root2, bit), proof),
        (size1, size2, root1, root2, [*proof[:at], _flip(proof[at], bit), *proof[at + 1 :]]),
        (size1, size2, root1, root2, proof[:-1]),
        (size1, size2, root1, root2, [*proof, root1]),
        (size1, size2, root2, root1, proof),
    ]:
        with pytest.raises(ProofError):
            merkle.verify_consistency(*bad)


@given(_inclusions(), st.integers(0, 40))
def test_a_hash_of_another_length_refuses(case, length):
    index, size, leaf, proof, root = case
    if length == 32:
        return
    for bad_leaf, bad_proof in [(bytes(length), proof), *([(leaf, [bytes(length), *proof[1:]])] if proof else [])]:
        with pytest.raises(ProofError):
            merkle.verify_inclusion(index, size, bad_leaf, bad_proof, root)


@given(_inclusions())
def test_too_many_or_too_few_hashes_refuse(case):
    index, size, leaf, proof, root = case
    for bad in ([*proof, root], [root, *proof], *([proof[1:], proof[:-1]] if proof else [])):
        with pytest.raises(ProofError):
            merkle.verify_inclusion(index, size, leaf, bad, root)


@pytest.mark.parametrize(("index", "size"), [(0, 0), (1, 1), (-1, 3), (5, 5), (0, -1), (2**63, 2**63)])
def test_an_index_outside_the_tree_refuses(index, size):
    with pytest.raises(ProofError):
        merkle.verify_inclusion(index, size, bytes(32), [], bytes(32))


@pytest.mark.parametrize(("size1", "size2"), [(2, 1), (-1, 1), (0, 1), (0, 8), (1, 2), (3, 5)])
def test_an_impossible_or_empty_consistency_refuses(size1, size2):
    with pytest.raises(ProofError):
        merkle.verify_consistency(size1, size2, tree.EMPTY_ROOT, bytes(32), [])


def test_two_roots_of_one_size_are_a_fork():
    merkle.verify_consistency(3, 3, bytes(32), bytes(32), [])
    merkle.verify_consistency(0, 0, tree.EMPTY_ROOT, tree.EMPTY_ROOT, [])
    with pytest.raises(ProofError, match="forked"):
        merkle.verify_consistency(3, 3, bytes(32), b"\x01" + bytes(31), [])
    with pytest.raises(ProofError):
        merkle.verify_consistency(3, 3, bytes(32), bytes(32), [bytes(32)])
