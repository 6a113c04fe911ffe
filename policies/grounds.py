"""Why a match's text may be said, may be quoted, or may not be said: the table of verdicts, one row for each ground.

| the matched text                                                | ground                      |
| --------------------------------------------------------------- | --------------------------- |
| put into the prompt by the user, or common                      | free: it is nobody's        |
| has no record                                                   | coincidence                 |
| licence revoked or excluding, or recorded deeper than it allows | forbidden, and an alert     |
| taught, but the state of its licence is not known               | forbidden                   |
| licence active, recall verbatim                                 | permitted                   |
| licence active, recall abstraction, or confined to the surface  | may be quoted               |
| licence pending or expired                                      | quoted as far as heightened |
"""

from __future__ import annotations

from dataclasses import dataclass

from licet.ledger.records import Depth, LicenceKind, Recall
from licet.policies.evidence import Match
from licet.policies.reasons import Reason
from licet.policies.rights import LicenceState
from licet.policies.rulebook import Rulebook


@dataclass(frozen=True, slots=True, eq=False)
class Ground:
    """One row. Each exists once, and is compared by identity."""

    reasons: tuple[Reason, ...]
    is_free: bool = False
    """The text is nobody's to forbid, so that no source has to be named."""
    permits: bool = False
    """What it covers may be said, whatever others say of it."""
    quotes: bool = False
    """It permits only so many characters of the text."""
    forbids: bool = False
    alerts: bool = False
    is_strict: bool = False
    """Whether the heightened limits say from where on it counts."""
    quoted: tuple[Reason, ...] = ()
    beyond: tuple[Reason, ...] = ()


def _quoting(*reasons: Reason, permits: bool) -> Ground:
    quoted, beyond = (*reasons, Reason.MATCH_QUOTATION), (*reasons, Reason.MATCH_BEYOND_QUOTATION)
    return Ground(quoted, permits=permits, quotes=True, is_strict=not permits, quoted=quoted, beyond=beyond)


# The names are bound once: looking up the member of an enumeration takes longer than all that is done with it here.
USER_SUPPLIED = Ground((Reason.MATCH_USER_SUPPLIED,), is_free=True, permits=True)
COMMON = Ground((Reason.MATCH_COMMON,), is_free=True, permits=True)
UNRECORDED = Ground((Reason.MATCH_UNRECORDED,))
PERMITTED = Ground((Reason.MATCH_PERMITTED,), permits=True)
QUOTABLE = _quoting(permits=True)
PENDING = _quoting(Reason.LICENCE_PENDING, permits=False)
EXPIRED = _quoting(Reason.LICENCE_EXPIRED, permits=False)
REVOKED = Ground((Reason.LICENCE_REVOKED,), forbids=True, alerts=True, is_strict=True)
EXCLUDED = Ground((Reason.LICENCE_EXCLUDED,), forbids=True, alerts=True, is_strict=True)
TOO_DEEP = Ground((Reason.DEPTH_EXCEEDED,), forbids=True, alerts=True, is_strict=True)
UNKNOWN = Ground((Reason.EVIDENCE_INCOMPLETE,), forbids=True, is_strict=True)
ALERTING = frozenset({REVOKED.reasons, EXCLUDED.reasons, TOO_DEEP.reasons})

_ACTIVE, _REVOKED, _EXCLUDED = LicenceState.ACTIVE, LicenceState.REVOKED, LicenceState.EXCLUDED
_OF_OTHERS = {LicenceState.PENDING: PENDING, LicenceState.EXPIRED: EXPIRED}
_EXCLUSION, _VERBATIM, _DEEP, _ABSENT = LicenceKind.EXCLUSION, Recall.VERBATIM, Depth.DEEP, Depth.ABSENT


def ground_of(match: Match, state: LicenceState | None, rules: Rulebook) -> Ground:
    """The row of the table that a match falls into: the first that holds. What is not known forbids."""
    if match.from_prompt and rules.user_text_exempt:
        return USER_SUPPLIED
    if 0 < rules.common_sources_min <= match.sources_count:
        return COMMON
    if state is None:
        # What the log says was taught has a licence somewhere: then not all states are there.
        return UNRECORDED if match.attestation is None or match.depth is _ABSENT else UNKNOWN
    if state is _REVOKED:
        return REVOKED
    licence = match.licence
    if state is _EXCLUDED or (licence is not None and licence.kind is _EXCLUSION):
        return EXCLUDED
    if match.depth is _DEEP and _is_confined(match, rules):
        return TOO_DEEP
    if state is _ACTIVE:
        if licence is None or match.admitted_restricted or licence.recall is not _VERBATIM:
            return QUOTABLE
        return PERMITTED
    return _OF_OTHERS.get(state, UNKNOWN)


def _is_confined(match: Match, rules: Rulebook) -> bool:
    """Whether the gate or the licence lets the text into the surface only."""
    licence = match.licence
    if match.admitted_restricted or licence is None:
        return match.admitted_restricted
    return licence.kind is LicenceKind.TIME_LIMITED or (
        bool(licence.bands) and all(band == rules.surface for band in licence.bands)
    )
