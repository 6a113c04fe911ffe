"""What the runtime observed of one output: matches with what was taught, block activity, and who shaped those blocks.

Nothing here judges. Numbers that make no sense are refused where a match is made, and count as the worst where they
come from a measurement: what cannot be read must not open a door.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from operator import mul

from licet.ledger.errors import FormatError
from licet.ledger.records import Depth, Digest, Licence
from licet.policies.rights import LicenceState

MATCHES_MAX = 512
"""Of one output. Evidence with more is incomplete: somebody tries to drown the judge."""
POSITION_MAX = (1 << 31) - 1
SOURCE_CHARS_MAX = 1024

LicenceStatus = Mapping[Digest, LicenceState]
"""The state of each attestation's licence now. One that is not there has no record."""

ENDED = frozenset({LicenceState.REVOKED, LicenceState.EXPIRED, LicenceState.EXCLUDED})
"""What taints the blocks that it shaped."""


class MatchKind(StrEnum):
    """How an output agrees with what was taught."""

    VERBATIM = "verbatim"
    NEAR = "near"


@dataclass(frozen=True, slots=True)
class Match:
    """A stretch [start, end) of the output, in code points, that agrees with something taught."""

    start: int
    end: int
    attestation: Digest | None
    """None where there is no record of the matched text."""
    source: str
    kind: MatchKind
    similarity: float
    chars: int
    """How many characters agree, as the comparison counts them."""
    depth: Depth
    licence: Licence | None
    admitted_restricted: bool = False
    """Whether the gate confined the text to the surface: it was admitted under a suppressed profile."""
    from_prompt: bool = False
    """Whether the user put the stretch into the prompt."""
    sources_count: int = 1
    """How many sources hold this text."""

    def __post_init__(self) -> None:
        for name, value in (("start", self.start), ("end", self.end), ("chars", self.chars)):
            if type(value) is not int or not 0 <= value <= POSITION_MAX:
                raise _bad(f"has a {name} that is no whole number from 0 to {POSITION_MAX}")
        if self.start >= self.end:
            raise _bad("ends before it starts")
        if type(self.similarity) not in (int, float) or not 0 <= self.similarity <= 1:
            raise _bad("has a similarity that is no number from 0 to 1")
        if type(self.sources_count) is not int or not 0 <= self.sources_count <= POSITION_MAX:
            raise _bad("has a count of sources that is no whole number")
        if self.attestation is not None and (type(self.attestation) is not bytes or len(self.attestation) != 32):
            raise _bad("names an attestation that is no digest")
        if not isinstance(self.kind, MatchKind) or not isinstance(self.depth, Depth):
            raise _bad("is of no known kind or depth")
        if type(self.source) is not str or len(self.source) > SOURCE_CHARS_MAX:
            raise _bad("names a source that is no text, or too long")

    @property
    def closeness(self) -> float:
        """How far the output is the taught text: 1 if it agrees word for word."""
        return 1.0 if self.kind is MatchKind.VERBATIM else self.similarity

    @property
    def order(self) -> tuple[object, ...]:
        """By what matches are sorted, so that nothing depends on the order in which they were found."""
        return (
            self.start,
            self.end,
            self.attestation or b"",
            self.source,
            self.kind.value,
            self.similarity,
            self.chars,
            self.depth.value,
            self.admitted_restricted,
            self.from_prompt,
            self.sources_count,
        )


def _bad(what: str) -> FormatError:
    return FormatError(f"A match {what}.", remedy="Give the evidence as policies/evidence.py describes it.")


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that was observed. `complete` says that every part of it could be looked at."""

    matches: tuple[Match, ...]
    activity: tuple[float, ...] = ()
    """Of each block, how far it lies above its calibrated mean."""
    shares: tuple[float, ...] = ()
    """Of each block, which part of its recorded exposure is of attestations that have ended (`ended_shares`)."""
    complete: bool = True

    @property
    def tainted_share(self) -> float:
        return tainted_share(self.activity, self.shares)


def ended_shares(shares: Mapping[Digest, Sequence[float]], states: LicenceStatus, blocks: int) -> tuple[float, ...]:
    """Of each block, the share of exposure that is of revoked, expired or excluded attestations.

    It changes only when a state does, so it is worth keeping. A row that cannot be taints every block.
    """
    total = [0.0] * blocks
    for attestation in sorted(shares):  # sums of floats depend on their order
        if states.get(attestation) in ENDED:
            row = shares[attestation]
            if len(row) != blocks or not all(0 <= share <= 1 for share in row):
                return (1.0,) * blocks
            total = [held + share for held, share in zip(total, row, strict=True)]
    return tuple(min(share, 1.0) for share in total)


def tainted_share(activity: Sequence[float], shares: Sequence[float]) -> float:
    """Σ activity · ended share / Σ activity: which part of what is active was shaped under licences that have ended.

    0 where nothing is active. Numbers that cannot be (NaN, infinite, negative, a share above 1, a block without its
    share) taint everything.
    """
    if len(activity) != len(shares):
        return 1.0
    if not activity:
        return 0.0
    total = sum(activity)
    part: float = sum(map(mul, activity, shares))
    # A NaN anywhere makes the product one; a comparison with NaN would hide it.
    if part != part or min(activity) < 0 or min(shares) < 0 or max(shares) > 1:  # noqa: PLR0124
        return 1.0
    if total == 0:
        return 0.0
    if total < math.inf:
        return min(part / total, 1.0)
    top = max(activity)
    # Either a block is infinitely active, which cannot be, or only the sum was too large.
    return 1.0 if top == math.inf else tainted_share([value / top for value in activity], shares)


def depth_of(levels: Sequence[int] | None, exposure: Sequence[int], surface: Collection[int]) -> Depth:
    """How deep the matched examples went: their profile's levels and recorded exposure, both for each block.

    `surface` holds the numbers of the surface blocks; `levels` is None where the log has no record. Where there is
    any exposure, a block that the profile opened counts as reached even if nothing is recorded for it: a norm that
    overflowed is recorded as nothing. Numbers that do not fit together are taken for deep.
    """
    if levels is None:
        return Depth.ABSENT
    if len(levels) != len(exposure):
        return Depth.DEEP
    if not any(exposure):
        return Depth.ABSENT
    reached = (block for block, (level, sum_) in enumerate(zip(levels, exposure, strict=True)) if level or sum_)
    return Depth.SHALLOW if all(block in surface for block in reached) else Depth.DEEP
