"""What was decided about an output: span by span, as a whole, and how far a mode enforces it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from licet.ledger.records import Action, Depth, Digest, Mode, Span
from licet.policies.evidence import Match
from licet.policies.reasons import Reason
from licet.policies.rights import LicenceState

UNRECORDED = "unrecorded"
"""What a recorded span says of a licence that there is none of."""
PPM = 1_000_000


class Enforcement(StrEnum):
    """What becomes of an output."""

    NONE = "none"
    ANNOTATE = "annotate"
    DIVERT = "divert"
    STOP = "stop"


_OF_SUPPRESSION = {
    Mode.MONITOR: Enforcement.NONE,
    Mode.ANNOTATE: Enforcement.ANNOTATE,
    Mode.DIVERT: Enforcement.DIVERT,
    Mode.STOP: Enforcement.STOP,
}


class RuledSpan(NamedTuple):
    """A stretch [start, end) of the output, and what is done about the match that it belongs to.

    One match may fall into several stretches, and stretches of different matches may overlap. A tuple, because a
    verdict makes many of them: a frozen dataclass takes three times as long.
    """

    start: int
    end: int
    action: Action
    state: LicenceState | None
    """Of the licence now; None where there is no record of one."""
    reasons: tuple[Reason, ...]
    match: Match
    permitted_by: Match | None = None
    """The match whose licence lets be said what this one's does not; it is the one to be named."""

    @property
    def attestation(self) -> Digest | None:
        return self.match.attestation

    @property
    def source(self) -> str:
        return self.match.source

    @property
    def depth(self) -> Depth:
        return self.match.depth

    @property
    def attributed_to(self) -> str | None:
        """The source to be named, if any is."""
        if self.action is not Action.ATTRIBUTE:
            return None
        return self.source if self.permitted_by is None else self.permitted_by.source


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer on one output. The mode changes what is enforced, and nothing else."""

    action: Action
    mode: Mode
    reasons: tuple[Reason, ...]
    """Sorted; those of the spans and those of the whole."""
    spans: tuple[RuledSpan, ...]
    """Sorted by where they start."""
    alert: bool
    tainted_share: float
    heightened: bool
    whole: bool
    """Whether all of the output is refused, and not only some spans of it."""

    @property
    def enforced(self) -> Enforcement:
        """What is done about it. There is no way round an output that is refused as a whole, so `divert` stops it."""
        if self.action is Action.ALLOW or self.mode is Mode.MONITOR:
            return Enforcement.NONE
        if self.action is Action.ATTRIBUTE:
            return Enforcement.ANNOTATE
        found = _OF_SUPPRESSION[self.mode]
        return Enforcement.STOP if self.whole and found is Enforcement.DIVERT else found

    def action_at(self, position: int) -> Action:
        """What is done about one code point of the output."""
        if self.whole:
            return Action.SUPPRESS
        held = {span.action for span in self.spans if span.start <= position < span.end}
        return next((one for one in (Action.SUPPRESS, Action.ATTRIBUTE) if one in held), Action.ALLOW)

    @property
    def tainted_share_ppm(self) -> int:
        return round(self.tainted_share * PPM)

    def as_spans(self) -> tuple[Span, ...]:
        """The matches as the runtime log records them: each once, in full."""
        found: dict[int, RuledSpan] = {}
        for span in self.spans:
            found.setdefault(id(span.match), span)
        return tuple(
            Span(
                span.match.start,
                span.match.end,
                span.match.attestation,
                UNRECORDED if span.state is None else span.state.value,
                span.match.kind.value,
                round(span.match.closeness * PPM),
                span.match.depth,
            )
            for span in found.values()
        )
