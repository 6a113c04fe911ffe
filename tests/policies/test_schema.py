"""The policy document: every kind of mistake is told with its line and field, and nothing else is ever raised."""

from __future__ import annotations

import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from licet.ledger.errors import ConfigError
from licet.policies.policy import KEY_PARTS_MAX, POLICY_BYTES_MAX, PROBLEMS_MAX, Policy, PolicyError

DEFAULTS = ("alignment-reserved", "open-source-code", "publisher-licensing", "regulated")

GOOD = """\
licet = 1
name = "small"
version = "1"
scopes = ["general"]
require = ["language"]

[[band]]
name = "surface"
share = [0.85, 1.0]

[[band]]
name = "behavioral"
share = [0.2, 0.85]

[[band]]
name = "foundational"
share = [0.0, 0.2]

[[reserved]]
name = "alignment"
layers = [[-2, -1]]

[[entropy]]
name = "low"
below = 1.0
ceiling = { "*" = 0.5 }

[[entropy]]
name = "middle"
below = 3.0
ceiling = { "*" = 1.0 }

[[entropy]]
name = "high"
ceiling = { surface = 1.0, "*" = 0.0 }

[slope]
ceilings = [{ "*" = 1.0 }, { "*" = 0.5 }]

[authority.publisher]
ceiling = { "*" = 1.0 }
skills = ["summaries"]

[licence.commercial]
ceiling = { surface = 1.0, behavioral = 0.5, foundational = 0.0 }

[spdx]
permissive = ["MIT"]
copyleft = ["GPL-*"]

[[rule]]
id = "copyleft"
when = { spdx = ["copyleft"] }
ceiling = { "*" = 0.2 }
because = "It must stay separable."

[skill.summaries]
bands = ["behavioral", "alignment"]
authorities = ["publisher"]

[inference.tenant.acme]
query_classes = ["news"]

[inference.query_class.news]
skills = ["summaries"]
"""


def problems(text: str | bytes) -> list[tuple[int, str, str]]:
    with pytest.raises(PolicyError) as caught:
        Policy.parse(text)
    for line, field, said in caught.value.problems:
        assert f"line {line}, {field}: {said}" in str(caught.value)
    return list(caught.value.problems)


def line(text: str, of: str) -> int:
    assert text.count(of) == 1, of
    return text[: text.index(of)].count("\n") + 1


# ---- good ------------------------------------------------------------------------------------------------------


def test_a_good_document():
    policy = Policy.parse(GOOD)
    assert policy == Policy.parse(GOOD.encode())
    assert policy.bands == ("surface", "behavioral", "foundational")
    assert policy.weights(policy.document.entropy[2].ceiling) == (1.0, 0.0, 0.0)
    assert hash(policy) == hash(Policy.parse(GOOD))


def test_every_byte_counts_for_the_digest():
    assert Policy.parse(GOOD).digest != Policy.parse(GOOD + "# nothing\n").digest


@pytest.mark.parametrize(
    ("bits", "band"),
    [(0.0, "low"), (0.999, "low"), (1.0, "middle"), (2.999, "middle"), (3.0, "high"), (1e9, "high")],
)
def test_a_measurement_falls_into_the_band_that_it_is_below(bits, band):
    assert Policy.parse(GOOD).entropy_band(bits).name == band


def test_what_is_not_said_of_memorization_and_adaptation_has_a_safe_meaning():
    document = Policy.parse(GOOD).document
    assert document.memorization.sides == {"above", "below"}
    assert document.memorization.response == {"*": "attenuate"}
    assert document.memorization.response_below == {"*": "exclude"}
    assert not document.adaptation.enabled


@pytest.mark.parametrize("name", DEFAULTS)
def test_a_default_is_read(name):
    assert Policy.read_default(name).document.name == name


@pytest.mark.parametrize("name", ["none-such", "../schema", "/etc/passwd", "", "open-source-code.toml", "\0"])
def test_no_such_default(name):
    with pytest.raises(ConfigError):
        Policy.read_default(name)


# ---- one mistake: old text, new text, where it is told, field, a part of what is said -----------------------------

MISTAKES = [
    ("unknown-field", "require =", 'colour = "red"\nrequire =', "colour", "colour", "no such field"),
    ("unknown-field-in-table", "[slope]", "[slope]\ncolour = 1", "colour", "slope.colour", "no such field"),
    ("unknown-table", "[spdx]", "[colours]\nx = 1\n[spdx]", "[colours]", "colours", "no such field"),
    ("unknown-key-of-rule", "when = { spdx", "when = { colour = 1, spdx", "when = {", "rule.0.when.colour", "no such"),
    ("missing-name", 'name = "small"\n', "", "licet = 1", "name", "missing"),
    ("missing-slope", "[slope]\n", "[slop]\n", "licet = 1", "slope", "missing"),
    ("missing-band-name", 'name = "behavioral"\n', "", "[[band]]", "band.1.name", "missing"),
    ("missing-because", 'because = "It must stay separable."\n', "", "[[rule]]", "rule.0.because", "missing"),
    ("empty-because", "It must stay separable.", "", "because", "rule.0.because", "at least 1 character"),
    ("wrong-type", 'scopes = ["general"]', "scopes = 3", "scopes", "scopes", "valid"),
    ("wrong-type-inside", "below = 1.0", 'below = "one"', "below = ", "entropy.0.below", "number"),
    ("wrong-version", "licet = 1\n", "licet = 2\n", "licet", "licet", "1"),
    ("bad-name", 'name = "small"', 'name = "Small Name"', "name = ", "name", "small letters"),
    ("no-scopes", 'scopes = ["general"]', "scopes = []", "scopes", "scopes", "at least 1"),
    ("bad-place", "require =", 'jurisdictions = ["us"]\nrequire =', "jurisdictions", "jurisdictions.0", "ISO 3166"),
    ("weight-above-one", '{ "*" = 0.5 }\n\n[[', '{ "*" = 1.5 }\n\n[[', "", "entropy.0.ceiling.*", "less than"),
    ("weight-below-zero", '{ "*" = 0.2 }', '{ "*" = -0.2 }', '{ "*" = -0.2', "rule.0.ceiling.*", "greater than"),
    ("weight-not-a-number", '{ "*" = 0.2 }', '{ "*" = nan }', "nan", "rule.0.ceiling.*", ""),
    ("weight-infinite", '{ "*" = 0.2 }', '{ "*" = inf }', "inf }", "rule.0.ceiling.*", ""),
    ("band-overlap", "[0.2, 0.85]", "[0.1, 0.85]", "[[band]]", "band.1", "in two bands"),
    ("band-gap", "[0.2, 0.85]", "[0.3, 0.85]", "", "band.1", "in no band"),
    ("band-gap-at-the-top", "[0.85, 1.0]", "[0.85, 0.9]", "", "band.0", "in no band"),
    ("band-backwards", "[0.2, 0.85]", "[0.85, 0.2]", "", "band.1", "begins below its end"),
    ("band-out-of-range", "[0.85, 1.0]", "[0.85, 1.5]", "", "band.0.share.1", "less than"),
    ("band-two-ways", "share = [0.2, 0.85]", "share = [0.2, 0.85]\nlayers = [[0, 1]]", "", "band.1", "exactly one way"),
    ("band-no-way", "share = [0.2, 0.85]\n", "", "", "band.1", "exactly one way"),
    ("bands-mixed", "share = [0.2, 0.85]", "layers = [[0, 1]]", "", "band", "none of them"),
    ("bands-of-one-name", 'name = "behavioral"', 'name = "surface"', "", "band", "two bands"),
    ("reserved-named-as-band", 'name = "alignment"', 'name = "surface"', "", "band", "two bands"),
    (
        "unknown-right",
        "layers = [[-2, -1]]",
        'layers = [[-2, -1]]\nright = "own"',
        "right",
        "reserved.0.right",
        "align",
    ),
    ("ceiling-unknown-band", "foundational = 0.0 }", "basement = 0.0 }", "", "licence.commercial.ceiling", "basement"),
    ("ceiling-silent", ", foundational = 0.0 }", " }", "", "licence.commercial.ceiling", "nothing of foundational"),
    ("ceiling-of-reserved", "foundational = 0.0 }", "foundational = 0.0, alignment = 1.0 }", "", "", "alignment"),
    ("edges-fall", "below = 3.0", "below = 0.5", "below = 0.5", "entropy.1.below", "ends above 1.0"),
    ("edges-equal", "below = 3.0", "below = 1.0 ", "below = 1.0 ", "entropy.1.below", "ends above 1.0"),
    ("edge-missing", "below = 3.0\n", "", "[[entropy]]", "entropy.1.below", "ends above 1.0"),
    ("edge-nan", "below = 3.0", "below = nan", "below = nan", "entropy.1.below", "greater than 0"),
    ("edge-of-the-last", 'name = "high"', 'name = "high"\nbelow = 9.0', "below = 9", "entropy.2.below", "no end"),
    ("edges-of-one-name", 'name = "middle"', 'name = "low"', "", "entropy", "same name"),
    ("slope-empty", '[{ "*" = 1.0 }, { "*" = 0.5 }]', "[]", "ceilings", "slope.ceilings", "at least 1"),
    ("no-such-kind", "[licence.commercial]", "[licence.stolen]", "[licence.stolen]", "licence.stolen", "public-domain"),
    (
        "no-such-term",
        "[spdx]",
        '[licence.synthetic]\nceiling={"*"=1}\nrequire=["luck"]\n[spdx]',
        "require=",
        "licence.synthetic.require.0",
        "spdx",
    ),
    ("rule-unknown-class", 'spdx = ["copyleft"]', 'spdx = ["left"]', "when", "rule.0.when.spdx", "left"),
    ("rule-unknown-kind", 'spdx = ["copyleft"]', 'kind = ["x"]', "when", "rule.0.when.kind.0", ""),
    ("rule-unknown-authority", 'spdx = ["copyleft"]', 'authority = ["x"]', "when", "rule.0.when.authority", "class x"),
    ("rule-unknown-scope", 'spdx = ["copyleft"]', 'scope = ["x"]', "when", "rule.0.when.scope", "scope x"),
    ("rule-unknown-skill", 'spdx = ["copyleft"]', 'skill = ["x"]', "when", "rule.0.when.skill", "skill x"),
    ("rule-unknown-entropy", 'spdx = ["copyleft"]', 'entropy = ["x"]', "when", "rule.0.when.entropy", "band x"),
    ("rule-does-both", 'id = "copyleft"', 'id = "copyleft"\nreject = true', "[[rule]]", "rule.0", "rejects or"),
    ("rule-does-nothing", 'ceiling = { "*" = 0.2 }\n', "", "[[rule]]", "rule.0", "rejects or"),
    ("skill-unknown-band", '["behavioral", "alignment"]', '["attic"]', "bands", "skill.summaries.bands", "attic"),
    (
        "skill-unknown-class",
        'authorities = ["publisher"]',
        'authorities = ["x"]',
        "",
        "skill.summaries.authorities",
        "x",
    ),
    ("authority-unknown-skill", 'skills = ["summaries"]\n\n[li', 'skills = ["x"]\n\n[li', "", "", "skill x"),
    ("tenant-unknown-query", 'query_classes = ["news"]', 'query_classes = ["x"]', "", "", "query class x"),
    ("query-unknown-skill", 'news]\nskills = ["summaries"]', 'news]\nskills = ["x"]', "", "", "skill x"),
    ("class-named-unknown", 'permissive = ["MIT"]', 'unknown = ["MIT"]', "[spdx]", "spdx", "unknown and none"),
    ("pattern-twice", '["GPL-*"]', '["GPL-*", "MIT"]', "[spdx]", "spdx", "MIT is in two classes"),
    ("bad-digest", "[spdx]", '[exclusion]\ncontent = ["ab"]\n[spdx]', "content", "exclusion.content.0", "64"),
    (
        "sigmas-turned",
        "[spdx]",
        '[memorization.thresholds]\n"*" = { low = 4, high = 2 }\n[spdx]',
        '"*" = {',
        "",
        "low is",
    ),
    (
        "sigmas-of-no-band",
        "[spdx]",
        "[memorization.thresholds]\nattic = { low = 2, high = 4 }\n[spdx]",
        "[memorization.thresholds]",
        "memorization.thresholds",
        "attic",
    ),
    (
        "response-unheard-of",
        "[spdx]",
        '[memorization.response]\n"*" = "scold"\n[spdx]',
        '"*" = "scold"',
        "memorization.response.*",
        "unlearn-once",
    ),
    (
        "response-silent",
        "[spdx]",
        '[memorization]\nresponse = { surface = "record" }\n[spdx]',
        "response",
        "memorization.response",
        "nothing of behavioral",
    ),
    (
        "response-below-of-no-band",
        "[spdx]",
        '[memorization]\nresponse_below = { "*" = "record", attic = "record" }\n[spdx]',
        "response_below",
        "memorization.response_below",
        "attic",
    ),
    ("no-sides", "[spdx]", "[memorization]\nsides = []\n[spdx]", "sides", "memorization.sides", "at least 1"),
    ("short-window", "[spdx]", "[memorization]\nwindow = 100\n[spdx]", "[memorization]", "memorization", "window is"),
    (
        "concentration-of-no-band",
        "[spdx]",
        '[memorization.concentration]\nbands = ["attic"]\n[spdx]',
        "bands",
        "memorization.concentration.bands",
        "attic",
    ),
    ("steps-too-small", "[spdx]", "[adaptation]\nstep_max = 0.05\n[spdx]", "step_max", "adaptation.step_max", "0.07"),
    ("factor-above-one", "[spdx]", "[adaptation]\nfactor_min = 1.5\n[spdx]", "factor", "adaptation.factor_min", "less"),
    ("no-such-mode", "[spdx]", '[inference]\nmode = "kind"\n[spdx]', "mode", "inference.mode", "monitor"),
    (
        "laxer-heightened",
        "[spdx]",
        "[inference.heightened]\nquotation_chars_max = 900\n[spdx]",
        "",
        "inference",
        "high",
    ),
    ("taint-order", "[spdx]", "[inference]\ntainted_refuse = 0.01\n[spdx]", "", "inference", "tainted_heighten"),
]


@pytest.mark.parametrize(("old", "new", "at", "field", "said"), [m[1:] for m in MISTAKES], ids=[m[0] for m in MISTAKES])
def test_a_mistake_is_told_where_it_is(old, new, at, field, said):
    assert GOOD.count(old) == 1, f"{GOOD.count(old)} times"
    text = GOOD.replace(old, new)
    found = problems(text)
    fitting = [problem for problem in found if said in problem[2] and field in ("", problem[1])]
    assert fitting, found
    assert at in text.splitlines()[fitting[0][0] - 1]


def test_two_rules_of_one_id():
    again = '[[rule]]\nid = "copyleft"\nreject = true\nbecause = "Again."\n\n[skill.summaries]'
    text = GOOD.replace("[skill.summaries]", again)
    assert problems(text) == [(line(text, 'id = "copyleft"\nreject'), "rule.1.id", "two rules have the id copyleft")]


def test_all_mistakes_are_told_at_once():
    text = GOOD.replace('scopes = ["general"]', "scopes = 3").replace("below = 1.0", 'below = "one"')
    assert [field for _, field, _ in problems(text)] == ["scopes", "entropy.0.below"]


def test_many_mistakes_are_counted():
    with pytest.raises(PolicyError, match=r"and \d+ more") as caught:
        Policy.parse("".join(f"a{i} = 1\n" for i in range(5000)))
    assert len(caught.value.problems) == PROBLEMS_MAX


@pytest.mark.parametrize("count", [1, 2, 8])
def test_three_to_seven_bands(count):
    shares = "".join(f'[[band]]\nname="b{i}"\nshare=[{i / count}, {(i + 1) / count}]\n' for i in range(count))
    start, end = GOOD.index("[[band]]"), GOOD.index("[[reserved]]")
    assert any(field == "band" for _, field, _ in problems(GOOD[:start] + shares + GOOD[end:]))


# ---- no document at all ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "where", "said"),
    [
        (b"#" * 10_000_000, 1, "is the most"),
        (GOOD.encode() + b"#" * POLICY_BYTES_MAX, 1, "is the most"),
        (b"a = 1\nb = '\xff'\n", 2, "not UTF-8"),
        ("a = 1\nb = '\ud800'\n", 2, "not UTF-8"),
        (GOOD.encode("utf-16"), 1, "not UTF-8"),
        ("licet = 1\nname =\n", 2, "no TOML"),
        ("licet = 1\nlicet = 1\n", 2, "no TOML"),
        (f"\n\nlicet = {'9' * 5000}", 1, "no TOML"),
        ("\ufeff" + GOOD, 1, "no TOML"),
        ("a = " + "[" * 20_000, 1, "no TOML"),
        ("a = " + "{a=" * 15_000, 1, "no TOML"),
        ("\na" + ".a" * 20_000 + " = 1", 2, f"more than {KEY_PARTS_MAX} parts"),
        ("[" + "'a' . " * 9_000 + "a]", 1, f"more than {KEY_PARTS_MAX} parts"),
        ("", 1, "missing"),
        ("\0", 1, "no TOML"),
    ],
    ids=[
        "ten-megabytes",
        "just-too-large",
        "not-utf-8",
        "surrogate",
        "utf-16",
        "broken",
        "key-twice",
        "huge-number",
        "byte-order-mark",
        "nested-lists",
        "nested-tables",
        "deep-key",
        "deep-table",
        "empty",
        "nul",
    ],
)
def test_no_document(raw, where, said):
    began = time.monotonic()
    found = problems(raw)
    assert time.monotonic() - began < 5
    assert found[0][0] == where
    assert said in found[0][2]


SLOW = [
    "".join(f"[{'a.' * 15}b{i}]\n" for i in range(1500)),
    "[[rule]]\n" * 6000,
    "a" * 59_000,
    '"' * 59_000,
    "a = '" + '"' * 59_000,
    "a = " + "][" * 29_000,
    "a" + " " * 59_000,
    "a . " * 14_000,
    "'a' " * 14_000,
    GOOD.replace('"MIT"', ", ".join(f'"x{i}"' for i in range(6000))) + "x",
    GOOD.replace('{ "*" = 0.2 }', "{ " + ", ".join(f"a{i} = 1" for i in range(5000)) + " }"),
]


@pytest.mark.parametrize("text", SLOW, ids=range(len(SLOW)))
def test_no_document_takes_long(text):
    began = time.monotonic()
    problems(text)
    assert time.monotonic() - began < 5


# ---- anything at all ---------------------------------------------------------------------------------------------


def parse(text: str | bytes) -> None:
    try:
        Policy.parse(text)
    except PolicyError as error:
        assert error.problems
        assert all(at >= 1 and field and said for at, field, said in error.problems)


@given(st.one_of(st.text(st.characters()), st.binary()))
@example("\ud800")
@example("a = 1e999999999")
@example("a = 0000-00-00")
def test_no_text_raises_anything_else(text):
    parse(text)


TEXTS = {name: Policy.read_default(name).text for name in DEFAULTS}
SPICE = st.sampled_from(
    [
        "[",
        "]",
        "{",
        "}",
        '"',
        "'''",
        '"""',
        "=",
        "\n",
        "nan",
        "-inf",
        "1e999",
        "[[band]]",
        "[licence.exclusion]",
        "0",
        "-1",
        "true",
        '"*"',
        "[]",
        "{}",
        "2026-01-01",
        "\ud800",
        "\x00",
        "\\",
        "a.b",
        "99999999999999999999",
        "ceiling = 1",
    ]
)


@settings(max_examples=150)
@given(st.sampled_from(DEFAULTS), st.data())
def test_no_change_of_a_default_raises_anything_else(name, data):
    text = TEXTS[name]
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text)))
        cut = data.draw(st.sampled_from([0, 0, 1, 3, 40]))
        text = text[:at] + data.draw(st.one_of(SPICE, st.text(max_size=4))) + text[at + cut :]
    parse(text)


VALUES = st.recursive(
    st.sampled_from(["1", "0.5", '"x"', "true", "nan", "[]", "{}", "-1", '"*"', "2026-01-01"]),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda parts: f"[{', '.join(parts)}]"),
        st.lists(inner, max_size=3).map(lambda parts: f"{{ {', '.join(f'k{i} = {p}' for i, p in enumerate(parts))} }}"),
    ),
    max_leaves=6,
)
ASSIGNMENTS = [at for at, said in enumerate(GOOD.splitlines()) if " = " in said]


@given(st.sampled_from(ASSIGNMENTS), VALUES)
def test_no_value_of_a_field_raises_anything_else(at, value):
    lines = GOOD.splitlines()
    lines[at] = f"{lines[at].partition(' = ')[0]} = {value}"
    parse("\n".join(lines))
