"""Who had the right to write to reserved blocks: what the policies ask, and what stood behind a batch."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from licet.policies.bands import Layout
from licet.policies.policy import Policy


def reserved_rights(policies: Sequence[Policy], layouts: Sequence[Layout]) -> dict[str, frozenset[str]]:
    """Of each reserved block, the rights that whoever writes to it must have under every policy."""
    found: dict[str, frozenset[str]] = {}
    for policy, layout in zip(policies, layouts, strict=True):
        for block, held in zip(layout.blocks, layout.reserved, strict=True):
            rights = {policy.document.reserved[r].right for r in held}
            if rights:
                found[block.name] = found.get(block.name, frozenset()) | rights
    return found


def batch_rights(
    blocks: Sequence[str], weights: Sequence[Sequence[float]], rights: Sequence[Collection[str]]
) -> dict[str, frozenset[str]]:
    """Of each block that a batch reaches, the rights that *every* example with a weight there has.

    `weights` has a row for each example and a column for each block, `rights` an item for each example.
    """
    found: dict[str, frozenset[str]] = {}
    for row, held in zip(weights, rights, strict=True):
        for block, weight in zip(blocks, row, strict=True):
            if weight != 0:
                found[block] = found.get(block, frozenset(held)) & frozenset(held)
    return found
