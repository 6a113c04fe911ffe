"""Dates as people type them."""

from __future__ import annotations

import re

from licet.ledger.errors import ConfigError, FormatError
from licet.ledger.records import ClaimedMs
from licet.policies.times import from_rfc3339

_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)


def moment(text: str | None, option: str) -> ClaimedMs | None:
    """Unix milliseconds of a date (its beginning, in UTC) or of a moment in RFC 3339."""
    if text is None:
        return None
    try:
        return ClaimedMs(from_rfc3339(f"{text}T00:00:00Z" if _DAY.fullmatch(text) else text))
    except FormatError as error:
        raise ConfigError(
            f"{option} {text[:64]!a} is no date.", remedy="Write it as 2026-01-31 or 2026-01-31T12:00:00Z, in UTC."
        ) from error
