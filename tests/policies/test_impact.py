"""What a revocation would touch, against plain Python; and a clock that runs out anywhere."""

from __future__ import annotations

import itertools
import math
import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from licet.ledger.errors import ConfigError
from licet.ledger.log import Ledger
from licet.ledger.note import SigningKey
from licet.ledger.records import (
    Action,
    AttestationMentioned,
    BlockDigest,
    CheckpointSealed,
    Depth,
    Determination,
    Digest,
    ExampleAdmitted,
    Mode,
    Opaque,
    Span,
    VerdictGiven,
)
from licet.policies.aftermath import Change, Turn, turn_of
from licet.policies.cli.preview import facts, say
from licet.policies.impact import HOURS_MAX, impact
from licet.policies.reasons import Reason
from licet.policies.rights import LicenceState
from licet.policies.rulebook import Rulebook
from tests.ledger.training import Brute, Trainer, digest
from tests.policies.documents import policy

ACTIVE, EXPIRED, REVOKED = LicenceState.ACTIVE, LicenceState.EXPIRED, LicenceState.REVOKED
RULES = Rulebook.of(policy(inference={"tainted_heighten": 0.1, "tainted_refuse": 0.5}))
NOW = 1_700_000_000_000
HOUR = 3_600_000
OURS, OTHERS = Digest(digest("attestation", 3)), Digest(digest("attestation", 4))


def span(start=0, end=60, attestation=OURS, state="active", kind="verbatim", similarity=1_000_000, depth=Depth.SHALLOW):
    return Span(start, end, attestation, state, kind, similarity, depth)


def given_verdict(*spans, action=Action.ALLOW, reasons=(), activity=(), tainted=0, claimed_ms=NOW, completion="c"):
    return VerdictGiven(
        completion,
        0,
        *(Digest(bytes(32)),) * 3,
        action,
        Mode.DIVERT,
        tuple(reasons),
        spans,
        tuple(activity),
        tainted,
        1,
        Digest(bytes(32)),
        "acme",
        claimed_ms,
    )


def turned(verdict, *, before=ACTIVE, after=REVOKED, shares=(), attestation=OURS):
    return turn_of(verdict, Change(attestation, before, after, shares), RULES)


# -- one verdict


@pytest.mark.parametrize(
    ("verdict", "turn"),
    [
        (given_verdict(), Turn.NO),
        (given_verdict(span(attestation=OTHERS)), Turn.NO),
        (given_verdict(span(attestation=None, state="unrecorded")), Turn.NO),
        (given_verdict(span(), action=Action.SUPPRESS), Turn.NO),
        (given_verdict(span(end=25)), Turn.CERTAIN),
        (given_verdict(span(end=24)), Turn.NO),
        (given_verdict(span(kind="near", similarity=600_000)), Turn.CERTAIN),
        (given_verdict(span(kind="near", similarity=599_999)), Turn.NO),
        (given_verdict(span(kind="of another release", similarity=0)), Turn.CERTAIN),
        (given_verdict(span(), span(0, 60, OTHERS)), Turn.POSSIBLE),
        (given_verdict(span(), span(0, 59, OTHERS)), Turn.CERTAIN),
        (given_verdict(span(), span(0, 60, OTHERS, state="expired")), Turn.CERTAIN),
        (given_verdict(span(), span(0, 60, OTHERS, kind="near", similarity=900_000)), Turn.CERTAIN),
        (given_verdict(span(), reasons=(Reason.MATCH_USER_SUPPLIED,)), Turn.POSSIBLE),
        (given_verdict(span(), reasons=(Reason.MATCH_COMMON,)), Turn.POSSIBLE),
        (given_verdict(span(60, 60)), Turn.POSSIBLE),
        (given_verdict(span(similarity=10**9)), Turn.CERTAIN),
    ],
    ids=[
        "no match",
        "another's",
        "no record",
        "was one",
        "long enough",
        "too short",
        "near enough",
        "too remote",
        "unknown kind",
        "covered",
        "covered but for one",
        "covered by what has ended",
        "covered remotely",
        "the user's",
        "common",
        "impossible span",
        "impossible likeness",
    ],
)
def test_one_verdict(verdict, turn):
    assert turned(verdict) is turn


@pytest.mark.parametrize(
    ("before", "after"), [(ACTIVE, ACTIVE), (REVOKED, REVOKED), (EXPIRED, ACTIVE), (REVOKED, ACTIVE)], ids=str
)
def test_a_change_that_is_none_or_frees_turns_nothing(before, after):
    assert turned(given_verdict(span()), before=before, after=after) is Turn.NO


def test_blocks_alone_can_turn_a_verdict():
    busy = given_verdict(span(attestation=OTHERS), activity=(1_000_000, 0), tainted=100_000)
    assert turned(busy, shares=(0.4, 0.0)) is Turn.CERTAIN
    assert turned(busy, shares=(0.39, 0.0), before=EXPIRED) is not Turn.CERTAIN
    assert turned(busy, shares=(0.4,)) is not Turn.CERTAIN
    heightened = given_verdict(span(attestation=OTHERS), activity=(1_000_000, 0))
    assert turned(heightened, shares=(0.2, 0.0)) is Turn.POSSIBLE
    assert turned(heightened, shares=(0.05, 0.0)) is Turn.NO


spans = st.builds(
    Span,
    st.integers(0, 100),
    st.integers(0, 200),
    st.sampled_from([OURS, OTHERS, None]),
    st.sampled_from(["active", "expired", "", "x"]),
    st.sampled_from(["verbatim", "near", ""]),
    st.integers(0, 2_000_000),
    st.sampled_from(Depth),
)


@given(st.lists(spans, max_size=5), st.sampled_from(list(LicenceState)), st.integers(0, 2_000_000))
def test_whatever_is_recorded_gets_an_answer(held, after, tainted):
    assert turned(given_verdict(*held, tainted=tainted, activity=(1, 2)), after=after, shares=(0.5, 0.5)) in Turn


# -- logs


def sealed(trainer, number):
    trainer.ledger.commit()
    blocks = tuple(BlockDigest(f"layer.{b}", Digest(bytes(32))) for b in range(trainer.blocks))
    name, size = Digest(digest("seal", number)), trainer.ledger.size
    trainer.ledger.append(
        CheckpointSealed(name, "m", f"v{number}", trainer.run, 1, blocks, None, None, size, Digest(bytes(32)), (), 0)
    )
    return name


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    """A seal before anything of ours, one after, and one of a run that continues the second."""
    path = tmp_path_factory.mktemp("training") / "log"
    with Ledger.create(path, SigningKey.generate("example.org/training")) as log:
        trainer = Trainer(log, random.Random(3))
        trainer.start(3)
        trainer.declare_some()
        trainer.admit(3)  # not ours: ours is the fourth attestation
        trainer.take_step(10)
        sealed(trainer, 1)
        trainer.admit(40)
        trainer.take_step(300)
        rejected = ExampleAdmitted(
            *(Digest(digest("rejected", 1)), Digest(bytes(32)), trainer.attestations[3], None, None),
            *(Determination.REJECTED, (), None, None, 0, (), None),
        )
        log.append(rejected)
        second = sealed(trainer, 2)
        trainer.start(3, parent=second)
        trainer.declare_some()
        trainer.take_step(50)
        sealed(trainer, 3)
        trainer.start(2)
        trainer.declare_some()
        trainer.take_step(20)
        sealed(trainer, 4)
        trainer.start(3, parent=second)
        trainer.declare_some()
        trainer.take_step(50)
        log.commit()
        yield log


@pytest.fixture
def runtime(tmp_path):
    with Ledger.create(tmp_path / "runtime", SigningKey.generate("example.org/runtime")) as log:
        yield log


def asked(training, runtime=None, *, attestation=OURS, clock=lambda: 0.0, budget_s=1.0, after=REVOKED, **more):
    return impact(
        training, runtime, attestation, ACTIVE, after, RULES, clock=clock, budget_s=budget_s, now_ms=NOW, **more
    )


def test_what_was_taught_and_which_models_hold_it(training):
    found = asked(training)
    admitted = [
        record.example
        for _, record in training.all_of(ExampleAdmitted)
        if record.determination is not Determination.REJECTED
        and training.record(record.attestation) == AttestationMentioned(OURS, "source 3")
    ]
    assert found.examples.count == len(set(admitted)) > 1
    assert found.examples.first == tuple(dict.fromkeys(admitted))
    assert [model.label for model in found.models.found] == ["v2", "v3"]
    assert found.complete and found.verdicts is None


def test_blocks_and_their_shares(training):
    found = asked(training)
    events = Brute(training.entry(i) for i in range(training.size))
    mine = events.forward(lambda event: event.attestation == OURS)
    everyone = events.forward(lambda _: True)
    assert [(row.block, row.total) for row in found.blocks.shares] == [(row[0], row[1]) for row in mine]
    for row, of_us, of_all in zip(found.blocks.shares, mine, everyone, strict=True):
        assert row.share == float(Fraction(of_us[1], of_all[1]))


def test_an_attestation_that_taught_nothing(training):
    found = asked(training, attestation=Digest(bytes(32)))
    assert (found.examples.count, found.blocks.shares, found.models.found) == (0, (), ())
    assert found.complete and found.past_known


def test_an_attestation_and_no_run(tmp_path):
    with Ledger.create(tmp_path / "log", SigningKey.generate("example.org/training")) as log:
        log.append(AttestationMentioned(OURS, "source 3"))
        log.commit()
        found = asked(log)
    assert (found.blocks.shares, found.blocks.untold, found.complete) == ((), (), True)


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    """A model from elsewhere, one that we taught on top of it, one that others did, and one from nothing."""
    path = tmp_path_factory.mktemp("grown") / "log"
    with Ledger.create(path, SigningKey.generate("example.org/training")) as log:
        base = Digest(digest("outside", 1))
        blocks = tuple(BlockDigest(f"layer.{b}", Digest(bytes(32))) for b in range(3))
        log.append(CheckpointSealed(base, "m", "base", None, 0, blocks, None, None, 0, Digest(bytes(32)), (), 0))
        trainer = Trainer(log, random.Random(3))
        trainer.start(3)
        trainer.declare_some()
        trainer.admit(3)
        trainer.take_step(10)
        sealed(trainer, 1)
        trainer.start(3, parent=base)
        trainer.declare_some()
        trainer.take_step(10)
        sealed(trainer, 2)
        trainer.admit(12)
        trainer.take_step(100)
        sealed(trainer, 3)
        log.commit()
        yield log


def test_what_came_from_elsewhere_is_said_to_be_unknown(grown):
    found = asked(grown)
    assert [(model.label, model.past_unknown) for model in found.models.found] == [("v3", True)]
    assert [(model.label, model.past_unknown) for model in found.models.untold] == [("base", True), ("v2", True)]
    assert found.blocks.untold == ("layer.0", "layer.1", "layer.2")
    assert found.complete and not found.past_known


def test_what_taught_nothing_may_still_be_in_what_came_from_elsewhere(grown):
    found = asked(grown, attestation=Digest(bytes(32)))
    assert [model.label for model in found.models.untold] == ["base", "v2", "v3"]
    assert not found.past_known


def test_the_preview_says_it(grown, training, capsys):
    for log, said in ((grown, True), (training, False)):
        found = asked(log)
        say(found)
        told = capsys.readouterr().err
        assert ("what shaped layer.0, layer.1, layer.2 before is unknown" in told) is said
        assert ("they came from elsewhere: m base, m v2" in told) is said
        assert facts(found)["past_known"] is not said


def filled(runtime, count):
    """One verdict an hour, the newest now; between them, entries of other kinds. Every third cites us."""
    for age in reversed(range(count)):
        cited = span() if age % 3 == 0 else span(attestation=OTHERS)
        runtime.append(given_verdict(cited, claimed_ms=NOW - age * HOUR, completion=f"age {age}"))
        runtime.append(Opaque(200, 1, b"something else"))
    runtime.commit()


@pytest.mark.parametrize(
    ("hours", "replayed", "certain"), [(0, 1, 1), (2.5, 3, 1), (3, 4, 2), (400, 401, 134)], ids=str
)
def test_verdicts_of_the_last_hours(training, runtime, hours, replayed, certain):
    filled(runtime, 600)
    found = asked(training, runtime, hours=hours).verdicts
    assert (found.replayed, found.certain, found.possible, found.complete) == (replayed, certain, 0, True)
    assert found.completions[0] == "age 0"
    assert len(found.completions) == min(certain, 100)


def test_a_licence_that_becomes_active_turns_nothing(training, runtime):
    filled(runtime, 30)
    found = asked(training, runtime, after=ACTIVE).verdicts
    assert (found.replayed, found.certain, found.possible) == (25, 0, 0)


@pytest.mark.parametrize("hours", [-1, math.nan, math.inf, HOURS_MAX + 1], ids=str)
def test_hours_that_are_none(training, hours):
    with pytest.raises(ConfigError, match="hours"):
        asked(training, hours=hours)


# -- time


@pytest.mark.parametrize("budget_s", [0.0, -1.0, math.nan], ids=str)
def test_without_time_everything_is_unknown(training, runtime, budget_s):
    filled(runtime, 3)
    found = asked(training, runtime, budget_s=budget_s)
    assert not any(part.complete for part in (found.blocks, found.examples, found.models, found.verdicts))
    assert found.examples.read_to == training.find(AttestationMentioned, OURS)[0][0]
    assert (found.verdicts.replayed, found.verdicts.read_from) == (0, runtime.size)
    assert not found.complete


def test_a_clock_that_says_nonsense_gives_no_time(training):
    assert not asked(training, clock=lambda: math.nan).complete


def test_time_may_run_out_anywhere(training, runtime):
    """Whatever was reached is the same as with all the time there is; more time never finds less."""
    filled(runtime, 600)
    whole = asked(training, runtime, hours=HOURS_MAX)
    before = None
    for ticks in itertools.count(0, 2):
        clock = itertools.count()
        found = asked(training, runtime, hours=HOURS_MAX, clock=lambda clock=clock: float(next(clock)), budget_s=ticks)
        assert found.blocks.shares == whole.blocks.shares[: len(found.blocks.shares)]
        assert found.models.found == whole.models.found[: len(found.models.found)]
        assert found.models.untold == whole.models.untold[: len(found.models.untold)]
        assert found.examples.first == whole.examples.first[: len(found.examples.first)]
        assert found.verdicts.completions == whole.verdicts.completions[: len(found.verdicts.completions)]
        if not found.examples.complete:
            assert found.examples.read_to < training.size
        if not found.verdicts.complete:
            assert 0 < found.verdicts.read_from <= runtime.size
            assert found.verdicts.replayed <= runtime.size - found.verdicts.read_from
        if before is not None:
            assert found.verdicts.replayed >= before.verdicts.replayed
            assert found.examples.count >= before.examples.count
        before = found
        if found.complete:
            break
    assert found == whole
