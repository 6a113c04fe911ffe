"""The technique `residual` against its definition: hooks on the ends of branches, one example at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from licet.ledger.records import Technique
from licet.train import Gate
from licet.train.blocks import describe
from licet.train.gate import BatchError, BlockError, GateError, UnsupportedError
from licet.train.gate.placement import Placement
from licet.train.gate.residual import Factors
from tests.train.gate.models import ROWS, Case, build, llama
from tests.train.gate.oracle import agrees, compare, some_weights

torch.set_num_threads(1)

Hooks = Callable[[nn.Module, str, Callable[[Tensor], Tensor]], list]
"""Makes a layer hand gradients of what a technique gates through a function; returns handles."""

BRANCHES = {
    "llama": ("self_attn", "mlp"),
    "llama-tied": ("self_attn", "mlp"),
    "qwen2": ("self_attn", "mlp"),
    "qwen3": ("self_attn", "mlp"),
    "gemma": ("self_attn", "mlp"),
    "gpt2": ("attn", "mlp"),
    "vit": ("attention", "mlp"),
    "dit": (),
}
IN_DOUBLE = ("gpt2", "dit")
"""The others' norms (or softmaxes) cast to float32, and round at other places when weights come in elsewhere."""


def profile(case: Case) -> Tensor:
    """Weights in which no block is without anybody."""
    weights = some_weights(ROWS, len(describe(case.model)[1]))
    weights[:, weights.shape[1] // 2] = torch.tensor([0.3, 0.0, 1.0, -0.5], dtype=torch.float64)
    return weights


def watched(out: object, through: Callable[[Tensor], Tensor]) -> None:
    tensor = out[0] if isinstance(out, tuple) else out
    tensor.register_hook(through)


class End(nn.Module):
    """Stands at the end of a branch that has no module there."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 1


def dit_layer(layer: nn.Module, end: End, x: Tensor, c: Tensor) -> Tensor:
    """A DiT layer's forward, with its branches' ends marked: they are products with what its condition gave."""
    a, b, g, d, e, h = layer.adapt(F.silu(c))[:, None].chunk(6, dim=-1)
    q, k, v = (
        z.unflatten(-1, (2, -1)).transpose(1, 2) for z in layer.qkv(layer.norm(x) * (1 + b) + a).chunk(3, dim=-1)
    )
    x = x + end(g * layer.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)))
    return x + end(h * layer.down(F.gelu(layer.up(layer.norm(x) * (1 + e) + d))))


def ends_of_branches(layer: nn.Module, name: str, through: Callable[[Tensor], Tensor]) -> list:
    if name == "dit":
        end = End()
        end.register_forward_hook(lambda module, args, out: watched(out, through))
        layer.forward = partial(dit_layer, layer, end)
        return [SimpleNamespace(remove=lambda: vars(layer).pop("forward"))]
    return [
        getattr(layer, branch).register_forward_hook(lambda module, args, out: watched(out, through))
        for branch in BRANCHES[name]
    ]


def is_inside(name: str, parameter: str) -> bool:
    """All of a layer lies in its branches."""
    return True


def defined(
    case: Case, name: str, gate: Gate, weights: Tensor, hooks: Hooks, inside: Callable[[str, str], bool]
) -> tuple[dict[str, Tensor], Tensor]:
    """Σₙ of what a technique lets each example contribute, and the norm of each contribution by block.

    The gradient through what is gated is multiplied there; a parameter `inside` has its weight by that alone.
    """
    titles = gate.block_names
    layers = {t: case.model.get_submodule(describe(case.model)[1][t][0]) for t in titles if t.startswith("layer")}
    names = {n: p for n, p in case.model.named_parameters() if p.requires_grad}
    within = {p for layer in layers.values() for n, p in layer.named_parameters() if inside(name, n)}
    total = {n: torch.zeros_like(p) for n, p in names.items()}
    squares = torch.zeros(weights.shape, dtype=torch.float64)
    for n in range(len(weights)):
        held = []
        for title, layer in layers.items():
            weight = float(weights[n, titles.index(title)])
            held += hooks(layer, name, partial(torch.mul, weight) if weight else torch.zeros_like)
        found = torch.autograd.grad(case.losses()[n], list(names.values()), allow_unused=True)
        for handle in held:
            handle.remove()
        for (key, parameter), gradient in zip(names.items(), found, strict=True):
            if gradient is not None:
                block = gate.block_of(parameter)
                part = gradient * (1 if parameter in within else weights[n, block].to(gradient.dtype))
                total[key] += part
                squares[n, block] += part.double().square().sum()
    return total, squares.sqrt()


def check_definition(
    case: Case, name: str, technique: str, weights: Tensor, hooks: Hooks, inside: Callable[[str, str], bool]
) -> Gate:
    plain = Gate(case.model, describe(case.model)[1], allow_ungated=True)
    expected, realised = defined(case, name, plain, weights, hooks, inside)
    plain.remove()
    gate = Gate(case.model, describe(case.model)[1], technique)
    with gate(weights):
        case.losses().sum().backward()
    arrived = (realised / weights.abs()).nan_to_num(0)
    agrees(case.model, gate, expected, arrived, weights, None if name in IN_DOUBLE else 1e-6)
    assert gate.realised.dtype == torch.float32
    assert torch.allclose(gate.realised.double(), realised, rtol=1e-5, atol=1e-6 * float(realised.max()))
    assert not gate.realised[weights == 0].any()
    return gate


@pytest.mark.parametrize("name", BRANCHES)
def test_gradients_and_realised_norms_are_those_of_the_definition(name: str) -> None:
    case = build(name)
    check_definition(case, name, "residual", profile(case), ends_of_branches, is_inside)


def test_several_layers_in_a_block_and_single_precision() -> None:
    case = build("llama", torch.float32)
    blocks = {"all": ["model.embed_tokens", "model.layers"], "head": ["model.norm", "lm_head"]}
    gate = Gate(case.model, blocks, Technique.RESIDUAL)
    weights = torch.tensor([[0.5, 1.0], [1.0, 0.0], [0.0, 0.0], [0.2, 1.0]])
    with gate(weights):
        case.losses().sum().backward()
    assert gate.realised[1, 1] == 0 and gate.realised[1, 0] > 0
    assert torch.allclose(gate.realised.double(), (weights * gate.norms.nan_to_num()).double(), rtol=1e-6)


@pytest.mark.parametrize("technique", ["residual", "attention"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen3"])
def test_the_forward_pass_is_bitwise_the_same(name: str, technique: str) -> None:
    case = build(name, torch.float32)
    before = case.losses()
    gate = Gate(case.model, describe(case.model)[1], technique)
    weights = some_weights(ROWS, len(gate.block_names))
    with gate(weights):
        inside = case.losses()
        inside.sum().backward()
    assert torch.equal(before, inside)
    gate.remove()
    assert torch.equal(before, case.losses())
    assert not any("forward" in vars(module) for module in case.model.modules())


@pytest.mark.parametrize("technique", ["residual", "attention"])
def test_weights_of_one_are_the_exact_gate(technique: str) -> None:
    case = build("llama-tied")
    gate = Gate(case.model, describe(case.model)[1], technique)
    compare(case.model, gate, case.losses, torch.ones(ROWS, len(gate.block_names)))


def test_the_technique_scale_realises_the_weight_times_the_norm() -> None:
    case = build("llama")
    gate = Gate(case.model, describe(case.model)[1])
    weights = some_weights(ROWS, len(gate.block_names))
    with gate(weights):
        case.losses().sum().backward()
    expected = (weights.abs() * gate.norms.double()).nan_to_num(0.0)
    assert torch.allclose(gate.realised.double(), expected, rtol=1e-6)


@pytest.mark.parametrize("technique", ["residual", "attention"])
@pytest.mark.parametrize("reentrant", [False, True], ids=["saved-tensors", "reentrant"])
def test_activation_checkpointing_changes_nothing(technique: str, reentrant: bool) -> None:
    found = []
    for checkpoints in (False, True):
        case = build("llama")
        case.model.train()
        if checkpoints:
            case.model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        if reentrant:
            case.model.enable_input_require_grads()
        gate = Gate(case.model, describe(case.model)[1], technique)
        with gate(some_weights(ROWS, len(gate.block_names))):
            case.losses().sum().backward()
        found.append([p.grad for p in case.model.parameters()] + [gate.norms.nan_to_num(-1)])
    assert [g is None for g in found[0]] == [g is None for g in found[1]]
    pairs = [(a, b) for a, b in zip(*found, strict=True) if a is not None]
    assert all(torch.allclose(a, b, rtol=1e-12, atol=0) for a, b in pairs)


@pytest.mark.parametrize("technique", ["residual", "attention"])
def test_the_excluded_slot_changes_no_bit(technique: str) -> None:
    finals = []
    for tokens in (7, 19):
        case = build("llama", torch.float32)
        case.batch["input_ids"][2] = tokens
        gate = Gate(case.model, describe(case.model)[1], technique)
        weights = torch.full((ROWS, len(gate.block_names)), 0.4)
        weights[2] = 0
        with gate(weights):
            case.losses().sum().backward()
        finals.append([p.grad for p in case.model.parameters()] + [gate.realised])
    assert all(torch.equal(a, b) for a, b in zip(*finals, strict=True))


def test_an_infinity_of_an_excluded_example_stays_out() -> None:
    case = build("llama")
    gate = Gate(case.model, describe(case.model)[1], "residual")
    weights = torch.full((ROWS, len(gate.block_names)), 0.5)
    weights[2] = 0
    with gate(weights):
        losses = case.losses()
        (losses * torch.tensor([1, 1, torch.inf, 1])).sum().backward()
    assert all(p.grad.isfinite().all() for p in case.model.parameters())


def test_packed_rows_and_pairs_have_the_weight_of_their_example() -> None:
    """One row of two packed examples, attention kept apart, equals two rows."""
    torch.manual_seed(5)
    case = llama(attn_implementation="eager")
    case.model.double()
    ids = torch.randint(0, 31, (2, 6))
    weights = torch.tensor([[0.3, 0.5, 1, 1], [1, 0.2, 0.4, 0.7]], dtype=torch.float64)
    grads = []
    for packed in (False, True):
        gate = Gate(case.model, describe(case.model)[1], "residual")
        owner = torch.arange(2).repeat_interleave(6)[None] if packed else None
        tokens = ids.reshape(1, 12) if packed else ids
        apart = torch.block_diag(*[torch.ones(6, 6)] * 2).tril() if packed else torch.ones(6, 6).tril()
        mask = torch.where(apart.bool(), 0.0, -1e9).double()[None, None]
        positions = torch.arange(6).repeat(2 if packed else 1)[None].expand(tokens.shape)
        case.model.zero_grad()
        with gate(weights, example_ids=owner):
            logits = case.model(tokens, attention_mask=mask, position_ids=positions).logits
            logits.square().sum().backward()
        grads.append({n: p.grad for n, p in case.model.named_parameters()})
        gate.remove()
    for name, gradient in grads[0].items():
        assert torch.allclose(gradient, grads[1][name], rtol=1e-9, atol=1e-12), name


def test_lora_has_the_weights_of_its_layers() -> None:
    from peft import LoraConfig, get_peft_model

    case = build("llama")
    adapted = get_peft_model(case.model, LoraConfig(r=2, target_modules=["v_proj", "down_proj"])).double()
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    case = Case(adapted, case.batch, case.loss)
    weights = torch.tensor([[1, 0.5, 0, 1], [0, 0, 0, 0], [0.2, -1, 1, 0], [0, 0, 0.5, 0]], dtype=torch.float64)
    check_definition(case, "llama", "residual", weights, ends_of_branches, is_inside)


def test_blocks_of_nobody_are_cut_and_a_rank_that_is_told_of_others_writes_zeros() -> None:
    case = build("llama")
    gate = Gate(case.model, describe(case.model)[1], "residual")
    weights = torch.ones(ROWS, len(gate.block_names))
    weights[:, 1] = 0
    arrived: list[str] = []
    probe = case.model.model.layers[0].mlp.register_full_backward_hook(lambda *_: arrived.append("mlp"))
    with gate(weights):
        case.losses().sum().backward()
    probe.remove()
    assert not arrived, "a branch that nobody was admitted to is not gone back through"
    layers = case.model.model.layers
    assert all(p.grad is None for p in layers[0].parameters())
    assert all(p.grad is not None for p in layers[1].parameters())
    assert case.model.model.embed_tokens.weight.grad is not None
    case.model.zero_grad()
    with gate(weights, admitted=torch.tensor([True] * 4)):
        case.losses().sum().backward()
    assert all(not p.grad.any() for p in layers[0].parameters())


@given(
    weights=st.lists(st.integers(-15, 15).map(lambda level: level / 15), min_size=1, max_size=5),
    owners=st.lists(st.integers(-1, 4), min_size=1, max_size=12),
    per_token=st.booleans(),
)
def test_each_row_is_multiplied_by_the_weight_of_its_owner(
    weights: list[float], owners: list[int], per_token: bool
) -> None:
    owners = [min(owner, len(weights) - 1) for owner in owners]
    ids = torch.tensor([owners]) if per_token else torch.tensor(owners)
    d = torch.randn(*ids.shape, 3)
    found = Factors(weights, Placement(len(weights), ids)).times(d).reshape(-1, 3)
    for row, given_row, owner in zip(found, d.reshape(-1, 3), owners, strict=True):
        expected = given_row if owner < 0 else given_row * weights[owner]
        assert torch.allclose(row, expected, rtol=1e-6, atol=0)


def test_realised_weights_of_a_profile_of_halves() -> None:
    """Exact in the head, below the profile in the layers, as train/README.md says."""
    case = build("llama")
    titles = describe(case.model)[1]
    weights = torch.full((ROWS, len(titles)), 0.5)
    gate = Gate(case.model, titles)
    with gate(torch.ones_like(weights)):
        case.losses().sum().backward()
    exact = gate.norms
    gate.remove()
    for technique in ("residual", "attention"):
        gate = Gate(case.model, titles, technique)
        with gate(weights):
            case.losses().sum().backward()
        ratio = (gate.realised / exact).mean(0)
        assert torch.allclose(ratio[-1], torch.tensor(0.5)), "the head is exact"
        assert ratio[0] < 0.49 and ratio[1] < 0.49, "what lies below is not"
        gate.remove()


# -- refusals


class Stack(nn.Module):
    def __init__(self, layer: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layer() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class Step(nn.Module):
    def __init__(self, step: Callable[[nn.Module, Tensor], object]) -> None:
        super().__init__()
        self.norm, self.inner, self.step = nn.LayerNorm(4), nn.Linear(4, 4), step

    def forward(self, x: Tensor) -> object:
        return self.step(self, x)


def onto_the_branch(layer: Step, x: Tensor) -> Tensor:
    branch = layer.inner(layer.norm(x)).sin()
    branch += x
    return branch


def onto_the_trunk(layer: Step, x: Tensor) -> Tensor:
    y = x.clone()
    y += layer.inner(layer.norm(x))
    return y


GOOD = {
    "sum": lambda m, x: x + m.inner(m.norm(x)),
    "turned": lambda m, x: m.inner(m.norm(x)) + x,
    "function": lambda m, x: torch.add(x, m.inner(m.norm(x)), alpha=2),
    "onto-the-branch": onto_the_branch,
    "onto-the-trunk": onto_the_trunk,
    "casts": lambda m, x: (x.double().contiguous() + m.inner(m.norm(x)).double()).float(),
    "a-type-taken-from-it": lambda m, x: x + m.inner(m.norm(x)).type_as(x).to(x),
    "parallel": lambda m, x: x + m.inner(x) + m.norm(x),
    "identity": lambda m, x: x + 0 * m.inner(m.norm(x)),
}


@pytest.mark.parametrize("kind", GOOD)
def test_ways_to_write_a_branch(kind: str) -> None:
    """Against the plain gradient of the same layers, with what goes down through branches scaled by hand."""
    torch.manual_seed(1)
    model = Stack(lambda: Step(GOOD[kind]))
    x = torch.randn(3, 5, 4)
    gate = Gate(model, {"low": ["layers.0"], "high": ["layers.1"]}, "residual")
    weights = torch.tensor([[1.0, 0.5], [0.3, -0.2], [0.7, 0.0]])
    with gate(weights):
        model(x).square().sum().backward()
    got = [p.grad.clone() for p in model.parameters()]
    gate.remove()
    total = [torch.zeros_like(p) for p in model.parameters()]
    for n, (low, high) in enumerate(weights.tolist()):
        middle = model.layers[0](x[n : n + 1].clone())
        split = middle.detach().requires_grad_()
        top = model.layers[1](split)
        through = torch.autograd.grad(top.square().sum(), [split, *model.layers[1].parameters()])
        straight = 2 * top.detach()
        down = straight + high * (through[0] - straight)
        below = torch.autograd.grad(middle, list(model.layers[0].parameters()), down)
        parts = [g * low for g in below] + [g * high for g in through[1:]]
        total = [t + p for t, p in zip(total, parts, strict=True)]
    for a, b in zip(got, total, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-4)


BAD = {
    "a norm behind the sum": lambda m, x: m.norm(x + m.inner(x)),
    "a scaled trunk": lambda m, x: 0.5 * x + m.inner(m.norm(x)),
    "no trunk": lambda m, x: m.inner(m.norm(x)),
    "a branch in the trunk's type": lambda m, x: m.inner(m.norm(x)).type_as(x),
    "a broadcast sum": lambda m, x: (x[:, None] + m.inner(m.norm(x))[:, :, None])[:, 0],
    "nothing": lambda m, x: None,
}


@pytest.mark.parametrize("kind", BAD)
def test_a_layer_without_branches_is_refused_by_name(kind: str) -> None:
    model = Stack(lambda: Step(BAD[kind]))
    gate = Gate(model, {"all": ["layers"]}, "residual")
    with pytest.raises(UnsupportedError, match=r"layers\.0 does not return the sum.*scale"), gate(torch.ones(3, 1)):
        model(torch.randn(3, 5, 4))
    assert all(p.grad is None for p in model.parameters())


def test_what_cannot_be_a_gate_of_this_technique() -> None:
    case = build("llama")
    titles = describe(case.model)[1]
    with pytest.raises(GateError, match=r"'depth' is no technique.*scale, residual, attention"):
        Gate(case.model, titles, "depth")
    halves = {"attention": [], "rest": ["lm_head", "model.norm", "model.embed_tokens"]}
    for n in range(2):
        halves["attention"] += [f"model.layers.{n}.self_attn", f"model.layers.{n}.input_layernorm"]
        halves["rest"] += [f"model.layers.{n}.mlp", f"model.layers.{n}.post_attention_layernorm"]
    with pytest.raises(BlockError, match=r"model\.layers\.0 lies in more than one block: attention and rest"):
        Gate(case.model, halves, "residual")
    with pytest.raises(UnsupportedError, match=r"The layers cannot be told.*scale"):
        Gate(nn.Linear(3, 3), {"all": [""]}, "residual")
    with pytest.raises(BatchError, match=r"of shape"), Gate(case.model, titles, "residual")(torch.ones(3, 4)):
        case.losses()
    with pytest.raises(GateError, match=r"model\.layers\.0 is held by another gate"):
        Gate(case.model, titles, "residual")


def test_a_layer_without_an_activation_is_refused() -> None:
    model = Stack(lambda: Step(lambda m, x: x))
    gate = Gate(model, {"all": ["layers"]}, "residual")
    with pytest.raises(UnsupportedError, match=r"layers\.0 was called without an activation"), gate(torch.ones(3, 1)):
        model.layers[0](SimpleNamespace(x=1))


@contextmanager
def restored(module: nn.Module) -> Iterator[None]:
    module.forward = partial(type(module).forward, module)
    yield
    del module.forward


def test_a_forward_that_was_replaced_before_is_put_back() -> None:
    case = build("llama")
    layer = case.model.model.layers[0]
    with restored(layer):
        replaced = layer.forward
        gate = Gate(case.model, describe(case.model)[1], "residual")
        assert layer.forward is not replaced
        gate.remove()
        assert layer.forward is replaced


def test_a_compiled_model_is_followed_uncompiled() -> None:
    torch._dynamo.reset()
    case = build("llama")
    weights = some_weights(ROWS, 4)
    gate = check_definition(case, "llama", "residual", weights, ends_of_branches, is_inside)
    plain = [None if p.grad is None else p.grad.clone() for p in case.model.parameters()]
    compiled = Case(torch.compile(case.model, backend="eager"), case.batch, case.loss)
    for _ in range(2):
        case.model.zero_grad()
        with gate(weights):
            compiled.losses().sum().backward()
        for before, parameter in zip(plain, case.model.parameters(), strict=True):
            assert (before is None) == (parameter.grad is None)
            assert before is None or torch.equal(before, parameter.grad)
    assert not gate.compiles
