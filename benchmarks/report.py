"""What every benchmark prints: JSON lines on stdout, and what they were measured on."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def emit(what: str, **facts: Any) -> dict[str, Any]:
    """One result, as one line."""
    row = {"what": what, **{name: _rounded(value) for name, value in facts.items()}}
    sys.stdout.write(json.dumps(row) + "\n")
    sys.stdout.flush()
    return row


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    """All results once more, for a person."""
    for row in rows:
        facts = "  ".join(f"{name}={value}" for name, value in row.items() if name != "what")
        sys.stderr.write(f"{row['what']:<40} {facts}\n")


def environment() -> dict[str, Any]:
    """The hardware, the versions and the commit."""
    from importlib.metadata import version

    cpu = next((line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "")
    memory = next((int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / 2**20, 1),
        "python": platform.python_version(),
        "rocksdict": version("rocksdict"),
        "numba": version("numba"),
        "commit": commit.stdout.strip() or "unknown",
        "load_before": os.getloadavg()[0],
    }


def fsync_ms(folder: Path, *, count: int = 200, size: int = 24_000) -> dict[str, float]:
    """What one durable write of the size of a commit costs on this disk: the floor under every figure here."""
    path = folder / "fsync-probe"
    times = []
    with path.open("wb", buffering=0) as file:
        for _ in range(count):
            file.write(b"x" * size)
            started = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - started)
    path.unlink()
    return quantiles_ms(times)


def latencies(call: Callable[[int], object], count: int) -> dict[str, float]:
    """The spread of some calls, after a few to warm up."""
    for i in range(min(20, count)):
        call(i)
    times = []
    for i in range(count):
        started = time.perf_counter()
        call(i)
        times.append(time.perf_counter() - started)
    return quantiles_ms(times)


def quantiles_ms(times_s: Sequence[float]) -> dict[str, float]:
    ordered = sorted(times_s)
    return {
        name: ordered[min(len(ordered) - 1, int(len(ordered) * q))] * 1e3
        for name, q in (("p50_ms", 0.5), ("p99_ms", 0.99), ("max_ms", 1.0))
    }


def resident_mb() -> float:
    """What this process holds in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def size_on_disk(folder: Path) -> int:
    """Every byte of every file below a folder, by what the file system gave it."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return value
