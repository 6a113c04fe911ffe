"""Which verdicts of the past would be suppressions, had a licence's state been another.

The runtime log keeps of each match where it lay and what its licence's state was, but neither its terms nor whether
the user had brought the text. So an answer is *certain* where nothing else could have let the text be said, and
*possible* where another active licence matched it too, or the text was free on another ground.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from licet.ledger.errors import FormatError
from licet.ledger.records import Action, Digest, Licence, LicenceKind, Recall, Span, VerdictGiven
from licet.policies.decide import decide
from licet.policies.evidence import ENDED, Evidence, LicenceStatus, Match, MatchKind, tainted_share
from licet.policies.reasons import Reason
from licet.policies.rights import LicenceState
from licet.policies.rulebook import Rulebook
from licet.policies.verdict import PPM, Verdict

_ANY_TERMS = Licence(LicenceKind.OPEN, None, None, None, None, (), (), Recall.VERBATIM, ())
"""Stands for the terms of an active licence that are not in the log: the most that they could be."""
_FREED = frozenset({Reason.MATCH_USER_SUPPLIED.value, Reason.MATCH_COMMON.value})


class Turn(StrEnum):
    """Whether a verdict would turn to `suppress`."""

    NO = "no"
    POSSIBLE = "possible"
    CERTAIN = "certain"


@dataclass(frozen=True, slots=True)
class Change:
    """One attestation's licence goes from a state to another. `shares` is its part of each block's exposure."""

    attestation: Digest
    before: LicenceState
    after: LicenceState
    shares: tuple[float, ...] = ()


def turn_of(given: VerdictGiven, change: Change, rules: Rulebook) -> Turn:
    """What would become of one verdict."""
    if given.action is Action.SUPPRESS or change.after is change.before or change.after is LicenceState.ACTIVE:
        return Turn.NO
    try:
        own = [_match(span, None) for span in given.spans if span.attestation == change.attestation]
        others = [_match(span, _ANY_TERMS) for span in given.spans if span.licence_state == LicenceState.ACTIVE.value]
    except FormatError:  # spans that cannot be: nobody knows what they would have been
        return Turn.POSSIBLE
    others = [one for one in others if one.attestation != change.attestation]
    states: LicenceStatus = {
        **{one.attestation: LicenceState.ACTIVE for one in others if one.attestation is not None},
        change.attestation: change.after,
    }
    tainted = _tainted(given, change)
    alone = _judged(own, states, tainted, rules)
    if alone.action is not Action.SUPPRESS:
        # Lower limits may forbid what other licences let be quoted; their terms are not known here.
        lowered = alone.heightened and Reason.TAINT_HEIGHTENED.value not in given.reasons
        return Turn.POSSIBLE if lowered and len(given.spans) > len(own) else Turn.NO
    if alone.whole:
        return Turn.CERTAIN
    freed = bool(_FREED & set(given.reasons)) or _judged([*own, *others], states, tainted, rules).action is not (
        Action.SUPPRESS
    )
    return Turn.POSSIBLE if freed else Turn.CERTAIN


def _judged(matches: Sequence[Match], states: LicenceStatus, tainted: float, rules: Rulebook) -> Verdict:
    return decide(Evidence(tuple(matches), (1.0,), (tainted,)), states, rules)


def _match(span: Span, licence: Licence | None) -> Match:
    """A recorded span as evidence again. A kind that is not known is taken for the stricter one."""
    kind = MatchKind.NEAR if span.kind == MatchKind.NEAR.value else MatchKind.VERBATIM
    similarity = min(span.similarity_ppm / PPM, 1.0)
    return Match(
        span.start, span.end, span.attestation, "", kind, similarity, span.end - span.start, span.depth, licence
    )


def _tainted(given: VerdictGiven, change: Change) -> float:
    """The tainted share as it would be: what is recorded, and what a licence that ends now adds to it.

    Nothing is added where the recorded activity is not of the blocks that the shares are of.
    """
    held = min(given.tainted_share_ppm / PPM, 1.0)
    ends = change.after in ENDED and change.before not in ENDED
    if not ends or len(given.activity_ppm) != len(change.shares):
        return held
    return min(held + tainted_share(given.activity_ppm, change.shares), 1.0)
