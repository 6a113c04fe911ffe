"""Where in a TOML text a value stands, so that a message can name the line. The parser itself does not tell."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Sequence
from functools import lru_cache

Place = tuple[str | int, ...]
"""The names on the way to a value; of a list of tables, the number."""

_HEADER = re.compile(r"[ \t]*(\[\[?)(.+?)\]\]?[ \t]*(#.*)?$")
_PART = r"""(?:"[^"\n]*"|'[^'\n]*'|[A-Za-z0-9_-]+)"""
_KEY = re.compile(rf"[ \t]*({_PART}(?:[ \t]*\.[ \t]*{_PART})*)[ \t]*=")
_TOKEN = re.compile(
    r'''"""(?:\\.|[^\\])*?"""(?!")|\'\'\'.*?\'\'\'(?!\')|"(?:\\.|[^"\\\n])*"|'[^'\n]*'|\#[^\n]*|[\[\]{}]|\n''',
    re.DOTALL,
)
"""What decides whether the next line begins a statement: texts, comments, brackets, ends of lines."""


def line_of(text: str, path: Sequence[str | int]) -> int:
    """The line (from 1) of the innermost part of a path that the text spells out."""
    best_line, best_depth = 1, 0
    for here, line in _places(text):
        if best_depth < len(here) <= len(path) and tuple(path[: len(here)]) == here:
            best_line, best_depth = line, len(here)
    return best_line


@lru_cache(maxsize=1)
def _places(text: str) -> tuple[tuple[Place, int], ...]:
    """Each table and each key of the text, and its line."""
    found: list[tuple[Place, int]] = []
    table: Place = ()
    counts: dict[Place, int] = {}
    for number, line in _statements(text):
        if key := _KEY.match(line):
            found.append(((*table, *_parts(key[1])), number))
        elif header := _HEADER.match(line):
            table = _placed(_parts(header[2]), counts)
            if header[1] == "[[":
                found.append((table, number))
                counts[table] = counts.get(table, -1) + 1
                table = (*table, counts[table])
            found.append((table, number))
    return tuple(found)


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """The lines that begin a statement: not those inside a list, an inline table or a text of several lines."""
    lines = text.split("\n")
    number, depth = 1, 0
    yield 1, lines[0]
    for token in _TOKEN.finditer(text):
        mark = token[0]
        number += mark.count("\n")
        if mark in "[{":
            depth += 1
        elif mark in "]}":
            depth -= 1
        elif mark == "\n" and depth <= 0 and number <= len(lines):
            yield number, lines[number - 1]


def _parts(dotted: str) -> list[str]:
    try:
        value: object = tomllib.loads(f"{dotted} = 0")
    except tomllib.TOMLDecodeError:
        return [dotted]
    parts = []
    while isinstance(value, dict):
        (name, value), *_ = value.items()
        parts.append(name)
    return parts


def _placed(parts: list[str], counts: dict[Place, int]) -> Place:
    """The path of a table, with the number of each list of tables on the way that it stands in."""
    path: Place = ()
    for i, part in enumerate(parts):
        path = (*path, part)
        if path in counts and i < len(parts) - 1:
            path = (*path, counts[path])
    return path
