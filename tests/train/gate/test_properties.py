"""Any shape, any weights: the gate against examples one at a time."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from licet.train import Gate
from tests.train.gate.oracle import compare

torch.set_num_threads(1)

weights = st.lists(st.sampled_from([0.0, 1.0, -1.0, 1 / 15, 0.6, -0.2]), min_size=1, max_size=5)
sizes = st.integers(1, 9)


@settings(max_examples=40)
@given(weights, sizes, sizes, sizes, st.booleans(), st.integers(0, 99))
def test_linear(each: list[float], tokens: int, width: int, out: int, bias: bool, seed: int) -> None:
    torch.manual_seed(seed)
    layer = nn.Linear(width, out, bias=bias, dtype=torch.float64)
    x = torch.randn(len(each), tokens, width, dtype=torch.float64)
    gate = Gate(layer, {"all": [""]})
    compare(layer, gate, lambda: layer(x).sin().flatten(1).sum(1), torch.tensor(each).double()[:, None])


@settings(max_examples=40)
@given(weights, sizes, sizes, st.booleans(), st.integers(0, 99))
def test_norms(each: list[float], tokens: int, width: int, rms: bool, seed: int) -> None:
    torch.manual_seed(seed)
    kind = nn.RMSNorm if rms else nn.LayerNorm
    layer = kind(width + 1, dtype=torch.float64)
    x = torch.randn(len(each), tokens, width + 1, dtype=torch.float64)
    gate = Gate(layer, {"all": [""]})
    compare(layer, gate, lambda: layer(x).sin().flatten(1).sum(1), torch.tensor(each).double()[:, None])


@settings(max_examples=40)
@given(weights, sizes, sizes, st.booleans(), st.integers(0, 99))
def test_tied_embedding_and_head(each: list[float], tokens: int, width: int, scaled: bool, seed: int) -> None:
    torch.manual_seed(seed)
    table = nn.Embedding(5, width, dtype=torch.float64)
    head = nn.Linear(width, 5, bias=False, dtype=torch.float64)
    if not scaled:
        head.weight = table.weight
    model = nn.Sequential(table, head)
    ids = torch.randint(0, 5, (len(each), tokens))
    ids[:, 0] = 4
    gate = Gate(model, {"all": [""]})
    compare(model, gate, lambda: model(ids).sin().flatten(1).sum(1), torch.tensor(each).double()[:, None])


@settings(max_examples=40)
@given(st.lists(st.integers(-1, 2), min_size=1, max_size=12), sizes, st.integers(0, 99))
def test_packed_tokens_in_any_order(owners: list[int], width: int, seed: int) -> None:
    torch.manual_seed(seed)
    layer = nn.Sequential(nn.Linear(width, 3), nn.LayerNorm(3)).double()
    x = torch.randn(1, len(owners), width, dtype=torch.float64)
    ids = torch.tensor([owners])

    def losses() -> torch.Tensor:
        each = layer(x).sin().sum(-1)[0]
        return torch.stack([each[ids[0] == n].sum() for n in range(3)])

    gate = Gate(layer, {"low": ["0"], "high": ["1"]})
    given_weights = torch.tensor([[1, 0.5], [0, -1], [0.2, 0]], dtype=torch.float64)
    compare(layer, gate, losses, given_weights, example_ids=ids)
