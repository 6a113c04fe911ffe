"""What the gate must not let pass, each with the name of what it is about."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from licet.train import Gate
from licet.train.gate import BatchError, BlockError, GateError, UngatedError, UnsupportedError, WeightsError

torch.set_num_threads(1)


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).relu())


class Odd(nn.Module):
    """One parameter, used in a way of the test's choosing."""

    def __init__(self, use: object) -> None:
        super().__init__()
        self.layer, self.odd, self.use = nn.Linear(3, 3), nn.Parameter(torch.randn(3, 3)), use

    def forward(self, x: Tensor) -> Tensor:
        return self.use(self.layer(x), self.odd)


BLOCKS = {"low": ["first"], "high": ["second"]}
X = torch.randn(4, 3)
ONES = torch.ones(4, 2)


@pytest.mark.parametrize(
    ("blocks", "says"),
    [
        ({"low": ["first"]}, "second.weight is in no block"),
        ({"low": ["first"], "high": ["second", "first.bias"]}, "first.bias is in two blocks, low and high"),
        ({"low": ["first", "frist"], "high": ["second"]}, "frist in block low names no module"),
        ({}, "at least one block"),
        ({"low": "first"}, "a list of modules or prefixes"),
        ({"low": [nn.Linear(2, 2)]}, "not a part of the model"),
    ],
    ids=["in-none", "in-two", "unknown-prefix", "no-blocks", "not-a-list", "foreign-module"],
)
def test_blocks_that_do_not_fit(blocks: dict, says: str) -> None:
    with pytest.raises(BlockError, match=says):
        Gate(Pair(), blocks)


def test_tied_weights_in_two_blocks_are_refused_by_both_names() -> None:
    model = Pair()
    model.second = nn.Linear(3, 3)
    model.second.weight = model.first.weight
    with pytest.raises(BlockError, match=r"first.weight = second.weight is in two blocks"):
        Gate(model, BLOCKS)


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        (torch.ones(4), "not \\[4\\]"),
        (torch.ones(4, 3), "\\[examples, 2\\], not \\[4, 3\\]"),
        (torch.ones(0, 2), "not \\[0, 2\\]"),
        (torch.ones(4, 2, dtype=torch.int64), "tensor of floats"),
        (torch.full((4, 2), torch.nan), "a NaN or an infinity"),
        (torch.full((4, 2), torch.inf), "a NaN or an infinity"),
        ([[1.0, 1.0]] * 4, "tensor of floats"),
    ],
    ids=["one-axis", "too-many-blocks", "no-examples", "integers", "nan", "infinity", "list"],
)
def test_weights_that_cannot_be_used(weights: object, says: str) -> None:
    gate = Gate(Pair(), BLOCKS)
    with pytest.raises(WeightsError, match=says), gate(weights):
        pytest.fail("the step has begun")


@pytest.mark.parametrize(
    "ids",
    [torch.zeros(4), torch.tensor([0, 1, 2, 4]), torch.tensor([0, -2, 1, 1]), torch.zeros(1, 2, 3).long()],
    ids=["floats", "too-large", "too-small", "three-axes"],
)
def test_example_ids_that_cannot_be_used(ids: Tensor) -> None:
    gate = Gate(Pair(), BLOCKS)
    with pytest.raises(WeightsError, match="Example ids"), gate(ONES, example_ids=ids):
        pytest.fail("the step has begun")


@pytest.mark.parametrize("shape", [(5, 3), (1, 3), (8, 4, 3), (3,)], ids=["five", "one", "eight", "none"])
def test_another_number_of_examples_is_not_guessed_at(shape: tuple[int, ...]) -> None:
    model = Pair()
    gate = Gate(model, BLOCKS)
    with pytest.raises(BatchError, match=r"first.weight is used on a tensor of shape"), gate(ONES):
        model(torch.randn(shape))
    assert all(p.grad is None for p in model.parameters())


def test_flattened_batches_are_refused() -> None:
    model = Pair()
    gate = Gate(model, BLOCKS)
    with pytest.raises(BatchError), gate(ONES):
        model(torch.randn(4, 5, 3).flatten(0, 1))


ODD_USES = {
    "einsum": (lambda x, p: torch.einsum("bi,ij->bj", x, p), "einsum"),
    "concatenation": (lambda x, p: torch.cat([x, p]), "cat"),
    "bilinear": (lambda x, p: torch.nn.functional.bilinear(x, x, p[None], None), "bilinear"),
    "foreach": (lambda x, p: torch._foreach_mul([x, x], [p[0], p[1]])[0], "_foreach_mul"),
    "own-function": (
        lambda *both: Foreign.apply(*both)[:],
        "odd received a gradient that did not come through the gate",
    ),
    "through-data": (lambda x, p: torch.softmax(p, 0)[None] @ x[:, :, None], "odd"),
}


class Foreign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor, p: Tensor) -> Tensor:
        ctx.save_for_backward(x, p)
        return x @ p

    @staticmethod
    def backward(ctx: object, d: Tensor) -> tuple[Tensor, Tensor]:
        x, p = ctx.saved_tensors
        return d @ p.t(), x.t() @ d


@pytest.mark.parametrize("name", ODD_USES)
def test_a_use_without_a_rule_is_refused_by_name(name: str) -> None:
    use, says = ODD_USES[name]
    model = Odd(use)
    gate = Gate(model, {"all": [""]})
    with pytest.raises(GateError, match=says), gate(ONES[:, :1]):
        model(X).sum().backward()


def test_a_penalty_on_a_parameter_itself_is_refused() -> None:
    model = Pair()
    gate = Gate(model, BLOCKS)
    with pytest.raises(UnsupportedError, match=r"first.weight"), gate(ONES):
        (model(X).sum() + sum(p.square().sum() for p in model.parameters())).backward()


@pytest.mark.parametrize(
    "layer", [nn.LSTM(3, 3, batch_first=True), nn.MultiheadAttention(3, 1, batch_first=True)], ids=["lstm", "attention"]
)
def test_layers_without_a_rule(layer: nn.Module) -> None:
    gate = Gate(layer, {"all": [""]})
    x = torch.randn(4, 2, 3, requires_grad=True)
    with pytest.raises(UnsupportedError, match="no rule for"), gate(ONES[:, :1]):
        layer(x) if isinstance(layer, nn.LSTM) else layer(x, x, x)


def test_batch_norm_in_training_is_refused_at_once_and_at_each_step() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    with pytest.raises(UnsupportedError, match="1 is a batch norm in training"):
        Gate(model, {"all": [""]})
    gate = Gate(model.eval(), {"all": [""]})
    model.train()
    with pytest.raises(UnsupportedError, match="1 is a batch norm in training"), gate(ONES[:, :1]):
        pytest.fail("the step has begun")


@pytest.mark.parametrize(
    "options",
    [{"max_norm": 1.0}, {"sparse": True}, {"scale_grad_by_freq": True}],
    ids=["max-norm", "sparse", "frequency"],
)
def test_embeddings_without_a_rule(options: dict) -> None:
    table = nn.Embedding(5, 3, **options)
    gate = Gate(table, {"all": [""]})
    with pytest.raises(UnsupportedError, match="weight"), gate(ONES[:, :1]):
        table(torch.tensor([[0, 1]] * 4))


def test_positions_are_not_taken_for_labels() -> None:
    table = nn.Embedding(5, 3)
    gate = Gate(table, {"all": [""]})
    with pytest.raises(UnsupportedError, match="positions, or one label each"), gate(ONES[:, :1]):
        table(torch.arange(4))


def test_a_plain_backward_pass_is_refused_until_the_gate_is_removed() -> None:
    model = Pair()
    gate = Gate(model, BLOCKS)
    with pytest.raises(UngatedError, match="did not come through the gate"):
        model(X).sum().backward()
    model.zero_grad()
    gate.remove()
    model(X).sum().backward()
    assert model.first.weight.grad is not None
    with pytest.raises(GateError, match="removed"), gate(ONES):
        pytest.fail("the step has begun")


def test_backward_after_the_step_is_refused() -> None:
    model = Pair()
    gate = Gate(model, BLOCKS)
    with gate(ONES):
        loss = model(X).sum()
    with pytest.raises(UngatedError, match="outside of the `with gate"):
        loss.backward()
    with pytest.raises(UngatedError, match="outside of the `with gate"), gate(ONES):
        loss.backward()


def test_a_second_backward_through_the_same_graph_is_refused() -> None:
    model = Pair()
    gate = Gate(model, BLOCKS)
    with pytest.raises(GateError, match="more gradients"), gate(ONES):
        loss = model(X).sum()
        loss.backward(retain_graph=True)
        loss.backward()


def test_nested_steps_are_refused() -> None:
    gate = Gate(Pair(), BLOCKS)
    with pytest.raises(GateError, match="inside of itself"), gate(ONES), gate(ONES):
        pytest.fail("the step has begun")


def test_what_came_through_is_known_and_what_was_touched_is_not() -> None:
    model = Pair()
    gate = Gate(model, BLOCKS, allow_ungated=True)
    weight = model.first.weight
    assert not gate.came_through(weight)
    for _ in range(2):
        with gate(ONES):
            model(X).sum().backward()
        assert gate.came_through(weight)
    weight.grad.mul_(2)
    assert not gate.came_through(weight)
    with gate(ONES):
        model(X).sum().backward()
    assert not gate.came_through(weight), "what was added to a touched gradient is not the gate's work"
    weight.grad = None
    with gate(ONES):
        model(X).sum().backward()
    assert gate.came_through(weight)
    model(X).sum().backward()
    assert not gate.came_through(weight)
    weight.grad = torch.zeros_like(weight)
    assert not gate.came_through(weight)


def test_nothing_of_an_excluded_example_is_computed() -> None:
    """0 · ∞ is NaN: an excluded example must be left out, not multiplied by zero."""
    model = Pair()
    gate = Gate(model, BLOCKS)
    weights = ONES.clone()
    weights[2] = 0
    x = X.clone()
    x[2] = torch.inf
    with gate(weights):
        model(x).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    assert gate.norms[[0, 1, 3]].isfinite().all()


def test_a_block_admitted_on_another_rank_gets_zeros() -> None:
    model = Pair()
    gate = Gate(model, BLOCKS)
    weights = ONES.clone()
    weights[:, 0] = 0
    with gate(weights, admitted=torch.tensor([True, True])):
        model(X).sum().backward()
    assert torch.equal(model.first.weight.grad, torch.zeros(3, 3))
    with pytest.raises(WeightsError, match="missing from `admitted`"), gate(ONES, admitted=torch.tensor([True, False])):
        pytest.fail("the step has begun")


def test_unused_parameters_are_no_error_and_are_reported() -> None:
    model = Pair()
    model.spare = nn.Parameter(torch.zeros(3))
    gate = Gate(model, BLOCKS | {"spare": ["spare"]})
    with gate(torch.ones(4, 3)):
        model(X).sum().backward()
    assert gate.unused() == ("spare",)
    assert torch.equal(gate.norms[:, 2], torch.zeros(4))
