"""The verdict: may this be said? A pure function of evidence, licence states and rules.

    1. each match gets its ground: why its text may be said, may be quoted, or may not be said (`grounds.py`)
    2. quotations are counted for each attestation, from the start of the output, and cut where the limit is reached
    3. what one active licence lets be said is taken out of what others forbid (`relief.py`)

Limits say from where on a match *restricts*. What an active licence permits, it permits at any length, but only where
the output is at least as close to its text as to the one that forbids. A revocation, an expiry or a restriction never
turns a suppression into anything else, and the order of the matches never matters: tests hold both.

    rules = Rulebook.of(policy, tenant="acme")     # once for each policy and tenant
    verdict = decide(evidence, states, rules)      # at each look at an output
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

from licet.ledger.records import Action, Digest
from licet.policies.evidence import MATCHES_MAX, Evidence, LicenceStatus, Match, MatchKind, tainted_share
from licet.policies.grounds import ALERTING, PERMITTED, Ground, ground_of
from licet.policies.reasons import Reason
from licet.policies.relief import Permit, relieved
from licet.policies.rights import LicenceState
from licet.policies.rulebook import Rulebook
from licet.policies.schema import Limits
from licet.policies.verdict import RuledSpan, Verdict

# Bound once: a member of an enumeration is slow to look up, and a verdict is awaited while text waits.
_ALLOW, _ATTRIBUTE, _SUPPRESS = Action.ALLOW, Action.ATTRIBUTE, Action.SUPPRESS
_VERBATIM = MatchKind.VERBATIM
_ATTRIBUTED = (Reason.MATCH_ATTRIBUTED,)


def decide(evidence: Evidence, states: LicenceStatus, rules: Rulebook) -> Verdict:
    """The verdict on an output. It never raises because of what the evidence says."""
    tainted = tainted_share(evidence.activity, evidence.shares)
    heightened = 0 < tainted >= rules.tainted_heighten
    exceeded = 0 < tainted >= rules.tainted_refuse
    drowned = len(evidence.matches) > MATCHES_MAX
    whole = exceeded or drowned or not evidence.complete
    spans: list[RuledSpan] = []
    if not drowned:
        spans = _ruled(evidence.matches, states, rules, rules.heightened if heightened else rules.limits)
    reasons = {reason for held in {span.reasons for span in spans} for reason in held}
    if whole or heightened or not spans:
        reasons |= _reasons_of_whole(evidence, heightened, exceeded, drowned, not spans)
    actions = [span.action for span in spans]
    action, alert = _ATTRIBUTE if _ATTRIBUTE in actions else _ALLOW, drowned
    if _SUPPRESS in actions:
        action = _SUPPRESS
        alert = any(span.reasons in ALERTING for span in spans)
    if whole:
        action = _SUPPRESS
    return Verdict(action, rules.mode, tuple(sorted(reasons)), tuple(spans), alert, tainted, heightened, whole)


def _reasons_of_whole(
    evidence: Evidence, heightened: bool, exceeded: bool, drowned: bool, unmatched: bool
) -> set[Reason]:
    """Why an output is judged as it is, apart from its matches."""
    if drowned or not evidence.complete:
        found = {Reason.EVIDENCE_INCOMPLETE}
    else:
        found = {Reason.MATCH_NONE} if unmatched else set()
    if heightened:
        found.add(Reason.TAINT_HEIGHTENED)
    if exceeded:
        found.add(Reason.TAINT_EXCEEDED)
    return found


def _ruled(matches: Sequence[Match], states: LicenceStatus, rules: Rulebook, limits: Limits) -> list[RuledSpan]:
    """What is done about each match that counts, sorted."""
    spans: list[RuledSpan] = []
    forbidden: list[RuledSpan] = []
    permits: list[Permit] = []
    quotes: dict[Digest | None, list[tuple[Match, Ground, LicenceState | None]]] = {}
    for match in matches:
        state = None if match.attestation is None else states.get(match.attestation)
        ground = ground_of(match, state, rules)
        counts = _counts(match, rules.heightened if ground.is_strict else limits)
        if ground.quotes and counts:
            quotes.setdefault(match.attestation, []).append((match, ground, state))
            continue
        if ground.permits:
            permits.append(Permit(match.start, match.end, ground, match))
        if not counts:
            continue
        if ground.forbids:
            forbidden.append(RuledSpan(match.start, match.end, _SUPPRESS, state, ground.reasons, match))
        elif rules.attribute and ground is PERMITTED:
            spans.append(RuledSpan(match.start, match.end, _ATTRIBUTE, state, _ATTRIBUTED, match))
        else:
            spans.append(RuledSpan(match.start, match.end, _ALLOW, state, ground.reasons, match))
    for group in quotes.values():
        _quote(group, rules, limits, spans, forbidden, permits)
    spans += relieved(forbidden, permits) if forbidden and permits else forbidden
    spans.sort(key=_place)
    if len(set(map(_place, spans))) < len(spans):
        spans.sort(key=_span_order)
    return spans


def _counts(match: Match, limits: Limits) -> bool:
    """Whether a match is long enough, or close enough, to restrict what is said."""
    if match.kind is _VERBATIM:
        return match.chars >= limits.verbatim_chars_min
    return match.similarity >= limits.similarity_min


def _quote(
    group: Sequence[tuple[Match, Ground, LicenceState | None]],
    rules: Rulebook,
    limits: Limits,
    spans: list[RuledSpan],
    forbidden: list[RuledSpan],
    permits: list[Permit],
) -> None:
    """Matches of one attestation: so many characters of the output may be quoted from it, and none after."""
    first, ground, state = group[0]
    most = (limits if ground.permits else rules.heightened).quotation_chars_max
    cut = first.start + most if len(group) == 1 else _cut([match for match, _, _ in group], most)
    for match, _, _ in group:
        start, end = match.start, match.end
        if start < cut:
            quoted = end if end < cut else cut
            spans.append(RuledSpan(start, quoted, _ATTRIBUTE, state, ground.quoted, match))
            if ground.permits:
                permits.append(Permit(start, quoted, ground, match))
            start = quoted
        if start < end:
            forbidden.append(RuledSpan(start, end, _SUPPRESS, state, ground.beyond, match))


def _cut(matches: Sequence[Match], most: int) -> int:
    """The position before which these matches cover `most` characters, each counted once."""
    left, reach = most, 0
    for match in sorted(matches, key=_start):
        start = match.start if match.start > reach else reach
        if match.end - start > left:
            return start + left
        if match.end > start:
            left -= match.end - start
            reach = match.end
    return reach


_start = attrgetter("start")
_place = attrgetter("start", "end")


def _span_order(span: RuledSpan) -> tuple[object, ...]:
    return span.start, span.end, *span.match.order
