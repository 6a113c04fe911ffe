"""Whole models against examples one at a time: real architectures, checkpointing, autocast, LoRA, packing."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from licet.train import Gate
from licet.train.blocks import describe
from tests.train.gate.models import CASES, ROWS, Case, build, llama
from tests.train.gate.oracle import agrees, compare, reference, some_weights

torch.set_num_threads(1)


BOUNDS = {"gemma": 1e-6}
"""Gemma's norms cast to float32, whatever the model's type."""


def gated(case: Case) -> Gate:
    return Gate(case.model, describe(case.model)[1])


@pytest.mark.parametrize("name", CASES)
def test_real_architectures_in_double_precision(name: str) -> None:
    case = build(name)
    gate = gated(case)
    for weights in (some_weights(ROWS, len(gate.block_names)), torch.ones(ROWS, len(gate.block_names))):
        compare(case.model, gate, case.losses, weights, bound=BOUNDS.get(name))


@pytest.mark.parametrize("name", ["llama", "llama-tied", "gpt2", "vit"])
def test_real_architectures_in_single_precision(name: str) -> None:
    case = build(name, torch.float32)
    gate = gated(case)
    # Sums over the whole model round in the reference as well.
    compare(case.model, gate, case.losses, some_weights(ROWS, len(gate.block_names)), bound=5e-6)


@pytest.mark.parametrize("reentrant", [False, True], ids=["saved-tensors", "reentrant"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "llama-tied", "gemma"])
def test_activation_checkpointing(name: str, reentrant: bool) -> None:
    case = build(name)
    case.model.train()
    for module in case.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    case.model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    if reentrant:
        case.model.enable_input_require_grads()
    gate = gated(case)
    weights = some_weights(ROWS, len(gate.block_names))
    case.model.gradient_checkpointing_disable()
    expected, norms = reference(case.model, case.losses, weights, gate)
    case.model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    with gate(weights):
        case.losses().sum().backward()
    agrees(case.model, gate, expected, norms, weights, BOUNDS.get(name))


def test_accumulation_adds_up_and_gives_the_norms_of_each_step() -> None:
    case = build("llama")
    gate = gated(case)
    first, second = (some_weights(ROWS, len(gate.block_names), seed) for seed in (0, 1))
    parts = [reference(case.model, case.losses, weights, gate) for weights in (first, second)]
    norms = []
    for weights in (first, second):
        with gate(weights):
            case.losses().sum().backward()
        norms.append(gate.norms)
    total = {name: parts[0][0][name] + parts[1][0][name] for name in parts[0][0]}
    agrees(case.model, gate, total, parts[1][1], torch.where(second != 0, second, torch.zeros(()).double()))
    kept = first != 0
    assert torch.allclose(norms[0][kept].double(), parts[0][1][kept], rtol=1e-6)


@pytest.mark.parametrize("name", ["llama", "gpt2", "vit"])
def test_autocast(name: str) -> None:
    case = build(name, torch.float32)
    gate = gated(case)
    weights = some_weights(ROWS, len(gate.block_names))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected, norms = reference(case.model, case.losses, weights, gate)
        with gate(weights):
            total = case.losses().sum()
            total.backward()
    agrees(case.model, gate, expected, norms, weights, bound=3e-2)


def test_lora() -> None:
    from peft import LoraConfig, get_peft_model

    case = build("llama")
    adapted = get_peft_model(
        case.model, LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj", "down_proj"], lora_dropout=0.0)
    ).double()
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    case = Case(adapted, case.batch, case.loss)
    gate = gated(case)
    assert gate.block_names == ("embedding", "layer.0", "layer.1", "head")
    weights = torch.tensor([[1, 0.5, 0, 1], [0, 0, 0, 0], [0.2, -1, 1, 0], [0, 0, 0.5, 0]], dtype=torch.float64)
    expected, norms = reference(adapted, case.losses, weights, gate)
    with gate(weights):
        case.losses().sum().backward()
    agrees(adapted, gate, expected, norms, weights)


def test_a_chunked_loss_uses_the_head_several_times() -> None:
    case = build("llama-tied")

    def losses() -> torch.Tensor:
        hidden = case.model.model(**case.batch).last_hidden_state
        logits = torch.cat([case.model.lm_head(part) for part in hidden.split(4, dim=1)], dim=1)
        return case.loss(type("Out", (), {"logits": logits}), case.batch)

    gate = gated(case)
    compare(case.model, gate, losses, some_weights(ROWS, len(gate.block_names)))


def test_packed_rows_by_token() -> None:
    torch.manual_seed(5)
    case = llama(attn_implementation="eager")
    case.model.double()
    ids = torch.randint(0, 31, (1, 12))
    owner = torch.tensor([[0, 0, 0, 0, 2, 2, 2, 1, 1, 1, 1, -1]])
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 0, 1, 2, 3, 0]])
    causal = torch.ones(12, 12, dtype=torch.bool).tril() & (owner[0][:, None] == owner[0][None])
    mask = torch.where(causal, 0.0, -1e9).double()[None, None]

    def losses() -> torch.Tensor:
        logits = case.model(ids, attention_mask=mask, position_ids=positions).logits[0, :-1]
        each = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
        counted = (owner[0, 1:] == owner[0, :-1]) & (owner[0, :-1] >= 0)
        return torch.stack([each[counted & (owner[0, :-1] == n)].sum() for n in range(3)])

    gate = gated(case)
    weights = torch.tensor([[1, 0.5, 0, 1], [0, 0, 1, 1], [-0.2, 1, 1, 0]], dtype=torch.float64)
    compare(case.model, gate, losses, weights, example_ids=owner)


def test_rows_of_one_example_count_together() -> None:
    """A preference pair is one example in two rows."""
    case = build("llama")
    owner = torch.tensor([0, 1, 0, 1])
    gate = gated(case)
    weights = torch.tensor([[1, 0.5, 0, 1], [0.1, 0, 1, 1]], dtype=torch.float64)

    def losses() -> torch.Tensor:
        each = case.losses()
        return torch.nn.functional.softplus(each[:2] - each[2:])

    compare(case.model, gate, losses, weights, example_ids=owner)


def test_the_excluded_slot_changes_no_bit() -> None:
    finals = []
    for tokens in (7, 19):
        case = build("llama-tied", torch.float32)
        case.batch["input_ids"][2] = tokens
        gate = gated(case)
        optimizer = torch.optim.AdamW(case.model.parameters(), lr=1e-2)
        weights = torch.ones(ROWS, len(gate.block_names))
        weights[2] = 0
        seen = []
        for _ in range(5):
            with gate(weights):
                case.losses().sum().backward()
            seen += [p.grad.clone() for p in case.model.parameters()] + [gate.norms.nan_to_num(-1)]
            optimizer.step()
            optimizer.zero_grad()
        finals.append([*seen, *case.model.state_dict().values()])
    assert all(torch.equal(a, b) for a, b in zip(*finals, strict=True))
