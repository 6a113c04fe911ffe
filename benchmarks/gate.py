"""What the gate costs: time and memory of a training step, against the same model's plain step in the same run.

    python -m benchmarks.gate                               GPT-2-small-like, T = 256 and 1024, peers too; an hour
    python -m benchmarks.gate --width 256 --layers 8 --vocabulary 4096    a small model, some minutes
    python -m benchmarks.gate --model gpt2 --peers none     GPT-2 itself: tied head, Conv1D
    python -m benchmarks.gate --vocabulary 50257 --rounds 4 GPT-2's own vocabulary

A step is forward, backward and optimizer; the gate's has exact norms, a guarded optimizer and a ledger that records
every event. Plain is the same AdamW after clip_grad_norm_. Arms take turns on one model and one optimizer; each ratio
is between two neighbours, and what is told is the median, with an interval by order statistics and the confidence that
so many pairs give it. `cpu_ratio` is the same of processor time, every thread counted: the one to read on a machine
that others use too. Peak memory is that of a process that takes a few steps of one kind, less what it held before there
was a model.

The peers, on the same model: Opacus' ghost clipping and torch.func (see gate_peers.py). Opacus has neither tied weights
nor Conv1D, so peers need `--model llama`. All arms' norms are compared before anything is timed. JSON lines on stdout,
a table on stderr at the end. On a machine with a CUDA device it measures there. The full run needs 8 GiB, for
torch.func at T = 1024; without peers, 4 GiB.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from math import comb
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks import report
from benchmarks.gate_peers import PEERS, Arm, Gated, Plain, Shape, Task
from licet.ledger.errors import ConfigError, LicetError

GATE, HALF, PLAIN = "gate, norms, ledger", "the same, half excluded", "plain"
MEMORY_STEPS = 2
"""The optimizer has its state after the first."""
AGREEMENT_MAX = 1e-3
"""Peers sum in float32 as torch does; a difference beyond this means that somebody measures something else."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What one step took, by the clock and of all processors together."""

    wall_s: float
    cpu_s: float


Pair = tuple[Taken, Taken]
"""A step of some arm, and a plain one right before or after it."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    torch.set_num_threads(options.threads)
    try:
        if options.memory_of:
            _memory_of(*options.memory_of)
            return 0
        rows = [report.emit("environment", **report.environment(), **_torch_environment(options.threads))]
        for length in options.lengths:
            rows += _measure(_shape(options, length), options)
    except LicetError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    report.print_table(rows)
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("llama", "gpt2"), default="llama")
    parser.add_argument("--width", type=_positive, default=768)
    parser.add_argument("--layers", type=_positive, default=12)
    parser.add_argument("--vocabulary", type=_positive, default=8192)
    parser.add_argument("--lengths", type=_lengths, default=(256, 1024), help="of sequences, comma between")
    parser.add_argument("--tokens", type=_positive, default=2048, help="in a batch; two examples at least")
    parser.add_argument("--rounds", type=_positive, default=8)
    parser.add_argument("--peers", choices=("all", "none"), default="all")
    parser.add_argument("--peer-rounds", type=_positive, default=3)
    parser.add_argument("--threads", type=_positive, default=1)
    parser.add_argument("--memory", choices=("yes", "no"), default="yes")
    parser.add_argument("--memory-of", nargs=2, metavar=("ARM", "SHAPE"), help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    value = int(text)
    if not 0 < value < 1 << 24:
        raise argparse.ArgumentTypeError("give a positive number")
    return value


def _lengths(text: str) -> tuple[int, ...]:
    found = tuple(_positive(part) for part in text.split(","))
    if min(found) < 2:
        raise argparse.ArgumentTypeError("a sequence has two tokens at least")
    return found


def _shape(options: argparse.Namespace, length: int) -> Shape:
    if options.width % 64:
        raise ConfigError(f"A width of {options.width} is no multiple of 64.", remedy="Heads are 64 wide.")
    if options.model == "gpt2" and options.peers == "all":
        raise ConfigError("Opacus has neither tied weights nor Conv1D.", remedy="Add --peers none, or use llama.")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    batch = max(2, options.tokens // length)
    return Shape(options.model, options.width, options.layers, options.vocabulary, batch, length, device)


def _torch_environment(threads: int) -> dict[str, Any]:
    from importlib.metadata import version

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {
        "torch": torch.__version__,
        "opacus": version("opacus"),
        "transformers": version("transformers"),
        "device": device,
        "threads": threads,
    }


# -- time


def _measure(shape: Shape, options: argparse.Namespace) -> list[dict[str, Any]]:
    peers = tuple(PEERS) if options.peers == "all" else ()
    facts = {"model": shape.family, "width": shape.width, "layers": shape.layers, "T": shape.length, "N": shape.batch}
    with _arms(shape, (PLAIN, GATE, HALF, *peers)) as (task, arms):
        rows = [_agreement(task, arms, facts)]
        times: dict[str, list[Pair]] = {name: [] for name in arms}
        for number in range(options.rounds):
            for name in (GATE, HALF, *(peers if number < options.peer_rounds else ())):
                order = (PLAIN, name) if number % 2 else (name, PLAIN)
                taken = {which: _timed(task, arms[which]) for which in order}
                times[name].append((taken[name], taken[PLAIN]))
    for name in (GATE, HALF, *peers):
        rows.append(_ratio(name, times[name], facts))
    for name in peers:
        rows.append(_against_peer(name, times, facts))
    if options.memory == "yes":
        rows += _memory(shape, (GATE, HALF, *peers), facts, options.threads)
    return rows


@contextmanager
def _arms(shape: Shape, names: Sequence[str]) -> Iterator[tuple[Task, dict[str, Arm]]]:
    """Some arms on one model, and a folder for their ledgers."""
    folder = Path(tempfile.mkdtemp(prefix="licet-bench-"))
    task = Task.of(shape)
    made: dict[str, Arm] = {}
    try:
        for number, name in enumerate(names):
            own = folder / str(number)
            own.mkdir()
            if name in PEERS:
                made[name] = PEERS[name](task)
            else:
                made[name] = Plain(task) if name == PLAIN else Gated(task, own, excluded=name == HALF)
        yield task, made
    finally:
        for arm in made.values():
            if isinstance(arm, Gated):
                arm.close()
        shutil.rmtree(folder, ignore_errors=True)


def _agreement(task: Task, arms: dict[str, Arm], facts: dict[str, Any]) -> dict[str, Any]:
    """One step of each, at a learning rate of zero: it warms up, and all of them must find the same norms."""
    for group in task.optimizer.param_groups:
        group["lr"], group["wanted"] = 0.0, group["lr"]
    for arm in arms.values():
        _timed(task, arm)
    for group in task.optimizer.param_groups:
        group["lr"] = group.pop("wanted")
    expected = arms[GATE].norms
    assert expected is not None, "the gate has norms"
    differences = {
        name: float(((arm.norms.cpu().double() - expected) / expected).abs().max())
        for name, arm in arms.items()
        if name in PEERS and arm.norms is not None
    }
    for name, difference in differences.items():
        if not difference < AGREEMENT_MAX:
            raise ConfigError(f"{name} finds other norms than the gate, by {difference:.1e}.", remedy="Compare both.")
    return report.emit("largest difference of norms to the gate's", **facts, **differences)


def _timed(task: Task, arm: Arm) -> Taken:
    arm.attach()
    _synchronise(task.shape)
    started, cpu_before = time.perf_counter(), time.process_time()
    arm.step()
    _synchronise(task.shape)
    taken = Taken(time.perf_counter() - started, time.process_time() - cpu_before)
    arm.detach()
    return taken


def _synchronise(shape: Shape) -> None:
    if shape.device == "cuda":
        torch.cuda.synchronize()


def _ratio(name: str, pairs: Sequence[Pair], facts: dict[str, Any]) -> dict[str, Any]:
    ratios = [ours.wall_s / plain.wall_s for ours, plain in pairs]
    return report.emit(
        f"step time: {name}",
        **facts,
        ratio_to_plain=median(ratios),
        **_interval(ratios),
        cpu_ratio=median(ours.cpu_s / plain.cpu_s for ours, plain in pairs),
        step_s=median(ours.wall_s for ours, _ in pairs),
        plain_s=median(plain.wall_s for _, plain in pairs),
        plain_cpu_s=median(plain.cpu_s for _, plain in pairs),
        pairs=len(pairs),
        load=os.getloadavg()[0],
    )


def _against_peer(name: str, times: dict[str, list[Pair]], facts: dict[str, Any]) -> dict[str, Any]:
    """Each against its own neighbour, because a peer's step is long and the machine's load drifts meanwhile."""
    both = list(zip(times[name], times[GATE], strict=False))  # a peer has fewer rounds
    ratios = [(peer.wall_s / plain.wall_s) / (gate.wall_s / beside.wall_s) for (peer, plain), (gate, beside) in both]
    cpu = [(peer.cpu_s / plain.cpu_s) / (gate.cpu_s / beside.cpu_s) for (peer, plain), (gate, beside) in both]
    return report.emit(
        f"{name} takes",
        **facts,
        times_the_gate=median(ratios),
        **_interval(ratios),
        cpu_ratio=median(cpu),
        pairs=len(ratios),
    )


def _interval(values: Sequence[float]) -> dict[str, Any]:
    """Around the median, by order statistics: the narrowest that holds it 95 times in 100, or else all there is."""
    ordered, n = sorted(values), len(values)
    first = max((i for i in range(n // 2) if _confidence(n, i) >= 0.95), default=0)
    return {"low": ordered[first], "high": ordered[n - 1 - first], "confidence": _confidence(n, first)}


def _confidence(n: int, first: int) -> float:
    """That the median lies between the values number `first` from below and from above."""
    return max(0.0, 1 - 2 * sum(comb(n, i) for i in range(first + 1)) / 2**n)


# -- memory


def _memory(shape: Shape, names: Sequence[str], facts: dict[str, Any], threads: int) -> list[dict[str, Any]]:
    plain = _peak_mb(shape, PLAIN, threads)
    rows = [report.emit(f"peak memory: {PLAIN}", **facts, peak_mb=plain)]
    for name in names:
        peak = _peak_mb(shape, name, threads)
        rows.append(report.emit(f"peak memory: {name}", **facts, ratio_to_plain=peak / plain, peak_mb=peak))
    return rows


def _peak_mb(shape: Shape, name: str, threads: int) -> float:
    command = [sys.executable, "-m", "benchmarks.gate", "--threads", str(threads)]
    command += ["--memory-of", name, json.dumps(asdict(shape))]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise ConfigError(
            f"The process that measures the memory of {name} failed: {done.stderr.strip()[-500:]}",
            remedy="Free some memory, or take fewer --tokens.",
        )
    return float(json.loads(done.stdout)["peak_mb"])


def _memory_of(name: str, described: str) -> None:
    """What a process needs for a few steps of one kind, beyond what it had loaded before."""
    from importlib import import_module

    shape = Shape(**json.loads(described))
    for code in ("opacus.grad_sample", "licet.ledger.kernels"):
        import_module(code)  # in every process, so that none is charged for it
    import_module(f"transformers.models.{shape.family}.modeling_{shape.family}")
    before = report.resident_mb()
    with _arms(shape, (name,)) as (task, arms):
        for _ in range(MEMORY_STEPS):
            _timed(task, arms[name])
    on_device = shape.device == "cuda"
    peak = torch.cuda.max_memory_allocated() / 1e6 if on_device else _high_water_mb() - before
    sys.stdout.write(json.dumps({"peak_mb": peak}) + "\n")


def _high_water_mb() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024 / 1e6


if __name__ == "__main__":
    sys.exit(main())
