"""Memorization: what is far off is flagged and cannot hide itself, responses only take away, a resume is exact."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from licet.ledger.records import Licence, LicenceKind, Recall
from licet.policies.bands import Architecture, resolve
from licet.policies.policy import Policy
from licet.policies.schema import Concentrated, Memorization, Sigmas
from licet.train import Gate
from licet.train.watch.memorization import (
    Concentration,
    Flag,
    Watch,
    alignments,
    permitted_bands,
    respond,
    responses,
    second_look,
    settled,
    thresholds,
)
from licet.train.watch.statistics import SCORE_MAX, MemorizationError, RunningNorms

torch.set_num_threads(1)
POLICY = Policy.read_default("open-source-code")
LAYOUT = resolve(POLICY, Architecture.uniform(6, embedding=100, layer=50, head=100))
TIED = resolve(POLICY, Architecture.uniform(6, embedding=100, layer=50))
BLOCKS = 8  # embedding and layer 0: foundational; layers 1 to 4: behavioral; layer 5 and head: surface
SETTINGS = Memorization(observations_min=64, window=512)
BATCH = 16


def usual(seed: int = 0, batches: int = 40) -> np.ndarray:
    """Norms as training gives them: about one, of a factor 1.6 to either side, drifting down."""
    random = np.random.default_rng(seed)
    return np.exp(random.normal(size=(batches, BATCH, BLOCKS)) * 0.5 - np.arange(batches)[:, None, None] * 0.002)


def watch(settings: Memorization = SETTINGS, seen: np.ndarray | None = None) -> Watch:
    made = Watch(settings, LAYOUT, POLICY.entropy_names)
    for step, norms in enumerate(usual() if seen is None else seen):
        made.observe(step, range(BATCH), ["predictable"] * BATCH, norms)
    return made


def one(made: Watch, norms: list[float], entropy: str = "ordinary", step: int = 100) -> list[Flag]:
    return made.observe(step, ["x"], [entropy], np.array([norms]))


# ---- thresholds and responses ---------------------------------------------------------------------------------------


def test_thresholds_by_band_and_entropy():
    found = thresholds(Memorization(), LAYOUT, 3)
    assert found[:, 0].tolist() == [4, 3, 2]
    assert found[:, 4].tolist() == [4, 3, 2]
    assert found[:, 7].tolist() == [8, 6, 4]


def test_named_thresholds_come_before_the_others():
    settings = Memorization(thresholds={"foundational": Sigmas(low=1, high=1), "*": Sigmas(low=5, high=9)})
    assert thresholds(settings, LAYOUT, 2)[:, [0, 3, 7]].tolist() == [[1, 9, 9], [1, 5, 5]]


def test_one_entropy_band_lies_in_the_middle():
    assert thresholds(Memorization(), LAYOUT, 1)[0, [0, 7]].tolist() == [3, 6]


def test_a_tied_block_has_the_lower_threshold_and_the_stricter_response():
    settings = Memorization(response={"surface": "record", "foundational": "restrict", "*": "attenuate"})
    assert thresholds(settings, TIED, 3)[0, 0] == 4
    assert responses(settings, TIED, "above")[0] == "restrict"
    assert responses(settings, TIED, "below")[0] == "exclude"


# ---- flags ----------------------------------------------------------------------------------------------------------


def test_nothing_is_flagged_that_is_usual_or_that_comes_too_early():
    made = Watch(SETTINGS, LAYOUT, POLICY.entropy_names)
    flags = []
    for step, norms in enumerate(usual(batches=3)):
        wild = norms.copy()
        wild[0] *= 1e6
        flags += made.observe(step, range(BATCH), ["dense"] * BATCH, wild)
    assert flags == []


def test_few_of_usual_norms_are_flagged():
    made = watch()
    flags = [
        flag
        for step, norms in enumerate(usual(1, 100), 40)
        for flag in made.observe(step, range(BATCH), ["predictable"] * BATCH, norms)
    ]
    assert len(flags) <= 6  # of 12,800 norms, at four deviations


def test_far_above_and_far_below():
    made = watch()
    above = one(made, [1.0, 1.0, 50.0, 60.0, 1.0, 1.0, 1.0, 1.0])
    below = one(made, [1.0, 1.0, 1.0, 0.02, 1.0, 1.0, 1.0, 0.0001])
    assert [(flag.blocks, flag.side, flag.response) for flag in above] == [((2, 3), "above", "attenuate")]
    assert above[0].score > above[0].threshold == 3
    assert [(flag.blocks, flag.side, flag.response) for flag in below] == [((3, 7), "below", "exclude")]
    assert below[0].threshold == 6  # of the head, which is further off


def test_dense_text_is_flagged_sooner_than_predictable_text():
    norms = [1.0] * 7 + [1.0]
    norms[3] = math.exp(0.5 * 2.8)
    made = watch()
    assert one(made, norms, "dense")
    assert not one(made, norms, "ordinary")
    assert not one(made, norms, "predictable")


def test_each_response_gets_a_flag_of_its_own():
    made = watch(SETTINGS.model_copy(update={"response": {"behavioral": "restrict", "*": "record"}}))
    flags = one(made, [100.0] * 8)
    assert [(flag.response, flag.blocks) for flag in flags] == [("record", (0, 1, 6, 7)), ("restrict", (2, 3, 4, 5))]


def test_a_side_that_is_not_watched():
    made = watch(SETTINGS.model_copy(update={"sides": frozenset({"below"})}))
    assert [flag.side for flag in one(made, [1e5] * 4 + [1e-5] * 4)] == ["below"]


def test_an_outlier_is_scored_before_it_is_added_and_cannot_hide_the_next():
    made = watch()
    scores = [one(made, [1e6] * 8)[0].score for _ in range(20)]
    assert min(scores) > 10
    assert one(made, [1e-6] * 8)


def test_not_computed_zero_and_infinite_norms():
    made = watch()
    before = json.dumps(made.state()["mean"])
    assert one(made, [math.nan] * 4 + [0.0] * 4) == []
    (flag,) = one(made, [math.inf] + [math.nan] * 7)
    assert flag.score == SCORE_MAX
    assert flag.blocks == (0,)
    assert json.dumps(made.state()["mean"]) == before


def test_the_first_norms_may_be_a_tenth_nonsense():
    seen = usual()
    seen[:4, ::10] *= 1e8
    assert {flag.side for flag in one(watch(seen=seen), [60.0] * 8)} == {"above"}


def test_equal_norms_leave_room():
    made = watch(seen=np.ones((40, BATCH, BLOCKS)))
    assert one(made, [1.05] * 8, "predictable") == []
    assert one(made, [1.5] * 8, "predictable")


def test_the_statistics_are_those_of_the_norms():
    logs = np.random.default_rng(5).normal(2.0, 0.7, size=(400, 50, 3))
    running = RunningNorms(3, 64, 10**6)
    for part in logs:
        running.add(np.exp(part))
    state = running.state()
    assert np.allclose(state["mean"], 2.0, atol=0.02)
    assert np.allclose(np.sqrt(state["variance"]), 0.7, atol=0.02)


def test_what_is_old_fades():
    running = RunningNorms(1, 8, 64)
    for value in [1.0] * 400 + [math.e] * 400:
        running.add(np.array([[value]]))
    assert abs(running.state()["mean"][0] - 1) < 0.02


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(st.sampled_from([0.0, 1e-300, 0.5, 1.0, 3.0, 1e300, math.inf, math.nan]), min_size=2, max_size=2),
        min_size=1,
        max_size=60,
    )
)
def test_no_norms_break_the_statistics(rows):
    running = RunningNorms(2, 8, 16)
    for row in rows:
        norms = np.array([row])
        scores = running.score(norms)
        assert not np.isinf(scores).any()
        running.add(norms)
    state = json.loads(json.dumps(running.state(), allow_nan=False))
    again = RunningNorms(2, 8, 16)
    again.restore(state)
    assert again.state() == running.state()


@pytest.mark.parametrize("pause", [0, 2, 4, 20])
def test_a_resume_gives_the_same_flags_to_the_bit(pause):
    seen = usual(3)
    seen[::5, 3] *= 30
    seen[2::7, 5] /= 40
    straight, first, second = (Watch(SETTINGS, LAYOUT, POLICY.entropy_names) for _ in range(3))
    expected = [straight.observe(step, range(BATCH), ["dense"] * BATCH, norms) for step, norms in enumerate(seen)]
    found = []
    for step, norms in enumerate(seen):
        if step == pause:
            second.restore(json.loads(json.dumps(first.state(), allow_nan=False)))
        found.append((first if step < pause else second).observe(step, range(BATCH), ["dense"] * BATCH, norms))
    assert found == expected
    assert any(expected)
    assert second.state() == straight.state()


# ---- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("examples", "entropy", "norms", "said"),
    [
        ([1], ["ordinary"], np.ones((1, 7)), "shape"),
        ([1], ["ordinary"], np.ones(8), "shape"),
        ([1, 2], ["ordinary"], np.ones((2, 8)), "shape"),
        ([1], ["unheard-of"], np.ones((1, 8)), "no entropy band"),
        ([1], ["ordinary"], -np.ones((1, 8)), "negative"),
    ],
)
def test_a_batch_that_makes_no_sense(examples, entropy, norms, said):
    made = watch()
    before = made.state()
    with pytest.raises(MemorizationError, match=said) as caught:
        made.observe(50, examples, entropy, norms)
    assert caught.value.remedy
    assert made.state() == before


def test_a_step_that_was_seen_already():
    with pytest.raises(MemorizationError, match="Step 3 comes after step 39"):
        one(watch(), [1.0] * 8, step=3)


def _changed(state: dict, **changes: object) -> dict:
    return {**state, **changes}


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"step": "1"},
        {"mean": [0.0]},
        {"mean": [math.nan] * 8},
        {"mean": "12345678"},
        {"variance": [-1.0] * 8},
        {"weight": [1e9] * 8},
        {"waiting": [[]]},
        {"waiting": [[0.0] * 64] * 8},
        {"waiting": None},
    ],
)
def test_a_broken_state_is_refused_and_changes_nothing(change):
    made = watch()
    before = made.state()
    with pytest.raises(MemorizationError):
        made.restore(_changed(before, **change))
    assert made.state() == before


def test_no_state_at_all():
    for nothing in (None, [], {}, "state"):
        with pytest.raises(MemorizationError):
            watch(seen=np.ones((0, 1, 8))).restore(nothing)


def test_entropy_bands_of_one_name():
    with pytest.raises(MemorizationError):
        Watch(SETTINGS, LAYOUT, ("a", "a"))


# ---- responses ------------------------------------------------------------------------------------------------------

LEVELS = (15, 15, 12, 12, 7, 1, 15, 15)


def flag(response: str, *blocks: int, side: str = "above", score: float = 5.0) -> Flag:
    return Flag(1, "x", blocks, score, 4.0, response, side)  # type: ignore[arg-type]


def test_what_each_response_does():
    assert respond(flag("exclude", 2), LEVELS, LAYOUT) == (0,) * 8
    assert respond(flag("restrict", 2), LEVELS, LAYOUT) == (0, 0, 0, 0, 0, 0, 15, 15)
    assert respond(flag("restrict", 0), LEVELS, LAYOUT) == (0, 0, 12, 12, 7, 1, 15, 15)
    assert respond(flag("restrict", 7), LEVELS, LAYOUT) == (0,) * 8
    assert respond(flag("attenuate", 4, 5), LEVELS, LAYOUT) == (15, 15, 12, 12, 3, 0, 15, 15)
    assert respond(flag("record", 4), LEVELS, LAYOUT) == LEVELS
    unlearning = respond(flag("unlearn-once", 2, 3), LEVELS, LAYOUT)
    assert unlearning == (15, 15, -12, -12, 7, 1, 15, 15)
    assert settled(unlearning) == (15, 15, 0, 0, 7, 1, 15, 15)


def test_a_tied_block_counts_as_both_ends():
    assert respond(flag("restrict", 2), (15,) * 7, TIED) == (0, 0, 0, 0, 0, 0, 15)
    assert respond(flag("restrict", 0), (15,) * 7, TIED) == (0,) * 7


@given(
    st.lists(st.integers(-15, 15), min_size=8, max_size=8),
    st.sets(st.integers(0, 7), min_size=1),
    st.sampled_from(["exclude", "restrict", "attenuate", "unlearn-once", "record"]),
)
def test_no_response_lets_more_through(levels, blocks, response):
    after = respond(flag(response, *sorted(blocks)), levels, LAYOUT)
    assert all(new <= max(old, 0) and abs(new) <= abs(old) for old, new in zip(levels, after, strict=True))
    again = respond(flag(response, *sorted(blocks)), after, LAYOUT)
    assert all(new <= max(old, 0) and abs(new) <= abs(old) for old, new in zip(after, again, strict=True))


def test_levels_of_another_model():
    for levels in ((1,) * 7, (300,) * 8):
        with pytest.raises(MemorizationError):
            respond(flag("exclude", 0), levels, LAYOUT)
    with pytest.raises(MemorizationError):
        respond(flag("exclude", 8), LEVELS, LAYOUT)


# ---- the second look ------------------------------------------------------------------------------------------------


def test_a_second_look():
    nan = math.nan
    assert second_look(flag("exclude", 0, 1), np.array([nan] * 8)).score == 5
    assert second_look(flag("exclude", 0, 1), np.array([0.5, 0.1] + [nan] * 6)).score == pytest.approx(6.5)
    assert second_look(flag("exclude", 0, 1), np.array([-0.5, -0.1] + [nan] * 6)) is None
    collapsed = flag("exclude", 0, side="below")
    assert second_look(collapsed, np.array([-1.0] * 8)) is collapsed


class TwoBlocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.low, self.high = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x_BD: torch.Tensor) -> torch.Tensor:
        return self.high(torch.tanh(self.low(x_BD)))


@pytest.mark.parametrize("kind", ["adamw", "momentum"])
def test_alignment_with_the_running_update(kind):
    model = TwoBlocks()
    gate = Gate(model, {"low": ["low"], "high": ["high"]})
    made = {
        "adamw": lambda p: torch.optim.AdamW(p, lr=0.0, betas=(0.0, 0.9)),
        "momentum": lambda p: torch.optim.SGD(p, lr=0.0, momentum=0.9),
    }[kind](model.parameters())
    x_1D = torch.tensor([[1.0, -2.0, 0.5, 3.0]])

    def loss() -> torch.Tensor:
        return model(x_1D).pow(2).sum()

    assert np.isnan(alignments(model, loss, gate, made)).all()
    with gate(torch.tensor([[1.0, 0.0]])):
        loss().backward()
    made.step()
    made.zero_grad()
    along = alignments(model, loss, gate, made)
    against = alignments(model, lambda: -loss(), gate, made)
    assert along[0] == pytest.approx(1)
    assert against[0] == pytest.approx(-1)
    assert np.isnan(along[1])
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_loss_that_is_none():
    model = TwoBlocks()
    gate = Gate(model, {"low": ["low"], "high": ["high"]})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with gate(torch.ones(1, 2)):
        model(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    for wrong in (torch.tensor(1.0), model(torch.ones(2, 4))):
        with pytest.raises(MemorizationError):
            alignments(model, lambda wrong=wrong: wrong, gate, optimizer)


# ---- concentration --------------------------------------------------------------------------------------------------


def observed(*shares: float, key: str = "a", rule: Concentrated | None = None) -> Concentration:
    made = Concentration(rule or Concentrated(), LAYOUT)
    made.observe([key], np.full((1, 8), 15), np.array([shares]))
    return made


def test_a_middle_band_attestation_in_two_deep_blocks():
    made = observed(0, 0, 5, 4, 1, 1, 1, 1)
    (found,) = made.violations({"a": {"surface", "behavioral"}})
    assert found.blocks == (2, 3)
    assert found.share == pytest.approx(9 / 13)
    assert made.violations({"a": {"surface", "behavioral", "foundational"}}) == []


def test_only_those_that_are_asked_for():
    made = observed(0, 0, 5, 4, 1, 1, 1, 1)
    made.observe(["b", "c"], np.full((2, 8), 15), np.array([[0, 0, 9, 1, 0, 0, 0, 0], [0, 0, 1, 1, 1, 1, 1, 1]]))
    assert [found.attestation for found in made.violations({})] == ["a", "b"]
    assert [found.attestation for found in made.violations({}, among=["b", "c", "nobody"])] == ["b"]
    assert made.violations({}, among=[]) == []


def test_spread_exposure_and_exposure_at_the_surface_are_none():
    assert observed(0, 0, 2, 2, 2, 2, 2, 2).violations({}) == []
    assert observed(0, 0, 0, 0, 0, 1, 9, 9).violations({}) == []
    assert observed(0, 0, 0, 0, 0, 0, 0, 0).violations({}) == []


def test_what_is_not_known_to_be_permitted_is_not():
    assert observed(9, 0, 1, 1, 0, 0, 0, 0).violations({})[0].blocks == (0, 2)


def test_exposure_is_level_times_norm_and_skips_what_was_not_computed():
    made = Concentration(Concentrated(), LAYOUT)
    levels = [[0, 0, 15, -15, 3, 0, 0, 0]] * 2
    norms = [[np.nan, np.nan, 1.0, 2.0, 5.0, np.nan, np.nan, np.nan], [np.inf, 1, 1, 1, 5, 1, 1, 1]]
    made.observe(["a", "a"], levels, np.array(norms))
    assert made.state()["sums"] == [["a", [0, 0, 2, 3, 2, 0, 0, 0]]]


def test_so_few_deep_blocks_that_nothing_can_be_concentrated():
    rule = Concentrated(bands=("foundational",))
    assert observed(5, 5, 0, 0, 0, 0, 0, 0, rule=rule).violations({}) == []


def test_exposure_is_resumed():
    made = observed(0, 0, 5, 4, 1, 1, 1, 1)
    again = Concentration(Concentrated(), LAYOUT)
    again.restore(json.loads(json.dumps(made.state())))
    assert again.violations({}) == made.violations({})
    for broken in (None, {}, {"version": 1, "sums": [["a", [1.0]]]}, {"version": 1, "sums": [["a", [-1.0] * 8]]}):
        with pytest.raises(MemorizationError):
            again.restore(broken)
    with pytest.raises(MemorizationError):
        made.observe(["a"], [[1] * 7], np.ones((1, 8)))


def test_what_a_licence_leaves_open():
    def licence(kind: LicenceKind, bands: tuple[str, ...] = ()) -> Licence:
        return Licence(kind, "MIT", None, None, None, (), bands, Recall.VERBATIM, ())

    every = {"surface", "behavioral", "foundational"}
    assert permitted_bands(POLICY, licence(LicenceKind.OPEN), LAYOUT) == every
    assert permitted_bands(POLICY, licence(LicenceKind.OPEN, ("surface",)), LAYOUT) == {"surface"}
    assert permitted_bands(POLICY, licence(LicenceKind.USER_SUBMITTED), LAYOUT) == {"surface", "behavioral"}
    assert permitted_bands(POLICY, licence(LicenceKind.COMMERCIAL), LAYOUT) == frozenset()
    regulated = Policy.read_default("regulated")
    assert permitted_bands(regulated, licence(LicenceKind.TIME_LIMITED), LAYOUT) == {"surface"}
