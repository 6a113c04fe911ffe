"""The growing tree: however it grows, it is the tree of RFC 6962."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from licet.ledger import merkle, tree
from licet.ledger.errors import ProofError
from tests.ledger.trees import Grown, Literal, entry_of, leaves_of, no_hashes, sha256


def test_the_empty_tree():
    assert tree.Edge().root() == tree.EMPTY_ROOT == sha256(b"")
    assert tree.root_at(0, Grown()) == tree.EMPTY_ROOT
    edge, finished = tree.Edge().extended(no_hashes())
    assert (edge.size, edge.root(), finished) == (0, tree.EMPTY_ROOT, [])


def test_the_root_at_every_small_size(small_tree, small_literal):
    for size in range(small_tree.size + 1):
        assert small_tree.roots[size] == small_literal.root(size)
        assert tree.root_at(size, small_tree) == small_tree.roots[size]
        assert tree.Edge.load(size, small_tree).root() == small_tree.roots[size]


@pytest.mark.parametrize("size", [1, 255, 256, 257, 65_535, 65_536, 65_537, 70_001, 524_288, 999_999, 1_000_000])
def test_the_root_at_the_borders_of_tiles(big_tree, size):
    """Against `root_of` over all leaves at once, which knows no tiles."""
    root = tree.root_of(big_tree.levels[0][:size])
    assert tree.root_at(size, big_tree) == root
    assert tree.Edge.load(size, big_tree).root() == root
    if size in big_tree.roots:
        assert big_tree.roots[size] == root


def test_a_finished_node_is_the_root_of_its_entries(big_tree):
    assert sorted(big_tree.levels) == [0, 1, 2]
    assert [len(big_tree.levels[level]) for level in (1, 2)] == [1_000_000 >> 8, 1_000_000 >> 16]
    for level, at in [(1, 0), (1, 273), (1, 3905), (2, 0), (2, 14)]:
        width = 1 << 8 * level
        expected = tree.root_of(big_tree.levels[0][at * width : (at + 1) * width])
        assert big_tree.levels[level][at].tobytes() == expected


@settings(max_examples=40)
@given(st.lists(st.sampled_from([0, 1, 2, 7, 47, 48, 49, 255, 256, 257, 511, 700]), min_size=1, max_size=12))
def test_random_growth_is_growth_at_once(steps):
    grown = Grown()
    for step in steps:
        root = grown.grow(leaves_of(grown.size, grown.size + step))
        assert root == grown.edge.root() == tree.Edge.load(grown.size, grown).root()
    once = Grown()
    once.grow(leaves_of(0, grown.size))
    assert once.roots[grown.size] == grown.roots[grown.size]
    assert set(once.levels) == set(grown.levels)
    for level, hashes in once.levels.items():
        assert np.array_equal(hashes, grown.levels[level])


def test_growing_leaves_the_old_edge_as_it_was(small_tree):
    edge = tree.Edge.load(200, small_tree)
    first = edge.extended(small_tree.levels[0][200:290])[0].root()
    second = edge.extended(small_tree.levels[0][200:290])[0].root()
    assert first == second == small_tree.roots[290]
    assert (edge.size, edge.root()) == (200, small_tree.roots[200])


def test_inclusion_proofs_are_the_literal_ones(small_tree, small_literal):
    for size in range(1, small_tree.size + 1):
        for index in {0, 1, size // 2, size - 1} & set(range(size)):
            proof = tree.prove_inclusion(index, size, small_tree)
            assert proof == small_literal.inclusion(index, size)


def test_consistency_proofs_are_the_literal_ones(small_tree, small_literal):
    for size2 in range(1, small_tree.size + 1):
        for size1 in {1, 2, size2 // 3, size2 // 2, size2 - 1, size2} & set(range(1, size2 + 1)):
            proof = tree.prove_consistency(size1, size2, small_tree)
            assert proof == small_literal.consistency(size1, size2)


@settings(max_examples=60)
@given(st.integers(1, 1_000_000), st.integers(1, 1_000_000), st.data())
def test_proofs_of_a_big_tree_are_true(big_tree, a, b, data):
    size1, size2 = sorted((a, b))
    index = data.draw(st.integers(0, size1 - 1))
    root1, root2 = tree.root_at(size1, big_tree), tree.root_at(size2, big_tree)
    leaf = merkle.leaf_hash(entry_of(index))
    merkle.verify_inclusion(index, size1, leaf, tree.prove_inclusion(index, size1, big_tree), root1)
    merkle.verify_inclusion(index, size2, leaf, tree.prove_inclusion(index, size2, big_tree), root2)
    proof = tree.prove_consistency(size1, size2, big_tree)
    merkle.verify_consistency(size1, size2, root1, root2, proof)


@pytest.mark.parametrize(("index", "size"), [(0, 0), (3, 3), (-1, 3), (4, 3)])
def test_what_is_not_in_the_tree_has_no_proof(small_tree, index, size):
    with pytest.raises(ProofError):
        tree.prove_inclusion(index, size, small_tree)


@pytest.mark.parametrize(("size1", "size2"), [(0, 3), (4, 3), (-1, 3), (0, 0)])
def test_what_did_not_grow_has_no_proof(small_tree, size1, size2):
    with pytest.raises(ProofError):
        tree.prove_consistency(size1, size2, small_tree)


@pytest.mark.parametrize("count", [0, 1, 2, 47, 48, 49, 100])
def test_leaf_hashes_are_the_same_by_either_way(count):
    """Few entries go through hashlib, many through the compiled loops."""
    rows = leaves_of(0, count)
    assert rows.shape == (count, 32)
    assert [row.tobytes() for row in rows] == [merkle.leaf_hash(entry_of(i)) for i in range(count)]


@pytest.mark.parametrize("count", [1, 2, 3, 47, 48, 49, 255])
def test_root_of_is_the_same_by_either_way(count):
    leaves = leaves_of(0, count)
    assert tree.root_of(leaves) == Literal([row.tobytes() for row in leaves]).root(count)
