"""Licences: what a statement of terms means at a moment, for a place, and in the classes of a policy.

State moves one way, pending → active → expired; revocation may come at any time and is final. No clock is read here:
the caller says when.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache, lru_cache
from typing import Any

from license_expression import get_spdx_licensing

from licet.ledger.errors import FormatError
from licet.ledger.records import Digest, Licence, LicenceKind

SPDX_BYTES_MAX = 4096
SPDX_NESTING_MAX = 32
_JURISDICTION = re.compile(r"[A-Z]{2}(-[A-Z0-9]{1,3})?|EU|EEA|WORLD")
_OWN_LICENCE = re.compile(r"(DocumentRef-[A-Za-z0-9.-]+:)?LicenseRef-[A-Za-z0-9.-]+")
"""What SPDX keeps for licences that it does not list; a policy may put them into a class, else they are unknown."""
WORLD = "WORLD"
_EU = frozenset(re.findall("..", "ATBEBGHRCYCZDKEEFIFRDEGRHUIEITLVLTLUMTNLPLPTROSKSIESSE"))
_GROUPS: Mapping[str, frozenset[str]] = {"EU": _EU, "EEA": _EU | {"IS", "LI", "NO"}}


class LicenceState(StrEnum):
    """What a licence is worth at a moment. `excluded` is what an exclusion says for ever."""

    __hash__ = str.__hash__  # an enumeration's own is slow

    PENDING = "pending"
    ACTIVE = "active"
    EXPIRED = "expired"
    REVOKED = "revoked"
    EXCLUDED = "excluded"


@dataclass(frozen=True, slots=True, order=True)
class Revocation:
    """That an attestation's licence ends, from a moment on."""

    attestation: Digest
    effective_ms: int
    reason: str


def state_of(licence: Licence, revoked_from_ms: int | None, at_ms: int) -> LicenceState:
    """The state of a licence; `revoked_from_ms` is the earliest revocation of its attestation."""
    if licence.kind is LicenceKind.EXCLUSION:
        return LicenceState.EXCLUDED
    if revoked_from_ms is not None and at_ms >= revoked_from_ms:
        return LicenceState.REVOKED
    if licence.valid_until_ms is not None and at_ms >= licence.valid_until_ms:
        return LicenceState.EXPIRED
    if licence.valid_from_ms is not None and at_ms < licence.valid_from_ms:
        return LicenceState.PENDING
    return LicenceState.ACTIVE


def revoked_from(revocations: Iterable[Revocation], attestation: bytes) -> int | None:
    """When the earliest of some revocations ends an attestation's licence."""
    return min((r.effective_ms for r in revocations if r.attestation == attestation), default=None)


# -- places


def check_jurisdiction(name: str) -> str:
    """A jurisdiction is an ISO 3166 code (US, US-CA), EU, EEA or WORLD."""
    if not _JURISDICTION.fullmatch(name):
        raise FormatError(
            f"{name!r} is no jurisdiction.", remedy="Write an ISO 3166 code as US or US-CA, or EU, EEA or WORLD."
        )
    return name


def covers(granted: Sequence[str], needed: str) -> bool:
    """Whether a licence for some jurisdictions holds in another. No jurisdiction at all means no restriction."""
    if not granted or WORLD in granted or needed in granted:
        return True
    if needed in _GROUPS:
        return all(covers(granted, member) for member in _GROUPS[needed])
    country = needed.partition("-")[0]
    return country in granted or any(country in _GROUPS.get(group, ()) for group in granted)


# -- licence expressions


@lru_cache(maxsize=4096)
def parse_spdx(text: str) -> str:
    """An SPDX expression in its normal spelling."""
    return str(_parsed(text).render("{symbol.key}"))


@lru_cache(maxsize=4096)
def is_spdx(text: str) -> bool:
    """Whether this is a licence expression of licences that SPDX knows, not too large to be judged."""
    try:
        return bool(alternatives(text))
    except FormatError:
        return False


UNKNOWN_CLASS = "unknown"
ALTERNATIVES_MAX = 64


@lru_cache(maxsize=4096)
def alternatives(text: str) -> tuple[frozenset[str], ...]:
    """What a licensee may choose from: each alternative is a set of licences that hold together."""
    return tuple(sorted(_choices(_parsed(text)), key=sorted))


def classes_of(text: str, classes: Mapping[str, Sequence[str]]) -> frozenset[str]:
    """The classes of a policy that a licence expression falls into.

    `A AND B` carries the obligations of both. Of `A OR B` the licensee chooses, and so the alternative is taken whose
    most restrictive class comes first in the policy. A licence in no class is in `unknown`, which comes last.
    """
    order = [*classes, UNKNOWN_CLASS]

    def ranks(choice: frozenset[str]) -> list[int]:
        return sorted({order.index(_class_of(key, classes)) for key in choice}, reverse=True)

    return frozenset(order[rank] for rank in min(map(ranks, alternatives(text))))


def _class_of(key: str, classes: Mapping[str, Sequence[str]]) -> str:
    """The class with the pattern that says most about this licence."""
    best, found = -1, UNKNOWN_CLASS
    for name, patterns in classes.items():
        for pattern in patterns:
            whole = not pattern.endswith("*")
            if (key == pattern if whole else key.startswith(pattern[:-1])) and len(pattern) + whole > best:
                best, found = len(pattern) + whole, name
    return found


def _choices(node: Any) -> set[frozenset[str]]:
    name = type(node).__name__
    if name == "OR":
        found = {choice for part in node.args for choice in _choices(part)}
    elif name == "AND":
        found = {frozenset()}
        for part in node.args:
            found = {held | choice for held in found for choice in _choices(part)}
            _check_count(found)
    else:
        found = {frozenset({node.render("{symbol.key}")})}
    _check_count(found)
    return found


def _check_count(found: set[frozenset[str]]) -> None:
    if len(found) > ALTERNATIVES_MAX:
        raise FormatError(
            f"This licence expression has more than {ALTERNATIVES_MAX} alternatives.",
            remedy="State the licence that was chosen.",
        )


@cache
def _spdx_list() -> Any:
    """Reading the list takes longer than a hundred admissions."""
    return get_spdx_licensing()


def _nesting(text: str) -> int:
    """How deep the parentheses go: both the parser and what follows it take a step down for each."""
    deepest = depth = 0
    for mark in text:
        depth += (mark == "(") - (mark == ")")
        deepest = max(deepest, depth)
    return deepest


def _parsed(text: str) -> Any:
    if not text or len(text.encode(errors="replace")) > SPDX_BYTES_MAX:
        raise FormatError(f"A licence expression has 1 to {SPDX_BYTES_MAX} bytes.")
    if _nesting(text) > SPDX_NESTING_MAX:
        raise FormatError(
            f"This licence expression is nested deeper than {SPDX_NESTING_MAX} times.",
            remedy="State the licence that was chosen.",
        )
    try:
        parsed = _spdx_list().parse(text, validate=False, strict=True)
        unknown = [key for key in _spdx_list().unknown_license_keys(parsed) if not _OWN_LICENCE.fullmatch(key)]
    except Exception as error:  # the parser raises whatever comes, assertions included
        raise FormatError(
            f"{text[:200]!r} is no SPDX licence expression: {error}.",
            remedy="Use identifiers of the SPDX list, joined by AND, OR and WITH: Apache-2.0 OR MIT.",
        ) from error
    if parsed is None:
        raise FormatError("A licence expression is empty.")
    if unknown:
        raise FormatError(
            f"SPDX lists no licence {unknown[0][:100]!r}.", remedy="A licence that it does not list is LicenseRef-NAME."
        )
    return parsed
