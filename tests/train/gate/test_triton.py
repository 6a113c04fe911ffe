"""The Triton kernel against the rule of linear layers: interpreted on the CPU, compiled for a GPU, and run on one.

Triton reads TRITON_INTERPRET when it is imported, so the interpreted checks run in one process of their own.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import traceback
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

CHECKS: dict[str, Callable[[], None]] = {}
BOUND = 2e-6
"""Of float32 sums; bfloat16 operands are exact in them."""


def check(function: Callable[[], None]) -> Callable[[], None]:
    CHECKS[function.__name__] = function
    return function


# -- under the interpreter


def operands(n: int, t: int, p: int, k: int, dtype: torch.dtype, device: str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n + t + p + k)
    x, d = (torch.randn(n, t, size, generator=generator).to(device, dtype) for size in (k, p))
    weights = torch.tensor([(1.0, 0.0, -0.5, 0.25, 1 / 15, 0.0, -1.0)[i % 7] for i in range(n)], device=device)
    return x, d, weights


def reference(x: Tensor, d: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    each = torch.einsum("ntp,ntk->npk", d.double(), x.double())
    norms = each.flatten(1).norm(dim=1)
    return (each * weights.double()[:, None, None]).sum(0), torch.where(weights == 0, 0, norms)


def agree(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor], bound: float = BOUND) -> None:
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == torch.float32 and a.shape == b.shape
        error = float((a.double() - b).norm())
        assert error <= bound * max(float(b.norm()), 1e-9), f"{error / float(b.norm()):.1e}"


def small_tiles() -> list:
    from licet.train.gate.triton_linear import DEFAULT_TILES, Tiles

    return [DEFAULT_TILES, Tiles(32, 64, 16), Tiles(64, 16, 64)]


SHAPES = [(1, 1, 1, 1), (3, 5, 7, 9), (4, 32, 16, 32), (3, 33, 40, 17), (2, 40, 130, 33), (2, 0, 4, 5)]


@check
def shapes_odd_and_even_types_and_tiles() -> None:
    from licet.train.gate.triton_linear import DEFAULT_TILES, weight_gradient

    for shape in SHAPES:
        for dtype, tiles in product((torch.float32, torch.bfloat16, torch.float16), small_tiles()):
            if tiles != DEFAULT_TILES or dtype == torch.bfloat16:
                x, d, weights = operands(*shape, dtype)
                agree(weight_gradient(x, d, weights, tiles=tiles), reference(x, d, weights))


@check
def two_runs_are_bitwise_equal() -> None:
    from licet.train.gate.triton_linear import weight_gradient

    for dtype in (torch.float32, torch.bfloat16):
        x, d, weights = operands(7, 20, 40, 17, dtype)
        first, second = (weight_gradient(x, d, weights, tiles=small_tiles()[1]) for _ in range(2))
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@check
def nothing_of_an_excluded_example_is_read() -> None:
    from licet.train.gate.triton_linear import weight_gradient

    x, d, weights = operands(4, 20, 18, 19, torch.float32)
    before = weight_gradient(x, d, weights)
    x[1], d[1] = torch.inf, torch.nan
    after = weight_gradient(x, d, weights)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    nobody = weight_gradient(x, d, torch.zeros(4))
    assert not nobody[0].any() and not nobody[1].any()


@check
def an_admitted_infinity_shows_in_gradient_and_norm() -> None:
    from licet.train.gate.triton_linear import weight_gradient

    x, d, weights = operands(4, 20, 18, 19, torch.float32)
    x[0, 3, 2] = torch.inf
    grad, norms = weight_gradient(x, d, weights)
    assert not grad.isfinite().all()
    assert not norms[0].isfinite() and norms[1:].isfinite().all()


@check
def norms_of_large_and_small_numbers() -> None:
    from licet.train.gate.triton_linear import weight_gradient

    for size in (1e-15, 1e15):
        x, d, weights = operands(3, 6, 20, 20, torch.float32)
        agree(weight_gradient(x * size, d * size, weights), reference(x * size, d * size, weights))


@check
def operands_that_do_not_lie_in_rows() -> None:
    from licet.train.gate.triton_linear import weight_gradient

    x, d, weights = operands(3, 21, 24, 18, torch.float32)
    x_across = x.transpose(1, 2).contiguous().transpose(1, 2)
    d_apart = torch.stack([d, torch.full_like(d, torch.nan)], dim=-1)[..., 0]
    agree(weight_gradient(x_across, d_apart, weights), reference(x, d, weights))


@check
def packed_segments() -> None:
    from licet.train.gate.triton_linear import weight_gradient

    x, d, _ = operands(1, 50, 18, 33, torch.float32)
    weights = torch.tensor([0.5, 1.0, 0.0, -1.0, 2.0])
    for kind in (torch.int32, torch.int64):
        offsets = torch.tensor([3, 20, 20, 31, 32, 47], dtype=kind)  # a gap before, an empty one, one of one, a rest
        parts = [
            reference(x[:, a:b], d[:, a:b], w[None]) for a, b, w in zip(offsets[:-1], offsets[1:], weights, strict=True)
        ]
        expected = torch.stack([g for g, _ in parts]).sum(0), torch.cat([n for _, n in parts])
        agree(weight_gradient(x[0], d[0], weights, offsets=offsets, tiles=small_tiles()[1]), expected)


@check
def the_rule_of_linear_layers_answers_the_same() -> None:
    from licet.train.gate.placement import Placement
    from licet.train.gate.rules import RULES, Scratch, Share, Use
    from licet.train.gate.triton_linear import combined

    share = Share((0, 2), (0.4, -1.0))
    ids = torch.tensor([[0, 0, 0, 1, 1, -1], [2, 2, 1, 0, 2, 2]])
    cases = [
        (Placement(3), (3, 6)),
        (Placement(3), (3,)),
        (Placement(3), (3, 2, 5)),
        (Placement(3, torch.tensor([0, 2, 1, 0])), (4, 6)),
        (Placement(3, ids), (2, 6)),
    ]
    for placement, lead in cases:
        left, right = torch.randn(*lead, 18), torch.randn(*lead, 20)
        use = Use((left, right), (), (18, 20), placement, Scratch())
        total, squares = combined(use, share)
        expected = RULES["linear"].combined(use, share)
        agree((total, squares.float()), tuple(part.double() for part in expected), 1e-5)
        assert squares.dtype == torch.float64


@check
def a_gated_model_gets_its_gradients_from_the_kernel() -> None:
    from dataclasses import replace

    from licet.train import Gate
    from licet.train.blocks import describe
    from licet.train.gate.rules import RULES
    from licet.train.gate.triton_linear import combined
    from tests.train.gate.models import ROWS, build
    from tests.train.gate.oracle import compare, some_weights

    usual = RULES["linear"]
    RULES["linear"] = replace(usual, combined=combined)
    try:
        for name in ("llama", "gpt2"):
            case = build(name, torch.float32)
            gate = Gate(case.model, describe(case.model)[1])
            compare(case.model, gate, case.losses, some_weights(ROWS, len(gate.block_names)), bound=5e-6)
    finally:
        RULES["linear"] = usual


@check
def what_the_kernel_takes_for_granted_is_asked_for() -> None:
    from licet.train.gate import BatchError, WeightsError
    from licet.train.gate.triton_linear import applies, weight_gradient

    x, d, w = torch.randn(3, 4, 5), torch.randn(3, 4, 6), torch.ones(3)
    at = torch.tensor([0, 4, 8, 12])
    flat = x.flatten(0, 1), d.flatten(0, 1)
    refused = [
        (BatchError, "No weight gradient", (x, d[:, :3], w), {}),
        (BatchError, "No weight gradient", (*flat, w), {}),
        (BatchError, "No weight gradient", (x, d, w), {"offsets": at}),
        (BatchError, "without features", (x[..., :0], d, w), {}),
        (BatchError, "No kernel for torch.float64", (x.double(), d.double(), w), {}),
        (BatchError, "No kernel for", (x, d.bfloat16(), w), {}),
        (BatchError, "different devices", (x, d, w.to("meta")), {}),
        (WeightsError, "2 weights for 3", (x, d, w[:2]), {}),
        (WeightsError, "are floats", (x, d, w.long()), {}),
        (WeightsError, "are floats", (x, d, w[:, None]), {}),
        (WeightsError, "4 of them for 3", (*flat, w), {"offsets": at[:3]}),
        (WeightsError, "Offsets are integers", (*flat, w), {"offsets": at.float()}),
        (WeightsError, "rise from 0", (*flat, w), {"offsets": at + 1}),
        (WeightsError, "rise from 0", (*flat, w), {"offsets": at - 1}),
        (WeightsError, "rise from 0", (*flat, w), {"offsets": at[[0, 2, 1, 3]]}),
        (WeightsError, "next to each other", (*flat, w), {"offsets": at.repeat_interleave(2)[::2]}),
    ]
    for kind, says, given, options in refused:
        with pytest.raises(kind, match=says):
            weight_gradient(*given, **options)
    assert not applies(d, x), "on the CPU the rule of linear.py answers"


def run(*command: str, **env: str) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parents[3]
    surroundings = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"} | env
    return subprocess.run(
        [sys.executable, *command], cwd=root, env=surroundings, capture_output=True, text=True, timeout=240, check=False
    )


@pytest.fixture(scope="module")
def interpreted() -> dict[str, str]:
    pytest.importorskip("triton")
    done = run(__file__, TRITON_INTERPRET="1")
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("name", CHECKS)
def test_under_the_interpreter(name: str, interpreted: dict[str, str]) -> None:
    assert interpreted[name] == ""


def main() -> None:
    found = {}
    for name, function in CHECKS.items():
        try:
            function()
            found[name] = ""
        except (Exception, pytest.fail.Exception):  # noqa: BLE001 a failing check is reported beside the others
            found[name] = traceback.format_exc()
    print(json.dumps(found))


# -- without any device


def test_the_gate_works_without_triton() -> None:
    code = """
import sys
sys.modules["triton"] = None
import torch, licet.train
from licet.train import Gate
model = torch.nn.Linear(3, 3)
gate = Gate(model, {"all": [""]})
with gate(torch.ones(2, 1)):
    model(torch.randn(2, 3)).sum().backward()
print(gate.norms.shape)
"""
    done = run("-c", code)
    assert done.returncode == 0, done.stderr
    assert "[2, 1]" in done.stdout


@pytest.fixture
def uninterpreted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("triton")
    if os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("Triton interprets in this process")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


@pytest.mark.usefixtures("uninterpreted")
def test_cpu_tensors_are_refused_where_nothing_interprets() -> None:
    from licet.train.gate import BatchError
    from licet.train.gate.triton_linear import weight_gradient

    with pytest.raises(BatchError, match=r"The kernel does not run on cpu. Use a GPU"):
        weight_gradient(torch.ones(1, 2, 3), torch.ones(1, 2, 3), torch.ones(1))


@pytest.mark.usefixtures("uninterpreted")
@pytest.mark.parametrize(("arch", "instruction"), [(80, "mma.sync"), (90, "wgmma.mma_async")])
def test_compiles_for_tensor_cores_without_atomics(arch: int, instruction: str) -> None:
    """Needs no device: what would run on one is read as assembly."""
    pytest.importorskip("triton.backends.nvidia")
    from licet.train.gate import triton_linear as t

    tiles = t.DEFAULT_TILES
    pointers = dict.fromkeys(("grad", "scales", "sums", "weights", "offsets"), "*fp32") | {"x": "*bf16", "d": "*bf16"}
    fixed = {"x_column": 1, "d_column": 1, "SEGMENTED": False, "PRECISION": "ieee", "WIDEN": False}
    fixed |= {"TILE_P": tiles.p, "TILE_K": tiles.k, "TILE_T": tiles.tokens}
    products = assembly(t._gradient_tiles, arch, pointers, fixed, num_warps=tiles.warps, num_stages=tiles.stages)
    pointers = dict.fromkeys(("scales", "sums", "norms"), "*fp32")
    sums = assembly(t._sum_tiles, arch, pointers, {"TILE": t.TILES_TO_SUM})
    assert instruction in products
    for code in (products, sums):
        assert not re.search(r"^\s*(@\S+ )?(atom|red)\.", code, re.MULTILINE), "the order of sums would be open"


def assembly(kernel: Any, arch: int, pointers: dict[str, str], constants: dict[str, Any], **options: int) -> str:
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    names = kernel.arg_names
    types = {name: pointers.get(name, "constexpr" if name in constants else "i32") for name in names}
    fixed = {(names.index(name),): value for name, value in constants.items()}
    even = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if types[name] != "constexpr"}
    source = ASTSource(kernel, types, fixed, even)
    found: str = compile(source, target=GPUTarget("cuda", arch, 32), options=options).asm["ptx"]
    return found


# -- on a device

no_device = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.gpu
@no_device
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [*SHAPES, (8, 1024, 768, 3072), (16, 257, 1000, 333)])
def test_on_a_device(shape: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    from licet.train.gate.triton_linear import applies, weight_gradient

    x, d, weights = operands(*shape, dtype, "cuda")
    assert applies(d, x)
    first, second = (weight_gradient(x, d, weights) for _ in range(2))
    agree(first, reference(x, d, weights))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.gpu
@no_device
def test_packed_segments_on_a_device() -> None:
    from licet.train.gate.triton_linear import weight_gradient

    x, d, weights = operands(4, 96, 200, 136, torch.bfloat16, "cuda")
    offsets = torch.arange(5, device="cuda") * 96
    found = weight_gradient(x.flatten(0, 1), d.flatten(0, 1), weights, offsets=offsets)
    agree(found, reference(x, d, weights))
    rows = weight_gradient(x, d, weights)
    assert all(torch.equal(a, b) for a, b in zip(found, rows, strict=True))


if __name__ == "__main__":
    main()
