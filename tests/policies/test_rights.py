"""Licences: states over time, places, and SPDX expressions in the classes of a policy."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from licet.ledger.errors import FormatError
from licet.ledger.records import Digest, LicenceKind
from licet.policies.rights import (
    ALTERNATIVES_MAX,
    SPDX_BYTES_MAX,
    SPDX_NESTING_MAX,
    LicenceState,
    Revocation,
    alternatives,
    check_jurisdiction,
    classes_of,
    covers,
    is_spdx,
    parse_spdx,
    revoked_from,
    state_of,
)
from tests.policies.signed import licence

P, A, E, R, X = (LicenceState(s) for s in ("pending", "active", "expired", "revoked", "excluded"))


# ---- states --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("begins", "ends", "revoked", "now", "state"),
    [
        (None, None, None, 0, A),
        (100, None, None, 99, P),
        (100, None, None, 100, A),
        (None, 200, None, 199, A),
        (None, 200, None, 200, E),
        (100, 200, None, 50, P),
        (100, 200, None, 150, A),
        (100, 200, None, 250, E),
        (None, None, 150, 149, A),
        (None, None, 150, 150, R),
        (100, None, 50, 60, R),
        (None, 200, 150, 250, R),
        (None, 200, 300, 250, E),
        (None, 200, 300, 350, R),
        (100, 200, 120, 99, P),
        (100, 100, None, 100, E),
        (200, 100, None, 150, E),
    ],
)
def test_a_state_at_a_moment(begins, ends, revoked, now, state):
    assert state_of(licence(valid_from_ms=begins, valid_until_ms=ends), revoked, now) is state


@pytest.mark.parametrize("revoked", [None, 0, 10**15])
def test_an_exclusion_excludes_for_ever(revoked):
    assert state_of(licence(LicenceKind.EXCLUSION, valid_until_ms=5), revoked, 10) is X


moment = st.integers(0, 1000)
maybe = st.none() | moment
ORDER = {P: 0, A: 1, E: 2, R: 3}


@given(maybe, maybe, maybe, moment, moment)
def test_states_move_one_way(begins, ends, revoked, one, other):
    terms = licence(valid_from_ms=begins, valid_until_ms=ends)
    before, after = (ORDER[state_of(terms, revoked, at)] for at in sorted((one, other)))
    assert before <= after


@given(maybe, maybe, maybe, moment)
def test_revoking_never_gives_a_right(begins, ends, revoked, now):
    terms = licence(valid_from_ms=begins, valid_until_ms=ends)
    assert (state_of(terms, revoked, now) is A) <= (state_of(terms, None, now) is A)


@given(maybe, maybe, maybe, moment, moment)
def test_between_two_moments_of_change_nothing_changes(begins, ends, revoked, one, other):
    terms = licence(valid_from_ms=begins, valid_until_ms=ends)
    first, last = sorted((one, other))
    if not any(first < at <= last for at in (begins, ends, revoked) if at is not None):
        assert state_of(terms, revoked, first) is state_of(terms, revoked, last)


def test_the_earliest_revocation_counts():
    mine, other = Digest(bytes(32)), Digest(b"\1" * 32)
    held = [Revocation(mine, 9, "b"), Revocation(mine, 7, "a"), Revocation(other, 1, "c")]
    assert revoked_from(held, mine) == 7
    assert revoked_from(held, b"\2" * 32) is None


# ---- places --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["US", "US-CA", "DE", "DE-BY", "GB-ENG", "FR-2A", "EU", "EEA", "WORLD"])
def test_a_place(name):
    assert check_jurisdiction(name) == name


@pytest.mark.parametrize(
    "name", ["", "us", "USA", "US-", "US-CALI", "US CA", "WORLDWIDE", "*", "U", "EU\n", "ÜS", "US-ca", "EEAX", "DE\0"]
)
def test_no_place(name):
    with pytest.raises(FormatError):
        check_jurisdiction(name)


@pytest.mark.parametrize(
    ("granted", "needed", "covered"),
    [
        ([], "US", True),
        ([], "WORLD", True),
        (["WORLD"], "DE-BY", True),
        (["US"], "US", True),
        (["US"], "US-CA", True),
        (["US-CA"], "US", False),
        (["US-CA"], "US-NY", False),
        (["EU"], "DE", True),
        (["EU"], "DE-BY", True),
        (["EU"], "CH", False),
        (["EU"], "NO", False),
        (["EEA"], "NO", True),
        (["EEA"], "EU", True),
        (["EU"], "EEA", False),
        (["EU", "NO", "IS", "LI"], "EEA", True),
        (["DE", "FR"], "EU", False),
        (["US"], "WORLD", False),
        (["EU", "US"], "WORLD", False),
        (["GB"], "EU", False),
        (["DE"], "US", False),
    ],
)
def test_what_a_licence_covers(granted, needed, covered):
    assert covers(granted, needed) is covered


PLACES = st.sampled_from(["US", "US-CA", "DE", "DE-BY", "FR", "NO", "CH", "GB", "EU", "EEA", "WORLD", "JP"])


@given(st.lists(PLACES, min_size=1), st.lists(PLACES), PLACES)
def test_more_places_never_cover_less(granted, more, needed):
    assert covers(granted, needed) <= covers([*granted, *more], needed)


@given(st.lists(PLACES, min_size=1), PLACES, PLACES)
def test_covering_is_transitive(granted, middle, inner):
    if covers(granted, middle) and covers([middle], inner):
        assert covers(granted, inner)


# ---- licence expressions -------------------------------------------------------------------------------------------

CLASSES = {
    "free": ("CC0-1.0",),
    "permissive": ("MIT", "Apache-*", "BSD-*"),
    "weak": ("LGPL-*", "GPL-2.0-only WITH Classpath-exception-2.0"),
    "strong": ("GPL-*",),
}


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("mit", "MIT"),
        ("MIT", "MIT"),
        ("GPL-2.0", "GPL-2.0-only"),
        ("GPL-2.0+", "GPL-2.0-or-later"),
        ("(MIT)", "MIT"),
        ("MIT or apache-2.0", "MIT OR Apache-2.0"),
    ],
)
def test_the_normal_spelling(text, normal):
    assert parse_spdx(text) == normal
    assert parse_spdx(normal) == normal


@pytest.mark.parametrize(
    ("text", "classes"),
    [
        ("CC0-1.0", {"free"}),
        ("MIT", {"permissive"}),
        ("Apache-2.0", {"permissive"}),
        ("GPL-3.0-only", {"strong"}),
        ("GPL-2.0", {"strong"}),
        ("LGPL-2.1-or-later", {"weak"}),
        ("ISC", {"unknown"}),
        ("MIT OR GPL-3.0-only", {"permissive"}),
        ("GPL-3.0-only OR MIT", {"permissive"}),
        ("MIT AND GPL-3.0-only", {"permissive", "strong"}),
        ("MIT AND Apache-2.0", {"permissive"}),
        ("GPL-3.0-only OR ISC", {"strong"}),
        ("GPL-3.0-only AND ISC", {"strong", "unknown"}),
        ("(MIT AND ISC) OR GPL-3.0-only", {"strong"}),
        ("MIT AND (GPL-3.0-only OR LGPL-3.0-only)", {"permissive", "weak"}),
        ("(MIT AND GPL-3.0-only) OR GPL-3.0-only", {"strong"}),
        ("CC0-1.0 OR MIT OR GPL-2.0-only", {"free"}),
        ("GPL-2.0-only WITH Classpath-exception-2.0", {"weak"}),
        ("GPL-2.0-only WITH Bison-exception-2.2", {"strong"}),
        ("MIT AND CC0-1.0 AND LGPL-3.0-only", {"free", "permissive", "weak"}),
    ],
)
def test_classes(text, classes):
    assert classes_of(text, CLASSES) == classes


def test_the_pattern_that_says_most_wins():
    classes = {"rest": ("*",), "gnu": ("GPL-*",), "one": ("GPL-3.0-only",)}
    assert [classes_of(t, classes) for t in ("MIT", "GPL-2.0-only", "GPL-3.0-only")] == [{"rest"}, {"gnu"}, {"one"}]


def test_without_classes_everything_is_unknown():
    assert classes_of("MIT OR Apache-2.0", {}) == {"unknown"}


BOMB = " AND ".join(
    f"({a} OR {b})"
    for a, b in zip(
        ["MIT", "ISC", "Zlib", "NCSA", "X11", "0BSD", "CC0-1.0"],
        ["Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "MPL-2.0", "EPL-2.0", "GPL-2.0-only", "GPL-3.0-only"],
        strict=True,
    )
)
BAD = [
    "",
    " ",
    "()",
    "MIT AND ()",
    "MIT MIT",
    "MIT OR",
    "OR MIT",
    "AND",
    "(MIT",
    "MIT)",
    ")(",
    "MIT WITH MIT",
    "MIT WITH",
    "Classpath-exception-2.0",
    "NOASSERTION",
    "NONE",
    "Nonsense-9.9",
    "MIT/Apache-2.0",
    "MIT, ISC",
    "MIT+ISC",
    "\0",
    "é",
    "\ud800",
    "MIT" * 2000,
    "(" * 2000 + "MIT" + ")" * 2000,
    "(" * 3000,
    "(MIT OR " * 400 + "MIT" + ")" * 400,
    BOMB,
    "-",
    "+",
    "MIT'); DROP TABLE",
    "http://example.com/licence",
    "mit license",
    "a" * SPDX_BYTES_MAX,
    "MIT " * 1000,
]


@pytest.mark.parametrize("text", BAD, ids=range(len(BAD)))
def test_no_licence_expression(text):
    began = time.monotonic()
    assert not is_spdx(text)
    with pytest.raises(FormatError):
        classes_of(text, CLASSES)
    assert time.monotonic() - began < 3


def test_the_limits_themselves_are_allowed():
    assert parse_spdx("(" * SPDX_NESTING_MAX + "MIT" + ")" * SPDX_NESTING_MAX) == "MIT"
    assert len(alternatives(BOMB.rpartition(" AND ")[0])) == ALTERNATIVES_MAX
    assert alternatives("MIT OR " * 500 + "MIT") == (frozenset({"MIT"}),)


IDS = st.sampled_from(["MIT", "Apache-2.0", "ISC", "GPL-3.0-only", "LGPL-3.0-only", "CC0-1.0"])
EXPRESSIONS = st.recursive(
    IDS,
    lambda inner: st.tuples(inner, st.sampled_from(["AND", "OR"]), inner).map(lambda t: f"({' '.join(t)})"),
    max_leaves=5,
)
ORDER_OF_CLASSES = [*CLASSES, "unknown"]


def strictest(text: str) -> int:
    return max(ORDER_OF_CLASSES.index(name) for name in classes_of(text, CLASSES))


@given(EXPRESSIONS, EXPRESSIONS)
def test_and_is_as_strict_as_the_stricter_and_or_as_the_laxer(one, other):
    assert strictest(f"{one} AND {other}") == max(strictest(one), strictest(other))
    assert strictest(f"{one} OR {other}") == min(strictest(one), strictest(other))


@given(EXPRESSIONS, EXPRESSIONS, st.sampled_from(["AND", "OR"]))
def test_the_order_does_not_matter(one, other, how):
    assert classes_of(f"{one} {how} {other}", CLASSES) == classes_of(f"{other} {how} {one}", CLASSES)


@given(
    st.one_of(
        st.text(max_size=60), st.lists(st.sampled_from(["MIT", "AND", "OR", "WITH", "(", ")", "+"])).map(" ".join)
    )
)
def test_no_expression_raises_anything_else(text):
    if is_spdx(text):
        assert parse_spdx(parse_spdx(text)) == parse_spdx(text)
