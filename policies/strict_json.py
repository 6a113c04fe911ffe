"""JSON read strictly: one meaning for each text, and each field taken once, by name and type.

What other readers let pass in silence is refused here: a key that comes twice, NaN, text that is no UTF-8, half a
surrogate pair, control characters, a field that nobody asked for. Every message names the field.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from licet.ledger.errors import FormatError, LimitError
from licet.ledger.records import Digest

TEXT_CHARS_MAX = 4096
LIST_MAX = 1024
_ABSENT = object()


def parse(data: bytes, *, bytes_max: int, what: str) -> Any:
    """The value that some bytes spell."""
    if len(data) > bytes_max:
        raise LimitError(f"{what} has {len(data)} bytes, and {bytes_max} is the most.")
    try:
        return json.loads(data.decode(), object_pairs_hook=_once, parse_constant=_no_constant)
    except RecursionError as error:
        raise FormatError(f"{what} is nested too deeply.") from error
    except ValueError as error:  # not UTF-8, not JSON, or a number of thousands of digits
        raise FormatError(f"{what} is not JSON: {str(error)[:200]}.") from error


def spell(value: Any) -> bytes:
    """The one spelling that we give a value: sorted keys, no spaces, UTF-8."""
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return text.encode()
    except (ValueError, TypeError, RecursionError) as error:
        raise FormatError(f"This cannot be written as JSON: {error}.") from error


class Fields:
    """An object whose fields are taken one by one; `end` refuses those that nobody took.

    Each method gives None, or an empty tuple, for a field that is not there, unless it is `required`.
    """

    def __init__(self, value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise FormatError(f"{where} is not an object.")
        self._left = dict(value)
        self.where = where

    def named(self, name: str) -> str:
        """A field as messages call it."""
        return f"{self.where}.{name}"

    def end(self) -> None:
        if self._left:
            raise FormatError(f"{self.named(_shown(min(self._left)))} is no field of this format.")

    def any(self, name: str, *, required: bool = False) -> Any:
        """A field of any type; None if it is not there. It never is null."""
        value = self._left.pop(name, _ABSENT)
        if value is _ABSENT:
            if required:
                raise FormatError(f"{self.named(name)} is missing.")
            return None
        if value is None:
            raise FormatError(f"{self.named(name)} is null.", remedy="Leave out what is not known.")
        return value

    def text(self, name: str, *, required: bool = False, chars_max: int = TEXT_CHARS_MAX) -> str | None:
        value = self.any(name, required=required)
        return None if value is None else check_text(value, self.named(name), chars_max=chars_max)

    def required_text(self, name: str, *, chars_max: int = TEXT_CHARS_MAX) -> str:
        return check_text(self.any(name, required=True), self.named(name), chars_max=chars_max)

    def texts(self, name: str, *, count_max: int = LIST_MAX, chars_max: int = TEXT_CHARS_MAX) -> tuple[str, ...]:
        """A list of different texts."""
        values = self.list(name, count_max=count_max)
        found = tuple(
            check_text(value, f"{self.named(name)}[{i}]", chars_max=chars_max) for i, value in enumerate(values)
        )
        if len(set(found)) < len(found):
            raise FormatError(f"{self.named(name)} names something twice.")
        return found

    def list(self, name: str, *, required: bool = False, count_max: int = LIST_MAX) -> Sequence[Any]:
        value = self.any(name, required=required)
        if value is None:
            return ()
        if not isinstance(value, list):
            raise FormatError(f"{self.named(name)} is not a list.")
        if len(value) > count_max:
            raise LimitError(f"{self.named(name)} has {len(value)} values, and {count_max} is the most.")
        return value

    def required_whole(self, name: str, *, low: int, high: int) -> int:
        """A whole number within bounds, both included."""
        value = self.any(name, required=True)
        if type(value) is not int or not low <= value <= high:
            raise FormatError(f"{self.named(name)} is not a whole number from {low} to {high}.")
        return value

    def share(self, name: str) -> float | None:
        """A number from 0 to 1."""
        value = self.any(name)
        if value is None:
            return None
        if type(value) not in (int, float) or not 0 <= value <= 1:
            raise FormatError(f"{self.named(name)} is not a number from 0 to 1.")
        return float(value)

    def object(self, name: str, *, required: bool = False) -> Fields | None:
        value = self.any(name, required=required)
        return None if value is None else Fields(value, self.named(name))

    def required_object(self, name: str) -> Fields:
        return Fields(self.any(name, required=True), self.named(name))


def check_text(value: Any, where: str, *, chars_max: int = TEXT_CHARS_MAX) -> str:
    """A text that can be shown in one line: not empty, not too long, no control characters."""
    if not isinstance(value, str):
        raise FormatError(f"{where} is not a text.")
    if not 0 < len(value) <= chars_max:
        raise FormatError(f"{where} has {len(value)} characters, and may have 1 to {chars_max}.")
    if not is_plain(value):
        raise FormatError(f"{where} holds control characters or what is no Unicode.")
    return value


def is_plain(text: str) -> bool:
    """Whether a text holds no control characters, no line ends and no halves of characters."""
    return text.isprintable() or not any(unicodedata.category(c) in _UNPLAIN for c in text)


def sha256_of(text: str, where: str) -> Digest:
    """A digest as hexadecimal digits."""
    if not SHA256.fullmatch(text):
        raise FormatError(f"{where} is not a SHA-256 digest of 64 small hexadecimal digits.")
    return Digest(bytes.fromhex(text))


SHA256 = re.compile(r"[0-9a-f]{64}")
_UNPLAIN = frozenset({"Cc", "Cs", "Zl", "Zp"})


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key comes twice in one object")
    return found


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is no number")


def _shown(name: str) -> str:
    return ascii(name[:80])[1:-1]
