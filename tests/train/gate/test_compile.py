"""torch.compile, without its code generator: the same gradients, and one graph."""

from __future__ import annotations

import pytest
import torch

from licet.train import Gate
from licet.train.blocks import describe
from tests.train.gate.models import ROWS, Case, build
from tests.train.gate.oracle import agrees, reference, some_weights

torch.set_num_threads(1)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma"])
def test_a_compiled_model_is_gated(name: str, backend: str) -> None:
    torch._dynamo.reset()
    case = build(name)
    gate = Gate(case.model, describe(case.model)[1])
    compiled = Case(torch.compile(case.model, backend=backend, fullgraph=True), case.batch, case.loss)
    for seed in range(3):
        weights = some_weights(ROWS, len(gate.block_names), seed)
        expected, norms = reference(case.model, case.losses, weights, gate)
        case.model.zero_grad()
        with gate(weights):
            compiled.losses().sum().backward()
        agrees(case.model, gate, expected, norms, weights, 1e-6 if name == "gemma" else None)
    assert gate.compiles == (name != "gemma"), "Gemma adds one to its weights, and stays uncompiled"


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_graph_break_does_not_hide_a_layer(backend: str) -> None:
    torch._dynamo.reset()

    class Broken(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.low, self.high = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.low(x)
            torch._dynamo.graph_break()
            return self.high(x.to(device=x.device, dtype=x.dtype))

    model = Broken().double()
    gate = Gate(model, {"low": ["low"], "high": ["high"]})
    compiled = torch.compile(model, backend=backend)
    x = torch.randn(4, 3, dtype=torch.float64)
    for seed in range(3):
        weights = some_weights(4, 2, seed)
        expected, norms = reference(model, lambda: model(x).sin().sum(1), weights, gate)
        model.zero_grad()
        with gate(weights):
            compiled(x).sin().sum().backward()
        agrees(model, gate, expected, norms, weights)
