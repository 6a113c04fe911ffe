"""What the gate must equal: examples one at a time, Σₙ w[n, b] ∇ℓₙ in each block, and each ‖∇_b ℓₙ‖."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from licet.train.gate import Gate

Losses = Callable[[], Tensor]
"""Runs the model on the whole batch; one loss for each example."""

BOUNDS = {torch.float64: 1e-12, torch.float32: 1e-6}


def reference(model: nn.Module, losses: Losses, weights: Tensor, gate: Gate) -> tuple[dict[str, Tensor], Tensor]:
    """Plain autograd, one backward pass for each example; run before the gate is entered."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    total = {n: torch.zeros_like(p) for n, p in model.named_parameters() if p.requires_grad}
    squares = torch.zeros(weights.shape, dtype=torch.float64)
    each = losses()
    for n in range(weights.shape[0]):
        found = torch.autograd.grad(each[n], parameters, retain_graph=True, allow_unused=True)
        for name, parameter, gradient in zip(total, parameters, found, strict=True):
            if gradient is not None:
                block = gate.block_of(parameter)
                total[name] += weights[n, block].to(gradient.dtype) * gradient
                squares[n, block] += gradient.double().square().sum()
    return total, squares.sqrt()


def compare(
    model: nn.Module,
    gate: Gate,
    losses: Losses,
    weights: Tensor,
    *,
    example_ids: Tensor | None = None,
    backward: Callable[[Tensor], None] | None = None,
    bound: float | None = None,
) -> None:
    """One gated step against the reference."""
    expected, norms = reference(model, losses, weights, gate)
    model.zero_grad()
    with gate(weights, example_ids=example_ids):
        total = losses().sum()
        total.backward() if backward is None else backward(total)
    agrees(model, gate, expected, norms, weights, bound)


def agrees(
    model: nn.Module,
    gate: Gate,
    expected: dict[str, Tensor],
    norms: Tensor,
    weights: Tensor,
    bound: float | None = None,
) -> None:
    names = dict(model.named_parameters())
    scale = max(float(e.abs().max()) for e in expected.values())
    for name, gradient in expected.items():
        limit = BOUNDS[gradient.dtype] if bound is None else bound
        block = gate.block_of(names[name])
        found = names[name].grad
        if not bool((weights[:, block] != 0).any()):
            assert found is None, f"{name} has a gradient, and nobody was admitted to it"
            continue
        if found is None:
            assert not gradient.any(), f"{name} has no gradient"
            continue
        error = float((found - gradient).norm())
        assert error <= limit * max(float(gradient.norm()), scale * 1e-3), (
            f"{name}: {error / float(gradient.norm()):.2e}"
        )
        assert gate.came_through(names[name])
    assert gate.norms is not None and gate.norms.dtype == torch.float32
    excluded = weights == 0
    assert torch.equal(gate.norms.isnan(), excluded)
    limit = 1e-6 if bound is None else bound  # norms are float32
    kept = ~excluded
    assert torch.allclose(gate.norms.double()[kept], norms[kept], rtol=limit, atol=limit * float(norms.max()) * 1e-2)


def some_weights(examples: int, blocks: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Weights with zeros, negative ones, one block for nobody and one example excluded from everything."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randint(-4, 16, (examples, blocks), generator=generator).to(dtype) / 15
    weights[torch.rand(examples, blocks, generator=generator) < 0.25] = 0
    if examples > 1:
        weights[examples // 2] = 0
    if blocks > 2:
        weights[:, blocks // 2] = 0
    return weights
