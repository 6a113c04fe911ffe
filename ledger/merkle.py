"""Pure tree mathematics of RFC 6962: what a hash proves. It knows no log, no file and no signature.

Every function takes plain values and either returns or raises `ProofError`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from licet.ledger.errors import ProofError

__all__ = ["leaf_hash", "root_from_inclusion", "verify_consistency", "verify_inclusion"]

_HASH_BYTES = 32


def leaf_hash(entry: bytes) -> bytes:
    """The hash of one entry as a leaf; the prefix keeps a leaf from ever passing for a node."""
    return hashlib.sha256(b"\x00" + entry).digest()


def root_from_inclusion(index: int, size: int, leaf_hash: bytes, proof: Sequence[bytes]) -> bytes:
    """The root of a tree of `size` leaves in which `leaf_hash` stands at `index`, by its audit path."""
    if not 0 <= index < size:
        raise ProofError(f"Entry {index} cannot be in a log of {size} entries.")
    # Below `inner` the path climbs inside the last, possibly incomplete, subtree; above it
    # every sibling lies to the left.
    inner = (index ^ (size - 1)).bit_length()
    border = (index >> inner).bit_count()
    path = _hashes(proof, inner + border, what="inclusion proof")
    (node,) = _hashes([leaf_hash], 1, what="leaf hash")
    for height, sibling in enumerate(path[:inner]):
        node = _parent(sibling, node) if index >> height & 1 else _parent(node, sibling)
    for sibling in path[inner:]:
        node = _parent(sibling, node)
    return node


def verify_inclusion(index: int, size: int, leaf_hash: bytes, proof: Sequence[bytes], root: bytes) -> None:
    """Raise unless `leaf_hash` stands at `index` in the tree of `size` leaves with this root."""
    if root_from_inclusion(index, size, leaf_hash, proof) != root:
        raise ProofError(f"The proof for entry {index} does not lead to the root of size {size}.")


def verify_consistency(size1: int, size2: int, root1: bytes, root2: bytes, proof: Sequence[bytes]) -> None:
    """Raise unless the tree (size1, root1) is a prefix of the tree (size2, root2)."""
    if not 0 <= size1 <= size2:
        raise ProofError(f"A log of {size1} entries cannot be the beginning of one of {size2}.")
    if size1 == size2:
        _hashes(proof, 0, what="consistency proof between equal sizes")
        if root1 != root2:
            raise ProofError(f"Two different roots for one size, {size1}: the log was forked.")
        return
    if size1 == 0:
        # Every log begins empty: such a proof would prove nothing, so nobody may rely on one.
        raise ProofError("Nothing can be proved from the empty log; compare with a later checkpoint.")
    path = _hashes(proof, None, what="consistency proof")
    if size1 & (size1 - 1) == 0:  # the old tree is one whole subtree of the new: its root is known
        path = [root1, *path]
    if not path:
        raise ProofError(f"The consistency proof from {size1} to {size2} is empty.")

    left, right = size1 - 1, size2 - 1
    while left & 1:
        left, right = left >> 1, right >> 1
    old = new = path[0]
    for sibling in path[1:]:
        if right == 0:
            raise ProofError(f"The consistency proof from {size1} to {size2} is too long.")
        if left & 1 or left == right:
            old, new = _parent(sibling, old), _parent(sibling, new)
            while left and not left & 1:
                left, right = left >> 1, right >> 1
        else:
            new = _parent(new, sibling)
        left, right = left >> 1, right >> 1
    if right != 0:
        raise ProofError(f"The consistency proof from {size1} to {size2} is too short.")
    if old != root1 or new != root2:
        raise ProofError(f"The log of size {size2} does not begin with the one of size {size1}.")


def _parent(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def _hashes(values: Sequence[bytes], count: int | None, *, what: str) -> list[bytes]:
    if count is not None and len(values) != count:
        raise ProofError(f"The {what} has {len(values)} hashes where {count} are needed.")
    if any(len(value) != _HASH_BYTES for value in values):
        raise ProofError(f"The {what} holds something that is not a SHA-256 hash of 32 bytes.")
    return list(values)
