"""The guard: blocks without gradients stand still to the bit, and what must not be written is refused before it is."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from types import SimpleNamespace

import pytest
import torch
from torch import distributed as dist
from torch import nn

from licet.ledger.errors import ConfigError
from licet.policies.bands import Architecture, resolve
from licet.policies.policy import Policy
from licet.train.optimizer import GuardedOptimizer, GuardError
from licet.train.rights import batch_rights, reserved_rights

torch.set_num_threads(1)


class Gate:
    """Blocks of a model, and a list of the parameters whose gradient did not come through."""

    def __init__(self, model: nn.Module) -> None:
        self._members = {name: list(child.parameters()) for name, child in model.named_children()}
        self.strangers: list[nn.Parameter] = []

    @property
    def block_names(self) -> Sequence[str]:
        return tuple(self._members)

    def block_of(self, parameter: torch.Tensor) -> int:
        for i, members in enumerate(self._members.values()):
            if any(parameter is member for member in members):
                return i
        raise ConfigError("This parameter is not one of the gate's.")

    def came_through(self, parameter: nn.Parameter) -> bool:
        return all(parameter is not stranger for stranger in self.strangers)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.low, self.middle, self.high = (nn.Linear(5, 5) for _ in range(3))


OPTIMIZERS = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.3),
    "adamw-for-loop": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.3, foreach=False),
    "adamw-fused": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.3, fused=True),
    "amsgrad": lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.3, amsgrad=True),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "sgd-momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.2, nesterov=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1, lr_decay=0.1, weight_decay=0.2),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.1, momentum=0.5, weight_decay=0.2, centered=True),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.1),
    "adafactor": lambda p: torch.optim.Adafactor(p, lr=0.1),
}


def teach(model: nn.Module, *blocks: str, seed: int = 0, size: float = 1.0) -> None:
    """Gradients in some blocks and None in the others, as a gate leaves them."""
    generator = torch.Generator().manual_seed(seed)
    for name, child in model.named_children():
        for parameter in child.parameters():
            drawn = (torch.randn(parameter.shape, generator=generator) * size).to(parameter.dtype)
            parameter.grad = drawn if name in blocks else None


def facts(module: nn.Module, optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """Parameters and the optimizer's state of a block, as they stand."""
    found = [p.detach().clone() for p in module.parameters()]
    for parameter in module.parameters():
        kept = optimizer.state.get(parameter, {})
        found += [torch.as_tensor(kept[key]).clone() for key in sorted(kept)]
    return found


def same(before: list[torch.Tensor], after: list[torch.Tensor]) -> bool:
    return len(before) == len(after) and all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def guarded(name: str = "adamw", **options) -> tuple[Model, Gate, GuardedOptimizer]:
    model = Model()
    gate = Gate(model)
    return model, gate, GuardedOptimizer(OPTIMIZERS[name](model.parameters()), gate, model=model, **options)


# ---- standing still ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_block_nobody_was_admitted_to_stands_still_to_the_bit(name):
    model, _, optimizer = guarded(name)
    for step in range(3):  # so that there is momentum to go on with
        teach(model, "low", "middle", "high", seed=step)
        optimizer.step()
    before = {block: facts(child, optimizer) for block, child in model.named_children()}
    for step in range(2):
        teach(model, "low", "high", seed=10 + step)
        report = optimizer.step()
    assert same(before["middle"], facts(model.middle, optimizer))
    assert not same(before["low"], facts(model.low, optimizer))
    assert report.stepped == (True, False, True)
    assert report.delta_norms[1] == 0 == report.gradient_norms[1]


@pytest.mark.parametrize("name", ["adamw", "sgd-momentum"])
def test_a_gradient_of_zeros_would_not_stand_still(name):
    """Why the guard exists: the same step with zeros instead of None."""
    model, _, optimizer = guarded(name)
    teach(model, "low", "middle", "high")
    optimizer.step()
    before = facts(model.middle, optimizer)
    teach(model, "middle", size=0.0)
    optimizer.step()
    assert not same(before, facts(model.middle, optimizer))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_block_by_block_is_the_plain_step_to_the_bit(name):
    model, _, optimizer = guarded(name)
    plain_model = Model()
    plain = OPTIMIZERS[name](plain_model.parameters())
    for step in range(4):
        blocks = ("low", "middle", "high")[: 1 + step % 3]
        teach(model, *blocks, seed=step)
        teach(plain_model, *blocks, seed=step)
        optimizer.step()
        plain.step()
    assert same(facts(model, optimizer), facts(plain_model, plain))


def test_a_blocks_own_step_counter_waits_for_it():
    model, _, optimizer = guarded()
    for blocks in (("low", "middle"), ("low",), ("low",)):
        teach(model, *blocks)
        optimizer.step()
    assert optimizer.state[model.low.weight]["step"] == 3
    assert optimizer.state[model.middle.weight]["step"] == 1
    assert model.high.weight not in optimizer.state


def test_a_step_nobody_was_admitted_to_changes_nothing():
    model, _, optimizer = guarded()
    before = facts(model, optimizer)
    report = optimizer.step()
    assert report.stepped == (False, False, False)
    assert same(before, facts(model, optimizer))


def test_an_unused_parameter_of_an_admitted_block_is_passed_over():
    model, _, optimizer = guarded()
    teach(model, "low")
    model.low.bias.grad = None
    bias = model.low.bias.detach().clone()
    assert optimizer.step().stepped[0]
    assert torch.equal(bias, model.low.bias)


# ---- refusals: nothing may have moved ---------------------------------------------------------------------------


def refused(model: Model, optimizer: GuardedOptimizer, match: str, **how) -> None:
    before = facts(model, optimizer)
    grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    with pytest.raises(GuardError, match=match):
        optimizer.step(**how)
    assert same(before, facts(model, optimizer))
    for grad, parameter in zip(grads, model.parameters(), strict=True):
        assert (grad is None) == (parameter.grad is None)
        assert grad is None or torch.equal(grad.nan_to_num(), parameter.grad.nan_to_num())


def test_a_gradient_that_did_not_come_through_the_gate_is_refused_by_name():
    model, gate, optimizer = guarded()
    teach(model, "low", "middle")
    gate.strangers.append(model.middle.bias)
    refused(model, optimizer, r"middle\.bias did not come through")


RESERVED = {"middle": {"align"}}


@pytest.mark.parametrize(
    ("authorities", "match"),
    [
        (None, r"middle\.weight lies in the reserved block middle.*align"),
        ({"low": set(), "middle": set()}, "reserved block middle"),
        ({"low": {"align"}, "middle": {"review", "revoke"}}, "reserved block middle"),
        ({"low": {"align"}}, r"middle\.weight has a gradient.*admitted to the block middle"),
        ({"low": (), "middle": {"align"}, "nose": ()}, "no block nose"),
    ],
    ids=["not said", "no right", "another right", "not admitted", "unknown block"],
)
def test_writing_to_a_reserved_block_without_authority_is_refused(authorities, match):
    model, _, optimizer = guarded(reserved=RESERVED)
    teach(model, "low", "middle")
    refused(model, optimizer, match, authorities=authorities)


def test_authority_opens_a_reserved_block_and_others_need_none():
    model, _, optimizer = guarded(reserved=RESERVED)
    teach(model, "low", "middle")
    assert optimizer.step(authorities={"low": (), "middle": {"align"}}).stepped == (True, True, False)
    teach(model, "low", "high")
    assert optimizer.step().stepped == (True, False, True)


def test_a_fine_tune_over_alignment_blocks_is_stopped_at_the_optimizer():
    """From the policy's reserved bands to the refusal, with one example of two that has the right."""
    policy = next(p for p in map(Policy.read_default, Policy.defaults()) if p.document.reserved)
    layout = resolve(policy, Architecture.uniform(8, embedding=10, layer=10, head=10))
    reserved = reserved_rights([policy], [layout])
    assert reserved
    blocks = [block.name for block in layout.blocks]
    assert set(reserved) == {b for i, b in enumerate(blocks) if layout.reserved[i]}
    model = nn.ModuleDict({name.replace(".", "_"): nn.Linear(2, 2) for name in blocks})
    gate = Gate(model)
    optimizer = GuardedOptimizer(
        torch.optim.AdamW(model.parameters()), gate, reserved={b.replace(".", "_"): r for b, r in reserved.items()}
    )
    teach(model, *gate.block_names)
    weights = [[1.0] * len(blocks)] * 2
    with pytest.raises(GuardError, match="reserved block"):
        optimizer.step(authorities=batch_rights(gate.block_names, weights, [{"align"}, set()]))
    assert all(optimizer.step(authorities=batch_rights(gate.block_names, weights, [{"align"}] * 2)).stepped)


def test_the_rights_of_a_batch_are_those_that_all_its_examples_have():
    found = batch_rights(
        ("a", "b", "c"), [[1, 0, 0], [0.5, -1.0, 0]], [{"align", "review"}, {"align"}]
    )  # unlearning writes, too
    assert found == {"a": {"align"}, "b": {"align"}}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
class TestNotFinite:
    def broken(self, value: float, **options):
        model, _, optimizer = guarded(**options)
        teach(model, "low", "middle", "high")
        optimizer.step()
        teach(model, "low", "middle", "high", seed=1)
        model.middle.weight.grad[1, 1] = value
        return model, optimizer, {block: facts(child, optimizer) for block, child in model.named_children()}

    def test_leaves_out_its_block(self, value):
        model, optimizer, before = self.broken(value)
        report = optimizer.step()
        assert report.not_finite == ("middle",)
        assert report.stepped == (True, False, True)
        assert same(before["middle"], facts(model.middle, optimizer))
        assert all(torch.isfinite(p).all() for p in model.parameters())
        assert report.delta_norms[1] == 0 < report.delta_norms[0]

    def test_leaves_out_the_step(self, value):
        model, optimizer, before = self.broken(value, not_finite="skip-step")
        report = optimizer.step()
        assert report.stepped == (False, False, False)
        assert report.not_finite == ("middle",)
        assert all(same(before[block], facts(child, optimizer)) for block, child in model.named_children())

    def test_is_refused(self, value):
        model, optimizer, _ = self.broken(value, not_finite="refuse")
        refused(model, optimizer, "block middle is not finite")

    def test_is_never_multiplied(self, value):
        model, optimizer, before = self.broken(value, clip_norm=1e-3)
        optimizer.step()
        assert same(before["middle"], facts(model.middle, optimizer))


def test_a_closure_is_refused():
    model, _, optimizer = guarded()
    teach(model, "low")
    refused(model, optimizer, "closure", closure=lambda: None)


def test_a_sparse_gradient_is_refused():
    model = nn.ModuleDict({"low": nn.Embedding(4, 2, sparse=True)})
    optimizer = GuardedOptimizer(torch.optim.SparseAdam(model.parameters()), Gate(model), model=model)
    model["low"](torch.tensor([1, 1])).sum().backward()
    with pytest.raises(GuardError, match=r"low\.weight is sparse"):
        optimizer.step()


def test_a_parameter_in_no_block_is_refused_before_the_first_step():
    model = Model()
    gate = Gate(model)
    model.extra = nn.Linear(2, 2)
    with pytest.raises(GuardError, match=r"extra\.weight"):
        GuardedOptimizer(torch.optim.SGD(model.named_parameters(), lr=1), gate)
    optimizer = GuardedOptimizer(torch.optim.SGD(model.low.parameters(), lr=1), gate)
    with pytest.raises(GuardError, match="in no block"):
        optimizer.add_param_group({"params": model.extra.weight})
    optimizer.add_param_group({"params": model.high.parameters(), "lr": 0.5})
    with pytest.raises(ValueError, match="more than one parameter group"):
        optimizer.add_param_group({"params": model.high.parameters()})
    teach(model, "high")
    report = optimizer.step()
    assert report.stepped == (False, False, True)
    assert report.gradient_norms[2] == pytest.approx(
        torch.cat([p.grad.flatten() for p in model.high.parameters()]).norm().item()
    )


@pytest.mark.parametrize("wrapped", ["lbfgs", "guard"])
def test_what_cannot_be_guarded_is_refused(wrapped):
    model, gate, optimizer = guarded()
    inner = torch.optim.LBFGS(model.parameters()) if wrapped == "lbfgs" else optimizer
    with pytest.raises(GuardError, match="cannot be guarded"):
        GuardedOptimizer(inner, gate)


@pytest.mark.parametrize(
    "options",
    [{"clip_norm": 0.0}, {"clip_norm": math.nan}, {"clip_norm": {"nose": 1.0}}, {"reserved": {"nose": {"align"}}}],
    ids=str,
)
def test_settings_that_mean_nothing_are_refused(options):
    with pytest.raises(GuardError):
        guarded(**options)


def test_gradients_of_zero_are_refused():
    with pytest.raises(GuardError, match="momentum"):
        guarded()[2].zero_grad(set_to_none=False)


class Counting(torch.optim.SGD):
    """Keeps one counter for all parameters together, as schedule-free optimizers do."""

    def step(self, closure=None):
        super().step(closure)
        self.param_groups[0]["k"] = self.param_groups[0].get("k", 0) + 1


class Careless(torch.optim.SGD):
    """Decays what has no gradient."""

    def step(self, closure=None):
        super().step(closure)
        with torch.no_grad():
            for parameter in self.param_groups[0]["params"]:
                parameter.mul_(0.99)


@pytest.mark.parametrize(
    ("kind", "match"), [(Counting, "'k' for all parameters"), (Careless, r"changed high\.weight, which had no grad")]
)
def test_an_optimizer_that_does_not_keep_to_its_block_is_found_out(kind, match):
    model = Model()
    optimizer = GuardedOptimizer(kind(model.parameters(), lr=0.1), Gate(model), model=model)
    teach(model, "low", "middle")
    with pytest.raises(GuardError, match=match):
        optimizer.step()


# ---- clipping, deltas, and being an optimizer -------------------------------------------------------------------


def test_clipping_one_block_does_not_rescale_another():
    alone, _, _ = guarded("sgd")
    results = []
    for size in (1.0, 1000.0):
        model, _, optimizer = guarded("sgd", clip_norm=0.5)
        teach(model, "low")
        with torch.no_grad():
            for parameter in model.high.parameters():
                parameter.grad = torch.full_like(parameter, size)
        report = optimizer.step()
        assert report.clip_factors[2] == pytest.approx(0.5 / (size * math.sqrt(30)))
        assert report.delta_norms[0] == pytest.approx(0.1 * 0.5)
        results.append((report.clip_factors[0], facts(model.low, optimizer)))
    assert results[0][0] == results[1][0]
    assert same(results[0][1], results[1][1])
    assert not same(facts(alone.low, optimizer), results[0][1])


def test_a_bound_may_be_given_for_some_blocks_only():
    model, _, optimizer = guarded("sgd", clip_norm={"high": 1e-3})
    teach(model, "low", "high")
    report = optimizer.step()
    assert report.clip_factors[:2] == (1.0, 1.0)
    assert 0 < report.clip_factors[2] < 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_deltas_are_what_the_parameters_moved_by(dtype):
    model = Model().to(dtype)
    optimizer = GuardedOptimizer(torch.optim.AdamW(model.parameters(), lr=0.1), Gate(model))
    before = copy.deepcopy(model)
    teach(model, "low", "high")
    report = optimizer.step()
    for i, block in enumerate(("low", "middle", "high")):
        old, new = (
            torch.cat([p.detach().double().flatten() for p in getattr(m, block).parameters()]) for m in (before, model)
        )
        assert report.delta_norms[i] == pytest.approx((new - old).norm().item(), rel=1e-5)
        grads = [p.grad.double().flatten() for p in getattr(model, block).parameters() if p.grad is not None]
        assert report.gradient_norms[i] == pytest.approx(torch.cat(grads).norm().item() if grads else 0, rel=1e-5)


def test_gradients_are_there_after_the_step_as_with_any_optimizer():
    model, _, optimizer = guarded()
    teach(model, "low")
    optimizer.step()
    assert model.low.weight.grad is not None
    optimizer.zero_grad()
    assert all(p.grad is None for p in model.parameters())


def test_gradients_are_put_back_when_the_optimizer_fails(monkeypatch):
    model, _, optimizer = guarded()
    teach(model, "low", "high")
    monkeypatch.setattr(optimizer.inner, "step", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        optimizer.step()
    assert model.low.weight.grad is not None
    assert model.high.bias.grad is not None


@pytest.mark.filterwarnings("error")
def test_schedulers_take_it_for_an_optimizer():
    model, _, optimizer = guarded("sgd")
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    rates = []
    for _ in range(3):
        teach(model, "low")
        rates.append(optimizer.param_groups[0]["lr"])
        assert optimizer.step().stepped[0]
        schedule.step()
    assert rates == [0.1, 0.05, 0.025]
    assert optimizer.inner.param_groups[0]["lr"] == 0.0125


@pytest.mark.parametrize("name", ["adamw", "sgd-momentum", "rmsprop"])
def test_state_survives_a_round_trip(name):
    model, _, optimizer = guarded(name)
    teach(model, "low", "middle")
    optimizer.step()
    other_model, _, other = guarded(name)
    other_model.load_state_dict(model.state_dict())
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for trained, guard in ((model, optimizer), (other_model, other)):
        teach(trained, "low", "high", seed=5)
        guard.step()
    assert same(facts(model, optimizer), facts(other_model, other))
    assert repr(other)
    assert other.defaults == other.inner.defaults


def test_two_optimizers_may_share_a_gate():
    model = Model()
    gate = Gate(model)
    first = GuardedOptimizer(torch.optim.SGD([model.low.weight], lr=0.1), gate)
    second = GuardedOptimizer(torch.optim.AdamW([model.low.bias, *model.high.parameters()], lr=0.1), gate)
    teach(model, "low")
    weight, bias = model.low.weight.detach().clone(), model.low.bias.detach().clone()
    first.step()
    assert torch.equal(bias, model.low.bias)
    assert not torch.equal(weight, model.low.weight)
    weight = model.low.weight.detach().clone()
    assert second.step().stepped == (True, False, False)
    assert torch.equal(weight, model.low.weight)


# ---- several ranks ----------------------------------------------------------------------------------------------


def test_ranks_that_disagree_are_refused(monkeypatch):
    """The other rank is played: it has gradients in the middle block, too."""
    model, _, optimizer = guarded(group=SimpleNamespace())

    def with_the_other(tensor, op, group):
        other = torch.tensor([1, 1, 0], dtype=tensor.dtype)
        tensor.copy_(torch.minimum(tensor, other) if op == dist.ReduceOp.MIN else torch.maximum(tensor, other))

    monkeypatch.setattr(dist, "all_reduce", with_the_other)
    teach(model, "low")
    refused(model, optimizer, "Some ranks have gradients in the block middle")
    teach(model, "low", "middle")
    assert optimizer.step().stepped == (True, True, False)


def test_sharded_parameters_are_measured_whole():
    from torch.distributed.fsdp import fully_shard

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        model, plain = Model(), Model()
        mesh = dist.init_device_mesh("cpu", (1,))
        for child in model.children():
            fully_shard(child, mesh=mesh)
        guards = [GuardedOptimizer(OPTIMIZERS["adamw"](m.parameters()), Gate(m), clip_norm=0.1) for m in (model, plain)]
        x = torch.randn(4, 5)
        reports = []
        for m, guard in zip((model, plain), guards, strict=True):
            m.high(m.low(x)).sum().backward()
            reports.append(guard.step())
        assert reports[0].stepped == (True, False, True)
        assert reports[0].delta_norms == pytest.approx(reports[1].delta_norms, rel=1e-6)
        assert reports[0].clip_factors == pytest.approx(reports[1].clip_factors, rel=1e-6)
    finally:
        dist.destroy_process_group()
