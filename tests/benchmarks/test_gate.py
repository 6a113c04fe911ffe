"""The gate's benchmark: that its arms do the same work, that its intervals are right, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import gate as benchmark
from benchmarks.gate_peers import PEERS, Gated, Plain, Shape, Task, example_weights
from licet.ledger.reader import LogReader
from licet.ledger.records import StepTaken

torch.set_num_threads(1)
SHAPE = Shape("llama", 64, 1, 96, 4, 16)


def gradients_of(task: Task, arm: object) -> dict[str, torch.Tensor]:
    """What an arm hands to the optimizer, caught where it would clip it."""
    caught: dict[str, torch.Tensor] = {}

    def catch(*_: object) -> None:
        caught.update({name: p.grad.clone() for name, p in task.model.named_parameters() if p.grad is not None})

    handle = task.optimizer.register_step_pre_hook(catch)
    arm.attach()
    arm.step()
    arm.detach()
    handle.remove()
    return caught


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_computes_what_the_gate_computes(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.gate_peers.CLIP_NORM", 1e9)
    monkeypatch.setattr("benchmarks.gate_peers.LEARNING_RATE", 0.0)
    task = Task.of(SHAPE)
    gated, peer = Gated(task, tmp_path), PEERS[name](task)
    theirs = gradients_of(task, peer)
    expected = torch.autograd.grad((example_weights(4) * task.losses()).sum(), list(task.model.parameters()))
    gated.attach()
    gated.step()
    gated.detach()
    gated.close()
    for (parameter, _), gradient in zip(task.model.named_parameters(), expected, strict=True):
        assert torch.allclose(theirs[parameter], gradient, rtol=1e-4, atol=1e-6), parameter
    assert peer.norms is not None and gated.norms is not None
    assert torch.allclose(peer.norms.double(), gated.norms, rtol=1e-5)


def test_the_gates_arm_records_each_step(tmp_path: Path) -> None:
    task = Task.of(SHAPE)
    arm = Gated(task, tmp_path, excluded=True)
    for _ in range(3):
        arm.attach()
        arm.step()
        arm.detach()
    arm.close()
    assert arm.norms is not None and arm.norms.isnan().tolist() == [False, True, False, True]
    with LogReader.open(tmp_path / "training") as log:
        entries = [log.record(index) for index in range(log.size)]
    assert [entry.step for entry in entries if isinstance(entry, StepTaken)] == [0, 1, 2]


def test_arms_leave_the_model_as_it_was(tmp_path: Path) -> None:
    task = Task.of(SHAPE)
    plain = Plain(task)
    for make in PEERS.values():
        arm = make(task)
        arm.attach()
        arm.step()
        arm.detach()
        plain.step()
        assert all(p.grad is None for p in task.model.parameters())
        assert not any(module._forward_hooks for module in task.model.modules())


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=40))
def test_an_interval_holds_the_median(values: list[float]) -> None:
    found = benchmark._interval(values)
    assert found["low"] <= median(values) <= found["high"]
    assert 0 <= found["confidence"] < 1


@pytest.mark.parametrize(("count", "first", "confidence"), [(5, 0, 0.9375), (6, 0, 0.96875), (20, 5, 0.9586)])
def test_intervals_by_order_statistics(count: int, first: int, confidence: float) -> None:
    found = benchmark._interval([float(i) for i in range(count)])
    assert (found["low"], found["high"]) == (first, count - 1 - first)
    assert found["confidence"] == pytest.approx(confidence, abs=1e-4)


def test_a_run_prints_a_line_for_each_figure(capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--width", "64", "--layers", "1", "--vocabulary", "96", "--lengths", "16", "--tokens", "64"]
    assert benchmark.main([*small, "--rounds", "1", "--peer-rounds", "1", "--memory", "no"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    titles = [row["what"] for row in rows]
    assert titles.count("step time: gate, norms, ledger") == 1
    assert all(f"{peer} takes" in titles for peer in PEERS)
    assert max(rows[1][peer] for peer in PEERS) < 1e-4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--width", "100"], "no multiple of 64"), (["--model", "gpt2"], "Opacus has neither tied weights")],
)
def test_what_cannot_be_measured_is_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert benchmark.main(arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--rounds", "0"], ["--lengths", "1"], ["--lengths", "a"], ["--width", "-1"]])
def test_arguments_out_of_bounds(arguments: list[str]) -> None:
    with pytest.raises(SystemExit):
        benchmark.main(arguments)
