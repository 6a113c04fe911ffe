"""Moments as people write them: RFC 3339 in UTC, to the millisecond."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from licet.ledger.errors import FormatError

MS_MAX = 253_402_300_799_999
"""The last millisecond of the year 9999."""
_SPELLING = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,3}))?Z", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_rfc3339(ms: int) -> str:
    """`2026-01-31T12:00:00Z`, with milliseconds where there are any."""
    if type(ms) is not int or not 0 <= ms <= MS_MAX:
        raise FormatError("A moment lies between the years 1970 and 9999, in milliseconds.")
    text = (_EPOCH + timedelta(milliseconds=ms)).isoformat(timespec="milliseconds")
    return text.removesuffix("+00:00").removesuffix(".000") + "Z"


def from_rfc3339(text: str) -> int:
    """Unix milliseconds of such a text."""
    bad = FormatError(f"{text[:64]!r} is no moment.", remedy="Write it in UTC, as 2026-01-31T12:00:00Z.")
    match = _SPELLING.fullmatch(text)
    if match is None:
        raise bad
    try:
        moment = datetime.fromisoformat(match[1]).replace(tzinfo=UTC)
    except ValueError as error:  # there is no such day or hour
        raise bad from error
    if moment < _EPOCH:
        raise bad
    return (moment - _EPOCH) // timedelta(milliseconds=1) + int((match[2] or "0").ljust(3, "0"))
