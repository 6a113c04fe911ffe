"""Where an unlearning order reaches: what it asks for, in the blocks to which the ledger says that it was taught."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from licet.ledger.errors import ConfigError
from licet.ledger.reader import LogReader
from licet.ledger.records import AttestationMentioned, Digest
from licet.policies.bands import Layout, quantised
from licet.policies.lineage import find_seal, stretches_of
from licet.policies.schema import ALL_OTHERS
from licet.policies.unlearning import Order, Scope


class UnlearningError(ConfigError):
    """An order that cannot be carried out on this model as it was asked. Nothing was changed."""


def taught_levels(log: LogReader, attestation: Digest, seal: Digest) -> dict[tuple[str, ...], set[tuple[int, ...]]]:
    """The profiles under which an attestation was taught to a sealed model, by the blocks that they are for.

    From the events, not from the admissions: an example that waited for its turn has taught nothing.
    """
    refs = [ref for ref, _ in log.find(AttestationMentioned, attestation)]
    found: dict[tuple[str, ...], set[tuple[int, ...]]] = {}
    for stretch in stretches_of(log, *find_seal(log, seal)):
        names = tuple(block.name for block in stretch.started.blocks)
        for events, profiles, _ in log.exposure.events_between(stretch.start, stretch.end):
            rows = np.unique(profiles.rows[np.isin(events.attestation, refs)])
            if len(rows):
                found.setdefault(names, set()).update(map(tuple, profiles.levels[rows].tolist()))
    return found


def order_levels(
    order: Order, layout: Layout, past_levels: Mapping[tuple[str, ...], set[tuple[int, ...]]]
) -> tuple[int, ...]:
    """The negative profile: what the order asks for, in the blocks that the attestation was taught to.

    A block that lies in two bands gets the weaker of their weights; a reserved one only what the order says of the
    reserved band by name. `past_levels` is what `taught_levels` found.
    """
    names = [block.name for block in layout.blocks]
    reached = {
        name
        for blocks, rows in past_levels.items()
        for row in rows
        for name, level in zip(blocks, row, strict=True)
        if level > 0
    }
    lost = sorted(reached - set(names))
    if lost:
        raise UnlearningError(
            f"It was taught to the block {lost[0]}, which this model is not cut into now.",
            remedy="Cut the model into the blocks of the run that taught it.",
        )
    asked = _asked_of(order, layout)
    levels = tuple(-quantised(-weight) if name in reached else 0 for name, weight in zip(names, asked, strict=True))
    if not any(levels):
        raise UnlearningError(
            "The attestation was taught to none of the blocks for which the order has a weight.",
            remedy="There is nothing to unlearn; or let the order name the blocks that `licet ledger forward` shows.",
        )
    return levels


def _asked_of(order: Order, layout: Layout) -> list[float]:
    """What an order asks of each block."""
    given = dict(order.terms.weights)
    by_block = order.terms.scope is Scope.BLOCKS
    known = [block.name for block in layout.blocks] if by_block else [*layout.names, *layout.reserved_names, ALL_OTHERS]
    unknown = sorted(given.keys() - set(known))
    if unknown:
        raise UnlearningError(
            f"The order names {unknown[0]}, which is none of this model's {order.terms.scope.value}.",
            remedy=f"They are {', '.join(known)}.",
        )
    if by_block:
        return [given.get(block.name, 0.0) for block in layout.blocks]
    asked = []
    for own, reserved in zip(layout.own, layout.reserved, strict=True):
        bands = [given.get(layout.names[band], given.get(ALL_OTHERS, 0.0)) for band in own]
        asked.append(max(*bands, *(given.get(layout.reserved_names[r], 0.0) for r in reserved), -1.0))
    return asked
