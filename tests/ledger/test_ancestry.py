"""Where a recorded past begins: every way in which it may be unknown, and that no answer leaves that out."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from licet.ledger.ancestry import Beginning, ancestry_of_run, ancestry_of_seal, unknown_blocks
from licet.ledger.app import app
from licet.ledger.errors import NotFoundError
from licet.ledger.home import Home
from licet.ledger.log import Ledger
from licet.ledger.note import SigningKey
from licet.ledger.reader import LogReader
from licet.ledger.records import Block, BlockDigest, CheckpointSealed, Digest, RunStarted, Stage, Technique
from tests.ledger.training import Trainer, digest

OUTSIDE, ABSENT = Digest(digest("outside", 0)), Digest(digest("absent", 0))
LAYERS = ("layer.0", "layer.1", "layer.2")


@pytest.fixture
def log(tmp_path):
    with Ledger.create(tmp_path / "log", SigningKey.generate("example.org/log")) as ledger:
        yield ledger


def sealed(log, seal, *blocks, run=None):
    listed = tuple(BlockDigest(name, Digest(bytes(32))) for name in blocks)
    log.append(CheckpointSealed(seal, "m", "", run, 0, listed, None, None, 0, Digest(bytes(32)), (), 0))
    log.commit()
    return seal


def started(log, *blocks, parent=None):
    listed = tuple(Block(name, ("surface",), 10) for name in blocks)
    run = log.append(RunStarted(f"run {log.size}", "m", listed, Technique.SCALE, Stage.ENFORCE, None, parent, None, 0))
    log.commit()
    return run


def seal_of(log, run, number, *blocks):
    return sealed(log, Digest(digest("seal", number)), *blocks, run=run)


# -- what is not known


def test_a_seal_or_a_run_that_is_not_there(log):
    run = started(log, *LAYERS)
    for question in (
        lambda: ancestry_of_seal(log, ABSENT),
        lambda: ancestry_of_run(log, 0),
        lambda: ancestry_of_run(log, run + 1),
        lambda: unknown_blocks(log, ABSENT),
    ):
        with pytest.raises(NotFoundError):
            question()


def test_an_outside_seal_knows_nothing_of_its_blocks(log):
    sealed(log, OUTSIDE, *LAYERS, "ungated")
    found = ancestry_of_seal(log, OUTSIDE)
    assert (found.beginning, found.base, found.runs, found.is_known) == (Beginning.OUTSIDE, OUTSIDE, (), False)
    assert found.unknown_blocks == {*LAYERS, "ungated"}
    assert OUTSIDE.hex()[:16] in found.why()


def test_a_run_on_an_outside_seal_and_all_that_grow_from_it(log):
    sealed(log, OUTSIDE, *LAYERS)
    first = started(log, *LAYERS, parent=OUTSIDE)
    seal = seal_of(log, first, 1, *LAYERS)
    second = started(log, *LAYERS, parent=seal)
    last = seal_of(log, second, 2, *LAYERS)
    for of in (first, seal, second, last):
        assert unknown_blocks(log, of) == set(LAYERS)
    assert ancestry_of_seal(log, last).runs == (second, first)
    assert ancestry_of_seal(log, last).base == OUTSIDE


def test_cutting_the_blocks_anew_makes_nothing_known(log):
    """Other names for the same weights: what the base was cut into says nothing of what is new."""
    sealed(log, OUTSIDE, *LAYERS)
    run = started(log, "layers.0-1", "layer.2", "top", parent=OUTSIDE)
    assert {"layers.0-1", "layer.2", "top"} <= unknown_blocks(log, run)


def test_adapters_on_an_outside_base_are_recorded_and_the_base_is_not(log):
    sealed(log, OUTSIDE, *LAYERS)
    run = started(log, "adapter.layer.0", "adapter.layer.1", parent=OUTSIDE)
    seal = seal_of(log, run, 1, "adapter.layer.0", "adapter.layer.1", "ungated")
    assert unknown_blocks(log, run) == set(LAYERS)
    assert unknown_blocks(log, seal) == {*LAYERS, "ungated"}
    merged = started(log, *LAYERS, "adapter.layer.0", parent=seal)
    assert unknown_blocks(log, merged) == {*LAYERS, "ungated"}


@pytest.mark.parametrize("where", ["base", "seal between", "no base"])
def test_adapters_that_somebody_else_made(log, where):
    """An adapter is recorded only if a run of this log is the first that has it."""
    if where != "no base":
        sealed(log, OUTSIDE, *LAYERS, *(["adapter.layer.0"] if where == "base" else []))
    run = started(log, *LAYERS, parent=OUTSIDE if where != "no base" else ABSENT)
    seal = seal_of(log, run, 1, *LAYERS, *(["adapter.layer.0"] if where == "seal between" else []))
    assert "adapter.layer.0" in unknown_blocks(log, started(log, "adapter.layer.0", parent=seal))


def test_a_parent_that_the_log_does_not_hold(log):
    found = ancestry_of_run(log, started(log, *LAYERS, parent=ABSENT))
    assert (found.beginning, found.base, found.unknown_blocks) == (Beginning.MISSING, ABSENT, set(LAYERS))


def test_a_parent_that_comes_later_is_none(log):
    run = started(log, *LAYERS, parent=OUTSIDE)
    seal_of(log, run, 1, *LAYERS)
    sealed(log, OUTSIDE, *LAYERS, run=run)
    assert ancestry_of_run(log, run).beginning is Beginning.MISSING


def test_a_seal_of_what_is_no_run(log):
    for number, entry in enumerate((0, 10**9)):
        found = ancestry_of_seal(log, seal_of(log, entry, number, *LAYERS))
        assert (found.beginning, found.unknown_blocks) == (Beginning.MISSING, set(LAYERS))


def test_a_log_that_says_two_things_of_a_seal(log):
    """A base that is recorded a second time, as the work of a fresh run, stays what it was."""
    fresh = started(log, *LAYERS)
    sealed(log, OUTSIDE, *LAYERS)
    sealed(log, OUTSIDE, *LAYERS, run=fresh)
    assert ancestry_of_run(log, started(log, *LAYERS, parent=OUTSIDE)).beginning is Beginning.OUTSIDE
    assert not ancestry_of_seal(log, OUTSIDE).is_known


def test_what_began_from_nothing_is_known(log):
    first = started(log, *LAYERS)
    seal = seal_of(log, first, 1, *LAYERS, "ungated")
    second = started(log, "layers.0-2", parent=seal)
    for of in (first, seal, second):
        assert unknown_blocks(log, of) == frozenset()
    found = ancestry_of_run(log, second)
    assert (found.is_known, found.base, found.why(), found.runs) == (True, None, "", (second, first))


names = st.sampled_from([*LAYERS, "adapter.layer.0", "adapter.x", "head"])


@settings(max_examples=12)
@given(
    begins=st.sampled_from(["fresh", "outside", "absent"]),
    base=st.frozensets(names, min_size=1),
    cuts=st.lists(st.tuples(st.frozensets(names, min_size=1), st.frozensets(names)), min_size=1, max_size=5),
)
def test_growing_on_never_makes_an_unknown_block_known(tmp_path_factory, begins, base, cuts):
    with Ledger.create(tmp_path_factory.mktemp("logs") / "log", SigningKey.generate("example.org/log")) as log:
        parent = {"fresh": None, "outside": OUTSIDE, "absent": ABSENT}[begins]
        if begins == "outside":
            sealed(log, OUTSIDE, *sorted(base))
        before = frozenset()
        for number, (blocks, more) in enumerate(cuts):
            run = started(log, *sorted(blocks), parent=parent)
            now = unknown_blocks(log, run)
            assert before <= now
            assert all(name in now or name.startswith("adapter.") for name in blocks) is (begins != "fresh") or not now
            parent = seal_of(log, run, number, *sorted(blocks | more))
            before = unknown_blocks(log, parent)
            assert now <= before
        assert bool(before) is (begins != "fresh")


# -- every answer says so


def taught(log, *, parent):
    trainer = Trainer(log, random.Random(4))
    if parent is not None:
        sealed(log, OUTSIDE, *LAYERS, "ungated")
    trainer.start(3, parent=parent)
    trainer.declare_some()
    trainer.admit(12)
    trainer.take_step(40)
    log.commit()


def test_exposure_over_an_unknown_past_says_so(log):
    taught(log, parent=OUTSIDE)
    with LogReader.open(log.directory.path) as reader:
        for index in (log.exposure, reader.exposure):
            assert all(row.past_unknown for row in index.forward(source="source 1"))
            assert all(row.past_unknown for row in index.forward_example(digest("example", 1)))
            assert all(row.past_unknown for row in index.reverse(["layer.0"]))
            assert index.reverse(["ungated"]) == []  # nobody is recorded there, and nobody said that there is no such
            assert index.ancestry().unknown_of(["ungated", "layer.1", "nonsense", "layer.1"]) == ("ungated", "layer.1")
            with pytest.raises(NotFoundError):
                index.reverse(["nonsense"])


def test_exposure_of_a_fresh_run_says_nothing_of_it(log):
    taught(log, parent=None)
    assert not any(row.past_unknown for row in log.exposure.forward(source="source 1"))
    assert not any(row.past_unknown for row in log.exposure.reverse(["layer.0"]))
    log.exposure.ancestry()
    trainer = Trainer(log, random.Random(5))
    trainer.start(3, parent=ABSENT)
    log.commit()
    assert not log.exposure.ancestry().is_known  # of the latest run, whatever was asked of the one before


@pytest.fixture(scope="module")
def homes(tmp_path_factory):
    found = {}
    for name, parent in (("fresh", None), ("outside", OUTSIDE)):
        found[name] = Home.create(tmp_path_factory.mktemp(name) / "home", "example.org/t")
        with found[name].open_log("training") as training:
            taught(training, parent=parent)
    return found


@pytest.fixture
def say(homes, capsys, monkeypatch):
    """What a command prints about the home of that name, run in this process, which is faster."""

    def run(name, *arguments, as_json=False):
        monkeypatch.setenv("LICET_HOME", str(homes[name].path))
        app(["ledger", *arguments, *(["--json"] if as_json else [])], standalone_mode=False)
        out = capsys.readouterr().out
        return json.loads(out) if as_json else out

    return run


def test_reverse_names_what_is_not_in_its_numbers(say):
    asked = ("reverse", "training", "layer.0", "layer.2", "ungated")
    *_, row, caution = say("outside", *asked).splitlines()
    assert row.split() == ["?", "(unknown)", "?", "?"]
    assert "layer.0, layer.2, ungated" in caution and OUTSIDE.hex()[:16] in caution
    *ranked, last = say("outside", *asked, as_json=True)
    assert ranked and all(row["past_unknown"] for row in ranked)
    assert (last["source"], last["total"], last["base"]) == (None, None, OUTSIDE.hex())
    assert last["unknown_blocks"] == ["layer.0", "layer.2", "ungated"]
    (alone,) = say("outside", *asked[:2], "ungated", as_json=True)
    assert alone["past_unknown"]
    fresh = say("fresh", *asked[:4], as_json=True)
    assert fresh and not any(row["past_unknown"] for row in fresh)


def test_forward_marks_the_blocks(say):
    asked = ("forward", "training", "--source", "source 1")
    head, *rows, caution = say("outside", *asked).splitlines()
    assert head.split()[-1] == "before" and all(row.split()[-1] == "unknown" for row in rows)
    assert "is unknown" in caution
    listed = say("outside", *asked, as_json=True)
    assert [(row["block"], row["past_unknown"]) for row in listed] == [(n, True) for n in (*LAYERS, "ungated")]
    assert "unknown" not in say("fresh", *asked)
