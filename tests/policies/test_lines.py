"""Where a value stands in a TOML text: tables, lists of tables, keys in every spelling, texts of several lines."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from licet.policies.lines import line_of

TEXT = '''\
name = "first"
a.b.c = 1
"quoted key" = 2
'single.dotted' = 3

[table]
key = 4
inner = { x = 1, y = { z = 2 } }
[table.sub]
deep = 5

[[list]]
id = "zero"
[[list]]
id = "one"
[list.when]
kind = "x"
[[list.item]]
n = 0
[[list.item]]
n = 1
[[list]]
id = "two"

[after]
text = """
id = "not a key"
[not.a.table]
"""
literal = \'\'\'
[[list]]
\'\'\'
ranges = [
    [0, 1],
    [2, 3]
]
many = [
    "x", # [not.this]
    { id = 1 },
]
last = 6 # ["nor this]
[ spaced . out ] # with a comment
k=7
'''

PLACES = [
    (("name",), 1),
    (("a", "b", "c"), 2),
    (("quoted key",), 3),
    (("single.dotted",), 4),
    (("table",), 6),
    (("table", "key"), 7),
    (("table", "inner"), 8),
    (("table", "inner", "y", "z"), 8),
    (("table", "sub", "deep"), 10),
    (("list",), 12),
    (("list", 0), 12),
    (("list", 0, "id"), 13),
    (("list", 1, "id"), 15),
    (("list", 1, "when"), 16),
    (("list", 1, "when", "kind"), 17),
    (("list", 1, "item", 0, "n"), 19),
    (("list", 1, "item", 1, "n"), 21),
    (("list", 2, "id"), 23),
    (("after", "text"), 26),
    (("after", "literal"), 30),
    (("after", "ranges", 1, 0), 33),
    (("after", "many", 1, "id"), 37),
    (("after", "last"), 41),
    (("spaced", "out"), 42),
    (("spaced", "out", "k"), 43),
]


def test_the_text_is_toml():
    assert tomllib.loads(TEXT)["spaced"]["out"]["k"] == 7


@pytest.mark.parametrize(("path", "line"), PLACES, ids=str)
def test_a_value_is_found(path, line):
    assert line_of(TEXT, path) == line


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("table", "missing"), 6),
        (("list", 1, "missing"), 14),
        (("list", 2, "when"), 22),
        (("table", "sub", "deep", "no"), 10),
        (("list", 1, "item", 1, "missing"), 20),
    ],
    ids=str,
)
def test_what_is_missing_stands_where_it_belongs(path, line):
    assert line_of(TEXT, path) == line


@pytest.mark.parametrize("path", [(), ("nowhere",), ("list", 9), (0,), ("nowhere", "at", "all")], ids=str)
def test_what_is_nowhere_stands_at_the_beginning(path):
    assert line_of(TEXT, path) in (1, 12)
    assert line_of("", path) == 1


def test_only_newlines_end_lines():
    """As in TOML itself: what other alphabets take for the end of a line is part of a comment or a text."""
    text = "# a\u2028b\x85c\na = 'x\u2028y'\nb = 1\r\nc = 2\n"
    assert [line_of(text, (name,)) for name in "abc"] == [2, 3, 4]


def test_quotes_at_the_end_of_a_long_text():
    text = 'a = """x""""\nb = """"""\nc = """\\"""\n"""\nd = 1\n'
    assert list(tomllib.loads(text)) == ["a", "b", "c", "d"]
    assert line_of(text, ("b",)) == 2
    assert line_of(text, ("d",)) == 5


@given(st.text(), st.lists(st.one_of(st.text(max_size=3), st.integers(0, 3)), max_size=4))
def test_no_text_is_too_strange(text, path):
    assert 1 <= line_of(text, path) <= text.count("\n") + 1
