"""What one licence lets be said is taken out of what others forbid: arithmetic of stretches of text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from licet.ledger.records import Action
from licet.policies.evidence import Match
from licet.policies.grounds import Ground
from licet.policies.verdict import RuledSpan


class Permit(NamedTuple):
    """A stretch that may be said, and on which ground."""

    start: int
    end: int
    ground: Ground
    match: Match


def relieved(forbidden: Iterable[RuledSpan], permits: Sequence[Permit]) -> list[RuledSpan]:
    """The suppressions that are left, and the text that may be said after all, with the match that permits it.

    Text that is only somewhat like what a licence covers does not free text that is more like what another forbids.
    """
    parts: list[RuledSpan] = []
    for span in forbidden:
        start, end = span.start, span.end
        near = [one for one in permits if one.start < end and start < one.end]
        if near:
            closeness = span.match.closeness
            near = [one for one in near if one.match.closeness >= closeness]
        if near:
            parts += _split(span, near)
        else:
            parts.append(span)
    return parts


def _split(span: RuledSpan, permits: Iterable[Permit]) -> Iterator[RuledSpan]:
    """One suppression under permits that reach into it. Text that is nobody's goes first: then nobody is named."""
    ordered = sorted(permits, key=_order)
    licensed = [one for one in ordered if not one.ground.is_free]
    for part in _pieces(span, [one for one in ordered if one.ground.is_free]):
        if part.action is Action.SUPPRESS:
            yield from _pieces(part, licensed)
        else:
            yield part


def _pieces(span: RuledSpan, permits: Sequence[Permit]) -> Iterator[RuledSpan]:
    """One suppression under permits that are sorted by their start.

    Each time the permit is taken that reaches farthest, so that few pieces are made.
    """
    at, seen = span.start, 0
    best: Permit | None = None
    while at < span.end:
        while seen < len(permits) and permits[seen].start <= at:
            if best is None or permits[seen].end > best.end:
                best = permits[seen]
            seen += 1
        if best is not None and best.end > at:
            end = min(best.end, span.end)
            yield _permitted(span, at, end, best)
        else:
            end = min(permits[seen].start, span.end) if seen < len(permits) else span.end
            yield span._replace(start=at, end=end)
        at = end


def _permitted(span: RuledSpan, start: int, end: int, permit: Permit) -> RuledSpan:
    action = Action.ALLOW if permit.ground.is_free else Action.ATTRIBUTE
    return RuledSpan(start, end, action, span.state, permit.ground.reasons, span.match, permit.match)


def _order(permit: Permit) -> tuple[object, ...]:
    return permit.start, -permit.end, permit.ground.reasons, *permit.match.order
