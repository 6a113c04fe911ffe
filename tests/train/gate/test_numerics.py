"""Squares of many float32 numbers, summed without losing digits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from licet.train import Gate
from licet.train.gate.linear import TILE_NUMBERS
from licet.train.gate.numerics import PIECE_NUMBERS, square, squared_pieces

torch.set_num_threads(1)


@pytest.mark.parametrize("numbers", [0, 1, PIECE_NUMBERS - 1, PIECE_NUMBERS, PIECE_NUMBERS + 1, 3_000_000])
def test_a_square_in_float32_keeps_its_digits(numbers: int) -> None:
    torch.manual_seed(4)
    tensor = torch.randn(numbers) * torch.rand(numbers).pow(3)
    expected = float(tensor.double().square().sum())
    found = square(tensor)
    assert found.dtype == torch.float64
    assert float(found) == pytest.approx(expected, rel=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=3), st.integers(0, 99))
def test_a_square_is_that_of_every_shape_and_stride(shape: list[int], seed: int) -> None:
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    turned = tensor.permute(*reversed(range(len(shape))))
    assert float(square(turned)) == pytest.approx(float(tensor.square().sum()), rel=1e-12)


def test_pieces_are_as_many_for_every_tensor_of_one_size() -> None:
    assert len(squared_pieces(torch.ones(PIECE_NUMBERS + 1))) == 2


def test_a_large_layers_norms_are_exact_to_seven_digits() -> None:
    """As large as the layers that are trained: in one float32 sum, torch's own norm loses three digits here."""
    torch.manual_seed(5)
    layer = nn.Linear(1024, 2048, bias=False)
    x = torch.randn(2, 3, 1024)
    gate = Gate(layer, {"all": [""]})
    d = torch.randn(2, 3, 2048)
    with gate(torch.tensor([[1.0], [0.25]])):
        (layer(x) * d).flatten(1).sum(1).sum().backward()
    each = torch.stack([d[n].double().T @ x[n].double() for n in range(2)])
    expected = each.flatten(1).norm(dim=1)
    assert torch.allclose(gate.norms[:, 0].double(), expected, rtol=1e-6)
    assert torch.allclose(layer.weight.grad.double(), each[0] + 0.25 * each[1], rtol=1e-5, atol=1e-4)


def test_a_looped_layers_norms_are_exact_to_seven_digits() -> None:
    torch.manual_seed(6)
    layer = nn.Linear(640, 1280, bias=False)  # too short a loop for Gram matrices, too large for one batched product
    x, d = torch.randn(2, 256, 640), torch.randn(2, 256, 1280)
    gate = Gate(layer, {"all": [""]})
    with gate(torch.tensor([[1.0], [0.5]])):
        (layer(x) * d).sum().backward()
    expected = torch.stack([(d[n].double().T @ x[n].double()).norm() for n in range(2)])
    assert torch.allclose(gate.norms[:, 0].double(), expected, rtol=1e-6)


def test_a_layer_of_several_tiles_is_exact() -> None:
    """Short examples are made tile by tile; here in two tiles, and too long for Gram matrices."""
    torch.manual_seed(8)
    layer = nn.Linear(TILE_NUMBERS // 500, 530, bias=False).double()
    x_NTd = torch.randn(3, 100, layer.in_features, dtype=torch.float64)
    weights = torch.tensor([[1.0], [-0.4], [0.5]], dtype=torch.float64)
    gate = Gate(nn.Sequential(layer), {"all": ["0"]})
    with gate(weights):
        layer(x_NTd).square().sum((1, 2)).sum().backward()
    own = [2 * (x_Td @ layer.weight.t()).t() @ x_Td for x_Td in x_NTd.detach()]
    expected = sum(weight * gradient for weight, gradient in zip(weights[:, 0], own, strict=True))
    assert layer.weight.grad is not None and gate.norms is not None
    torch.testing.assert_close(layer.weight.grad, expected.detach(), rtol=1e-12, atol=1e-12)
    norms = torch.stack([gradient.norm() for gradient in own]).detach()
    torch.testing.assert_close(gate.norms[:, 0].double(), norms, rtol=1e-6, atol=0)
