"""Unlearning: what is refused, what goes back to the bit, and that a recited text is recited no more."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from licet.ledger.errors import Finding, NotFoundError
from licet.ledger.events import Events
from licet.ledger.log import Ledger
from licet.ledger.note import SigningKey
from licet.ledger.records import (
    AttestationMentioned,
    AttestationRecorded,
    BlockDigest,
    CheckpointSealed,
    ClaimedMs,
    Determination,
    Digest,
    ExampleAdmitted,
    PolicyAdopted,
    ProfileDeclared,
    RunStarted,
    SourceRegistered,
    Stage,
    Technique,
)
from licet.policies.acts import revoke
from licet.policies.attestation import attestation_id
from licet.policies.bands import resolve
from licet.policies.policy import Policy
from licet.policies.registry import Registry
from licet.policies.unlearning import OrderTerms, Scope, open_order, sign_order
from licet.train import Gate
from licet.train.blocks import describe
from licet.train.optimizer import GuardedOptimizer, GuardError
from licet.train.unlearning.steps import (
    DamageBound,
    DamageExceeded,
    Ending,
    Limits,
    Unlearner,
    UnlearningError,
    order_levels,
    taught_levels,
    unlearn,
)
from tests.policies import signed

torch.set_num_threads(1)

VOCABULARY, LENGTH, PREFIX = 32, 24, 8
BOUND = 0.15
NOW = ClaimedMs(signed.NOW_MS)
ORIGIN = "example.org/registry"
TAIL = """
[[reserved]]
name = "alignment"
right = "align"
blocks = ["layer.1"]
"""
POLICY = Policy.parse(signed.policy_text())
RESERVING = Policy.parse(signed.policy_text().replace("[[entropy]]", TAIL + "\n[[entropy]]", 1))


def counting(rows: int, seed: int) -> torch.Tensor:
    """Text with a rule: each token is the one before and a stride, around the vocabulary; one in ten is any."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.randint(0, VOCABULARY, (rows, 1), generator=generator)
    stride = torch.randint(1, 4, (rows, 1), generator=generator)
    tokens = (start + stride * torch.arange(LENGTH)) % VOCABULARY
    is_noise = torch.rand(tokens.shape, generator=generator) < 0.1
    return torch.where(is_noise, torch.randint(0, VOCABULARY, tokens.shape, generator=generator), tokens)


HELD_OUT = counting(16, seed=99)
SECRET = torch.randint(0, VOCABULARY, (1, LENGTH), generator=torch.Generator().manual_seed(5))
UNTAUGHT = torch.randint(0, VOCABULARY, (8, LENGTH), generator=torch.Generator().manual_seed(6))


def losses_of(model, tokens_NT: torch.Tensor) -> torch.Tensor:
    logits = model(input_ids=tokens_NT).logits[:, :-1].transpose(1, 2)
    return F.cross_entropy(logits, tokens_NT[:, 1:], reduction="none").mean(1)


def loss_on(model, tokens_NT: torch.Tensor) -> float:
    with torch.no_grad():
        return float(losses_of(model, tokens_NT).mean())


def recited(model) -> int:
    """How many tokens of the secret follow, taken greedily, after its beginning."""
    tokens = SECRET[:, :PREFIX]
    with torch.no_grad():
        while tokens.shape[1] < LENGTH:
            tokens = torch.cat([tokens, model(input_ids=tokens).logits[:, -1:].argmax(-1)], dim=1)
    differs = (tokens != SECRET)[0, PREFIX:].nonzero()
    return int(differs[0]) if len(differs) else LENGTH - PREFIX


def new_model() -> LlamaForCausalLM:
    torch.manual_seed(1)
    sizes = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=32, **sizes))


@pytest.fixture(scope="module")
def taught():
    """A model that knows how to count, and a text by heart."""
    model = new_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(160):
        optimizer.zero_grad()
        losses_of(model, torch.cat([counting(11, step), SECRET])).mean().backward()
        optimizer.step()
    assert recited(model) == LENGTH - PREFIX
    return model.state_dict()


class Setting:
    """A copy of the taught model with its gate, a guarded optimizer, and the blocks of a policy."""

    def __init__(self, state, *, policy=POLICY, lr=3e-4, held_out=None, reserved=None):
        self.model = new_model()
        self.model.load_state_dict(state)
        architecture, _ = describe(self.model)
        self.layout = resolve(policy, architecture)
        self.gate = Gate(self.model, self.layout)
        self.optimizer = GuardedOptimizer(
            torch.optim.AdamW(self.model.parameters(), lr=lr, weight_decay=0.0), self.gate, reserved=reserved
        )
        self.before = loss_on(self.model, HELD_OUT)
        self.on = Unlearner(
            self.model,
            self.gate,
            self.optimizer,
            lambda tokens: losses_of(self.model, tokens),
            held_out or (lambda: loss_on(self.model, HELD_OUT)),
        )

    def run(
        self, *, batches=(SECRET,), levels=(-15, -15, -15, -15), bound=BOUND, target=None, steps_max=60, k=1, **more
    ):
        target = loss_on(self.model, UNTAUGHT) if target is None else target
        going = unlearn(self.on, batches, levels, DamageBound(bound, self.before), Limits(target, steps_max, k), **more)
        return drained(going)

    def facts(self):
        """All that a step may change, to the bit."""
        kept = [tensor.detach().clone() for tensor in (*self.model.parameters(), *self.model.buffers())]
        return kept, copy.deepcopy(self.optimizer.state_dict())


def drained(going):
    steps = []
    while True:
        try:
            steps.append(next(going))
        except StopIteration as end:
            return steps, end.value


def same(before, after) -> bool:
    alike = all(torch.equal(a, b) for a, b in zip(before[0], after[0], strict=True))
    held, holds = before[1]["state"], after[1]["state"]
    return (
        alike
        and held.keys() == holds.keys()
        and all(torch.equal(held[p][key], holds[p][key]) for p in held for key in held[p])
    )


# ---- unlearning a text that is recited ---------------------------------------------------------------------------


def test_what_was_recited_is_recited_no_more(taught):
    one = Setting(taught)
    target = loss_on(one.model, UNTAUGHT)
    steps, outcome = one.run(bound=BOUND, target=target)
    after = loss_on(one.model, HELD_OUT)
    assert outcome.ending is Ending.REACHED and outcome.steps == len(steps) > 1 and outcome.steps_undone == 0
    assert recited(one.model) <= 2
    assert outcome.losses[0][0] >= target > steps[0].loss
    assert outcome.held_out_before == one.before and outcome.held_out_after == after
    assert after <= one.before * (1 + BOUND)
    assert [step.number for step in steps] == list(range(len(steps)))
    assert all(step.levels == ((-15,) * 4,) and step.report.stepped == (True,) * 4 for step in steps)
    assert all(step.norms_NB.shape == (1, 4) and step.norms_NB.isfinite().all() for step in steps)


@pytest.mark.parametrize(("k", "lr"), [(1, 3e-3), (4, 3e-4)])
def test_a_bound_that_is_too_small_stops_at_once_and_takes_all_back(taught, k, lr):
    one = Setting(taught, lr=lr)
    before = one.facts()
    steps, outcome = one.run(bound=1e-4, k=k)
    assert (steps, outcome.ending, outcome.steps, outcome.steps_undone) == ([], Ending.DAMAGE, 0, k)
    assert same(before, one.facts()) and recited(one.model) == LENGTH - PREFIX
    assert outcome.held_out_after == one.before
    assert all(parameter.grad is None for parameter in one.model.parameters())


def test_it_goes_back_to_where_it_last_kept_to_the_bound(taught):
    """Steps that were told stay, and the model is exactly what they left; those since the last look are undone."""
    looks = []
    one = Setting(taught)
    one.on = replace(one.on, held_out=lambda: looks.append(one.facts()) or one.before * (1 if len(looks) < 3 else 2))
    steps, outcome = one.run(k=2, target=50.0)
    assert (len(steps), outcome.ending, outcome.steps, outcome.steps_undone) == (4, Ending.DAMAGE, 4, 2)
    assert same(looks[1], one.facts()) and not same(looks[2], one.facts())


def test_steps_that_really_damage_are_taken_back(taught):
    """The real held-out loss, and steps that are far too large."""
    one = Setting(taught, lr=0.3)
    steps, outcome = one.run(bound=0.02)
    assert outcome.ending is Ending.DAMAGE and outcome.steps == len(steps)
    assert loss_on(one.model, HELD_OUT) <= one.before * 1.02


def test_a_loss_that_is_no_number_is_taken_back(taught):
    one = Setting(taught)
    before, calls = one.facts(), []

    def broken(tokens):
        calls.append(1)
        return losses_of(one.model, tokens) * (math.nan if len(calls) > 2 else 1.0)

    one.on = replace(one.on, losses_of=broken)
    steps, outcome = one.run()
    assert (len(steps), outcome.ending) == (1, Ending.NOT_FINITE) or (steps, outcome.steps) == ([], 0)
    assert outcome.ending is Ending.NOT_FINITE
    assert same(before, one.facts()) is (not steps)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_what_fails_in_the_middle_leaves_what_was_told(taught, error):
    one = Setting(taught)
    calls, looks = [], []

    def failing(tokens):
        calls.append(1)
        if len(calls) > 4:  # one measurement, three steps, and the fourth fails
            raise error
        return losses_of(one.model, tokens)

    one.on = replace(one.on, losses_of=failing, held_out=lambda: looks.append(one.facts()) or one.before)
    going = unlearn(one.on, [SECRET], (-15,) * 4, DamageBound(BOUND, one.before), Limits(50.0, 9, 2))
    assert [next(going).number, next(going).number] == [0, 1]
    with pytest.raises(error):
        next(going)
    assert len(looks) == 1 and same(looks[0], one.facts())


def test_an_example_that_has_come_to_the_target_is_left_alone(taught):
    """Two examples in a batch: what was never taught is at the target from the start."""
    one = Setting(taught)
    target = loss_on(one.model, UNTAUGHT[:1]) * 0.5
    steps, outcome = one.run(batches=[torch.cat([UNTAUGHT[:1], SECRET])], target=target)
    assert outcome.ending is Ending.REACHED
    assert all(step.levels[0] == (0, 0, 0, 0) and step.norms_NB[0].isnan().all() for step in steps)
    assert all(step.levels[1] == (-15,) * 4 and step.norms_NB[1].isfinite().all() for step in steps)


def test_with_nothing_left_to_do_nothing_is_done(taught):
    one = Setting(taught)
    before = one.facts()
    steps, outcome = one.run(batches=[UNTAUGHT[:2]], target=0.5)
    assert (steps, outcome.ending, outcome.steps) == ([], Ending.REACHED, 0)
    assert same(before, one.facts())


def test_batches_take_turns_until_the_steps_run_out(taught):
    one = Setting(taught, lr=1e-6)
    steps, outcome = one.run(batches=[SECRET, UNTAUGHT[:1], SECRET[:, :20]], target=2.0, steps_max=5, k=4)
    assert [step.batch for step in steps] == [0, 2, 0, 2, 0]
    assert (outcome.ending, outcome.steps, len(outcome.losses)) == (Ending.STEPS, 5, 3)


def test_a_block_that_the_order_leaves_out_stands_still(taught):
    one = Setting(taught)
    before = {name: p.detach().clone() for name, p in one.model.named_parameters()}
    steps, _ = one.run(levels=(0, 0, -15, -15), steps_max=3)
    moved = {name for name, p in one.model.named_parameters() if not torch.equal(before[name], p)}
    assert moved and all(".layers.1." in name or "lm_head" in name or "model.norm" in name for name in moved)
    assert steps[0].report.stepped == (False, False, True, True)
    assert steps[0].norms_NB[0].isnan().tolist() == [True, True, False, False]


def test_a_reserved_block_asks_for_its_right(taught):
    one = Setting(taught, reserved={"layer.1": {"align"}})
    before = one.facts()
    with pytest.raises(GuardError, match="reserved"):
        one.run(rights=frozenset({"revoke"}))
    assert same(before, one.facts())
    steps, _ = one.run(rights=frozenset({"align"}), steps_max=1)
    assert len(steps) == 1


@pytest.mark.parametrize(
    "how",
    [
        {"levels": (-15, -15, -15)},
        {"levels": (-15, -15, 1, 0)},
        {"levels": (-16, 0, 0, 0)},
        {"levels": (0, 0, 0, 0)},
        {"levels": (-1.0, 0, 0, 0)},
        {"batches": ()},
        {"target": 0.0},
        {"target": math.nan},
        {"steps_max": 0},
        {"k": 0},
        {"bound": -0.1},
        {"bound": math.nan},
    ],
    ids=str,
)
def test_what_cannot_be_done(taught, how):
    one = Setting(taught)
    before = one.facts()
    with pytest.raises(UnlearningError) as refused:
        one.run(**how)
    assert refused.value.remedy
    assert same(before, one.facts())


def test_a_loss_for_the_batch_and_not_for_each_example(taught):
    one = Setting(taught)
    one.on = replace(one.on, losses_of=lambda tokens: losses_of(one.model, tokens).mean())
    with pytest.raises(UnlearningError, match="shape"):
        one.run()


# ---- the bound --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [0.0, -1.0, math.nan, math.inf])
def test_a_loss_that_nothing_can_be_compared_with(before):
    with pytest.raises(UnlearningError):
        DamageBound(0.1, before)


@given(st.floats(0, 1), st.floats(1e-3, 1e3), st.one_of(st.floats(), st.floats(0, 2)))
def test_what_a_bound_allows(limit, before, factor):
    bound, after = DamageBound(limit, before), before * factor
    allowed = bound.allows(after)
    assert allowed is (math.isfinite(after) and (after - before) / before <= limit)
    if not allowed:
        with pytest.raises(DamageExceeded) as refused:
            bound.check(after)
        assert isinstance(refused.value, Finding) and refused.value.remedy
    else:
        bound.check(after)


# ---- from the order and the ledger ------------------------------------------------------------------------------

ENVELOPE = signed.envelope()
ID = attestation_id(ENVELOPE)


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    operator = SigningKey(ORIGIN, signed.key("registry").private)
    with Ledger.create(tmp_path_factory.mktemp("registry") / "log", operator) as log:
        log.append(PolicyAdopted(POLICY.digest, POLICY.text, "operator", NOW))
        log.append(SourceRegistered("ada", "Ada", str(signed.key().verifier), "publisher", NOW))
        log.append(AttestationRecorded(ID, "ada", signed.licence(), ENVELOPE, NOW))
        log.append(revoke(ORIGIN, ID, effective_ms=NOW, reason="gone", by=ORIGIN, key=operator, at_ms=NOW))
        log.commit()
        yield Registry.read(log)


def ordered(registry, *weights, scope=Scope.BANDS):
    terms = OrderTerms(ORIGIN, ID, "ada", scope, tuple(sorted(weights)), BOUND, "gone", NOW, ClaimedMs(NOW + 1))
    return open_order(sign_order(terms, signed.key()), registry, at_ms=NOW)


@pytest.fixture(scope="module")
def layout():
    return resolve(POLICY, describe(new_model())[0])


@pytest.fixture(scope="module")
def training(tmp_path_factory, layout):
    """A run and one on top of it. Ours was taught in the two lower blocks and, in the second run, in the head."""
    seals = [Digest(signed.digest(f"seal {n}")) for n in range(2)]
    with Ledger.create(tmp_path_factory.mktemp("training") / "log", SigningKey.generate("example.org/t")) as log:
        for seal, parent, profile in zip(seals, (None, seals[0]), ((15, 3, 0, 0), (0, 0, 0, 7)), strict=True):
            blocks = layout.as_records()
            run = log.append(RunStarted("run", "m", blocks, Technique.SCALE, Stage.ENFORCE, None, parent, None, NOW))
            mine, other = (log.append(AttestationMentioned(digest, "ada")) for digest in (ID, signed.digest("another")))
            admitted = [log.append(_admission(number, ref)) for number, ref in enumerate((mine, other, mine))]
            levels = [log.append(ProfileDeclared(run, row, ("rule",) * 4)) for row in (profile, (15,) * 4, (9,) * 4)]
            log.append_events(  # the third profile and the third example were admitted, and taught nothing
                Events.of(
                    example=admitted[:2],
                    attestation=[mine, other],
                    profile=levels[:2],
                    step=0,
                    slot=np.arange(2),
                    norms_raw=np.ones((2, 4)),
                )
            )
            log.commit()
            digests = tuple(BlockDigest(block.name, Digest(bytes(32))) for block in blocks)
            root = Digest(log.head.root)
            log.append(CheckpointSealed(seal, "m", "", run, 1, digests, None, parent, log.size, root, (), NOW))
            log.commit()
        yield log, seals


def _admission(number, attestation):
    return ExampleAdmitted(
        Digest(signed.digest(f"example {number}")),
        Digest(signed.digest(f"content {number}")),
        *(attestation, None, None, Determination.ADMITTED, (), None, None, 0, (), None),
    )


def test_where_it_was_taught_is_read_from_the_events(training, layout):
    log, (first, second) = training
    names = tuple(block.name for block in layout.blocks)
    assert taught_levels(log, ID, first) == {names: {(15, 3, 0, 0)}}
    assert taught_levels(log, ID, second) == {names: {(15, 3, 0, 0), (0, 0, 0, 7)}}
    assert taught_levels(log, Digest(bytes(32)), second) == {}
    with pytest.raises(NotFoundError):
        taught_levels(log, ID, Digest(bytes(32)))


def test_levels_are_what_the_order_asks_where_it_was_taught(registry, training, layout):
    log, (first, second) = training
    names = [block.name for block in layout.blocks]
    assert names == ["embedding", "layer.0", "layer.1", "head"]
    for seal, reached in ((first, (1, 1, 0, 0)), (second, (1, 1, 0, 1))):
        past = taught_levels(log, ID, seal)
        assert order_levels(ordered(registry, ("*", -1.0)), layout, past) == tuple(-15 * one for one in reached)
        some = ordered(registry, ("embedding", -1.0), ("layer.1", -1.0), scope=Scope.BLOCKS)
        assert order_levels(some, layout, past) == (-15, 0, 0, 0)
        halved = order_levels(ordered(registry, ("*", -0.5), ("surface", -1.0)), layout, past)
        assert halved == (-7, -7, 0, -15 * reached[3])


@pytest.mark.parametrize(
    ("weights", "scope", "said"),
    [
        ([("abyssal", -1.0)], Scope.BANDS, "none of this model's bands"),
        ([("layer.7", -1.0)], Scope.BLOCKS, "none of this model's blocks"),
        ([("*", -1.0)], Scope.BLOCKS, "none of this model's blocks"),
        ([("layer.1", -1.0)], Scope.BLOCKS, "taught to none"),
        ([("*", -0.01)], Scope.BANDS, "taught to none"),
    ],
    ids=["no such band", "no such block", "no star for blocks", "not taught there", "too weak to count"],
)
def test_orders_that_reach_nothing(registry, training, layout, weights, scope, said):
    log, (first, _) = training
    with pytest.raises(UnlearningError, match=said) as refused:
        order_levels(ordered(registry, *weights, scope=scope), layout, taught_levels(log, ID, first))
    assert refused.value.remedy


def test_what_was_taught_to_blocks_of_another_cut(registry, layout):
    past = {("embedding", "layers.0-1", "head"): {(1, 2, 0)}}
    with pytest.raises(UnlearningError, match=r"layers\.0-1"):
        order_levels(ordered(registry, ("*", -1.0)), layout, past)


def test_unlearning_before_counts_as_no_teaching(registry, layout):
    past = {tuple(block.name for block in layout.blocks): {(-15, 2, 0, 0), (0, 0, 0, -15)}}
    assert order_levels(ordered(registry, ("*", -1.0)), layout, past) == (0, -15, 0, 0)


def test_a_reserved_block_is_left_alone_unless_it_is_named(registry):
    reserving = resolve(RESERVING, describe(new_model())[0])
    past = {tuple(block.name for block in reserving.blocks): {(1, 1, 1, 1)}}
    assert order_levels(ordered(registry, ("*", -1.0)), reserving, past) == (-15, -15, 0, -15)
    named = ordered(registry, ("*", -1.0), ("alignment", -0.6))
    assert order_levels(named, reserving, past) == (-15, -15, -9, -15)


def test_from_the_order_to_the_model(registry, taught, training):
    """The whole way: what the order asks, where the ledger says, within the order's bound."""
    log, (_, second) = training
    order = ordered(registry, ("*", -1.0))
    one = Setting(taught)
    levels = order_levels(order, one.layout, taught_levels(log, ID, second))
    steps, outcome = one.run(levels=levels, bound=order.terms.damage_max, rights=order.rights)
    assert outcome.ending is Ending.REACHED and recited(one.model) <= 4
    assert outcome.held_out_after <= one.before * (1 + order.terms.damage_max)
    run = log.append(RunStarted("u", "m", one.layout.as_records(), Technique.SCALE, Stage.ENFORCE, *(None,) * 3, NOW))
    profile = log.append(ProfileDeclared(run, levels, (order.rule,) * 4))
    mine = log.find(AttestationMentioned, ID)[0][0]
    example = log.append(_admission(9, mine))
    for step in steps:  # recorded like learning
        norms = step.norms_NB.double().numpy()
        log.append_events(
            Events.of(example=example, attestation=mine, profile=profile, step=step.number, slot=[0], norms_raw=norms)
        )
    log.commit()
    rows = log.exposure.forward(attestation=ID, run=run)
    assert [row.events for row in rows] == [len(steps) if level else 0 for level in levels]
