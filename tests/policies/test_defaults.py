"""The policies that come with Licet, row by row: really signed examples through the real evaluation."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from types import ModuleType

import pytest

import licet.policies
from licet.ledger.records import Determination
from licet.policies.bands import Architecture, resolve
from licet.policies.evaluate import Admission, Gate, evaluate
from licet.policies.policy import Policy
from tests.policies.tables import alignment_reserved, open_source_code, publisher_licensing, regulated
from tests.policies.tables.rows import Row, example, policy

TABLES = (open_source_code, publisher_licensing, regulated, alignment_reserved)
SMALL = Architecture.uniform(6, embedding=3_840_000, layer=1_000_000, head=3_840_000)
LARGE = Architecture.uniform(96, layers_per_block=4, embedding=600_000_000, layer=1_800_000_000, head=600_000_000)
BANDS = ("surface", "behavioral", "foundational")
CASES = [pytest.param(table, row, id=f"{table.ORDINARY['policy']}-{row.id}") for table in TABLES for row in table.ROWS]


def judged(table: ModuleType, row: Row, model: Architecture) -> Admission:
    proposed, envelope = example(table.ORDINARY, row)
    return evaluate(proposed, [policy(table.ORDINARY, row, envelope)], model)


def levels_by_band(name: str, admission: Admission, model: Architecture) -> list[set[int]]:
    """The levels in the blocks of each depth band that no reserved band covers, and in the reserved blocks."""
    layout = resolve(Policy.read_default(name), model)
    found = [
        {
            level
            for level, own, kept in zip(admission.levels, layout.own, layout.reserved, strict=True)
            if b in own and not kept
        }
        for b in range(len(BANDS))
    ]
    reserved = {level for level, kept in zip(admission.levels, layout.reserved, strict=True) if kept}
    return [*found, *([reserved] if reserved else [])]


# ---- the tables ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("table", "row"), CASES)
def test_a_row(table, row):
    admission = judged(table, row, SMALL)
    assert [reason.value for reason in admission.reasons] == list(row.reasons)
    assert admission.determination is row.determination
    found = levels_by_band(table.ORDINARY["policy"], admission, SMALL)
    assert found == [{level} for level in row.levels[: len(found)]]


@pytest.mark.parametrize(("table", "row"), CASES)
def test_a_row_on_a_large_model(table, row):
    """The same answer; in each band at most the same level, and somewhere in it the very same."""
    admission = judged(table, row, LARGE)
    assert admission.determination is row.determination
    assert [reason.value for reason in admission.reasons] == list(row.reasons)
    found = levels_by_band(table.ORDINARY["policy"], admission, LARGE)
    assert [max(levels) for levels in found] == list(row.levels[: len(found)])


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.ORDINARY["policy"])
def test_a_table_is_large_and_names_each_row_once(table):
    names = [row.id for row in table.ROWS]
    assert len(names) >= 30
    assert len(set(names)) == len(names)
    assert {row.determination for row in table.ROWS} == set(Determination)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.ORDINARY["policy"])
def test_one_gate_for_a_whole_table_says_the_same(table):
    """What a gate remembers of one example never changes what it says of another."""
    gate = Gate([Policy.read_default(table.ORDINARY["policy"])], SMALL)
    rows = [row for row in table.ROWS if "excluded" not in row.changes]
    for row in [*rows, *reversed(rows)]:
        admission = gate.admit(example(table.ORDINARY, row)[0])
        assert [reason.value for reason in admission.reasons] == list(row.reasons), row.id
        assert admission.determination is row.determination


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.ORDINARY["policy"])
def test_every_rule_of_the_document_is_in_some_row(table):
    base = Policy.read_default(table.ORDINARY["policy"])
    gate = Gate([base], SMALL)
    used: set[str] = set()
    for row in table.ROWS:
        for found in gate.profiles(example(table.ORDINARY, row)[0]):
            used |= set(found.rejecting) | {factor.name.removeprefix("rule.") for factor in found.factors}
    assert [rule.id for rule in base.document.rule if rule.id not in used] == []


# ---- together ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"), list(itertools.combinations([t.ORDINARY["policy"] for t in TABLES], 2)), ids=str
)
def test_two_policies_are_never_laxer_than_one(one, other):
    """Whatever a table holds, a second policy takes away and never gives."""
    table = next(table for table in TABLES if table.ORDINARY["policy"] == one)
    both = Gate([Policy.read_default(one), Policy.read_default(other)], SMALL)
    alone = Gate([Policy.read_default(one)], SMALL)
    for row in table.ROWS[:12]:
        proposed, _ = example(table.ORDINARY, row)
        before, after = alone.admit(proposed), both.admit(proposed)
        assert all(a <= b for a, b in zip(after.levels, before.levels, strict=True)), row.id
        assert after.determination is Determination.REJECTED or before.determination is not Determination.REJECTED


# ---- what the README tells -----------------------------------------------------------------------------------------

STORIES = [
    (open_source_code, "weak-mpl", "open-source-code/rule.weak-copyleft"),
    (publisher_licensing, "commercial", "publisher-licensing/licence.commercial"),
    (regulated, "practitioner", "regulated/authority.licensed-practitioner"),
    (alignment_reserved, "customer", "alignment-reserved/authority.customer"),
]


@pytest.mark.parametrize(
    ("table", "name", "rule"), STORIES, ids=lambda value: value if isinstance(value, str) else None
)
def test_the_deepest_blocks_name_what_decided(table, name, rule):
    row = next(row for row in table.ROWS if row.id == name)
    assert judged(table, row, SMALL).rules[0] == rule


README = (Path(licet.policies.__file__).resolve().parent / "README.md").read_text()


@pytest.mark.parametrize(("table", "name"), [story[:2] for story in STORIES], ids=[story[1] for story in STORIES])
def test_the_readmes_tables_are_what_comes_out(table, name):
    """Each row: a band, its level on 6 layers and on 96 (at the edge of the surface: another), and what decided."""
    policy_name = table.ORDINARY["policy"]
    row = next(row for row in table.ROWS if row.id == name)
    story = README.partition(f"**`{policy_name}`**")[2].partition("**`")[0].partition("\n## ")[0]
    told = re.findall(
        r"^\| (\w+) \| .*: (\d+) \| .*?: (\d+)(?: \(80–83.*: (\d+)\))? \| `(.+)` \|$", story, re.MULTILINE
    )
    small, large = (judged(table, row, model) for model in (SMALL, LARGE))
    edge = [block.name for block in LARGE.blocks].index("layers.80-83")
    layout = resolve(Policy.read_default(policy_name), SMALL)
    assert [band for band, *_ in told] == [
        "surface",
        "behavioral",
        *(["reserved"] if layout.reserved_names else []),
        "foundational",
    ]
    for band, on_small, on_large, at_edge, rule in told:
        kept = band == "reserved"
        inside = [i for i, held in enumerate(layout.reserved) if (held if kept else layout.bands_of(i) == (band,))]
        assert {small.levels[i] for i in inside} == {int(on_small)} == {int(on_large)}
        assert {small.rules[i] for i in inside} == {f"{policy_name}/{rule}"}
        assert not at_edge or large.levels[edge] == int(at_edge)
