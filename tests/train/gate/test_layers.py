"""Every layer type against examples one at a time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from licet.train import Gate
from tests.train.gate.oracle import compare

torch.set_num_threads(1)

N = 5
WEIGHTS = torch.tensor([[1.0], [0.25], [0.0], [-0.5], [2 / 15]], dtype=torch.float64)


class Scaled(nn.Module):
    """A family's own RMSNorm, with or without a one added to its weight."""

    def __init__(self, width: int, one: bool) -> None:
        super().__init__()
        self.weight, self.one = nn.Parameter(torch.randn(width)), one

    def forward(self, x: Tensor) -> Tensor:
        x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)
        return x * (1.0 + self.weight.to(x.dtype)) if self.one else self.weight * x


class Cropped(nn.Module):
    """A class token, a position table cut to length, a layer scale, and a matrix used without a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.table = nn.Parameter(torch.randn(1, 1, 6)), nn.Parameter(torch.randn(1, 9, 6))
        self.scale, self.matrix = nn.Parameter(torch.randn(6)), nn.Parameter(torch.randn(6, 4))
        self.both = nn.Parameter(torch.randn(2, 6, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1)
        x = (x + self.table[:, : x.shape[1]]) * self.scale
        left, right = self.both.unbind(0)
        return torch.cat([x @ self.matrix, torch.nn.functional.linear(x, left.t()), torch.matmul(x, right)], -1)


IMAGES, TOKENS, ROWS = (N, 4, 6, 6), (N, 7, 6), (N, 6)
LAYERS = {
    "linear": (lambda: nn.Linear(6, 4), TOKENS),
    "linear-no-bias": (lambda: nn.Linear(6, 4, bias=False), TOKENS),
    "linear-one-position": (lambda: nn.Linear(6, 4), ROWS),
    "linear-ghost": (lambda: nn.Linear(64, 48), (N, 2, 64)),
    "linear-looped": (lambda: nn.Linear(300, 320), (N, 40, 300)),
    "linear-four-axes": (lambda: nn.Linear(6, 4), (N, 3, 2, 6)),
    "layer-norm": (lambda: nn.LayerNorm(6), TOKENS),
    "layer-norm-no-bias": (lambda: nn.LayerNorm(6, bias=False), TOKENS),
    "layer-norm-two-axes": (lambda: nn.LayerNorm((7, 6)), TOKENS),
    "rms-norm": (lambda: nn.RMSNorm(6), TOKENS),
    "group-norm": (lambda: nn.GroupNorm(2, 4), IMAGES),
    "batch-norm-in-evaluation": (lambda: nn.BatchNorm2d(4).eval(), IMAGES),
    "own-rms-norm": (lambda: Scaled(6, one=False), TOKENS),
    "own-rms-norm-plus-one": (lambda: Scaled(6, one=True), TOKENS),
    "conv1d": (lambda: nn.Conv1d(4, 3, 3, padding=1, stride=2), (N, 4, 9)),
    "conv2d": (lambda: nn.Conv2d(4, 6, 2, stride=2), IMAGES),
    "conv2d-no-bias": (lambda: nn.Conv2d(4, 6, 3, bias=False, dilation=2), IMAGES),
    "conv2d-groups": (lambda: nn.Conv2d(4, 8, 3, groups=2, padding=1), IMAGES),
    "conv2d-same": (lambda: nn.Conv2d(4, 2, (2, 3), padding="same"), IMAGES),
    "conv3d": (lambda: nn.Conv3d(2, 3, 2), (N, 2, 3, 4, 3)),
    "conv2d-transposed": (lambda: nn.ConvTranspose2d(4, 3, 3, stride=2, output_padding=1), IMAGES),
    "broadcast": (Cropped, (N, 5, 6)),
    "weight-norm": (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(6, 4)), TOKENS),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_equals_its_examples_one_at_a_time(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    make, shape = LAYERS[name]
    layer = make().to(dtype)
    x = torch.randn(shape, dtype=dtype, requires_grad=True)
    gate = Gate(layer, {"all": [""]})
    compare(layer, gate, lambda: layer(x).sin().flatten(1).square().sum(1), WEIGHTS)
    plain = torch.autograd.grad(layer(x).sin().square().sum(), x)[0]
    x.grad = None
    with gate(WEIGHTS):
        layer(x).sin().square().sum().backward()
    bound = 1e-5 if dtype == torch.float32 else 1e-12
    assert torch.allclose(x.grad, plain, rtol=bound, atol=bound), "what flows below is never gated"


@pytest.mark.parametrize("padding", [None, 0], ids=["no-padding", "padding"])
@pytest.mark.parametrize("indices", ["tokens", "labels", "one-row", "no-rows"])
def test_embeddings(indices: str, padding: int | None) -> None:
    torch.manual_seed(2)
    table = nn.Embedding(11, 6, padding_idx=padding, dtype=torch.float64)
    x = torch.randn(N, 7, 6, dtype=torch.float64)
    ids = {
        "tokens": torch.randint(0, 11, (N, 7)),
        "labels": torch.tensor([3, 0, 3, 1, 10]),
        "one-row": torch.arange(7)[None],
        "no-rows": torch.arange(7),
    }[indices]

    def losses() -> Tensor:
        rows = table(ids)
        return ((rows[:, None] if rows.dim() == 2 and len(rows) == N else rows) + x).sin().flatten(1).sum(1)

    compare(table, Gate(table, {"all": [""]}), losses, WEIGHTS)
