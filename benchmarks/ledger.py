"""The ledger's figures: appending, size, questions, proofs, verification, reopening after a crash; and two peers.

    python -m benchmarks.ledger                      the full run: ten million events
    python -m benchmarks.ledger --events 1000000     a shorter one
    python -m benchmarks.ledger --plot growth.svg    also draws how the figures grow

JSON lines on stdout, a table on stderr at the end. Peers get the same events in the same batches, in the same run.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import report, workload
from benchmarks.ledger_peers import PymerkleTree, SqliteChain
from benchmarks.workload import Shape
from licet.ledger import proof
from licet.ledger.background import BackgroundWriter
from licet.ledger.events import Events
from licet.ledger.fsck import fsck
from licet.ledger.log import Ledger, now_ms
from licet.ledger.note import SigningKey, VerifierKey
from licet.ledger.reader import LogReader
from licet.ledger.records import (
    AttestationMentioned,
    Block,
    Determination,
    Digest,
    ExampleAdmitted,
    ProfileDeclared,
    Ref,
    RunStarted,
    Signed,
    Stage,
    Technique,
)
from licet.ledger.verify import verify

KEY = SigningKey.generate("bench.example/training")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=float, default=1e7)
    parser.add_argument("--examples", type=float, default=1e6)
    parser.add_argument("--peer-events", type=float, default=1e6, help="how many the peers get")
    parser.add_argument("--dir", type=Path, help="where to write; default: a temporary folder")
    parser.add_argument("--plot", type=Path, help="draw how the figures grow")
    parser.add_argument("--child", nargs=2, metavar=("PATH", "SHAPE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        _child(Path(options.child[0]), Shape(**json.loads(options.child[1])))
        return
    folder = Path(tempfile.mkdtemp(prefix="licet-bench-", dir=options.dir))
    try:
        rows = _run(folder, Shape(int(options.events), examples=int(options.examples)), int(options.peer_events))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    report.print_table(rows)
    if options.plot:
        from benchmarks.plots import plot_growth

        plot_growth(rows, options.plot)


def _run(folder: Path, shape: Shape, peer_events: int) -> list[dict[str, Any]]:
    rows = [report.emit("environment", **report.environment())]
    rows.append(report.emit("fdatasync of one commit's bytes", **report.fsync_ms(folder)))
    rows += _peers(folder, shape, peer_events)
    rows += _append_and_crash(folder / "training", shape)
    admitted = next(row["bytes_on_disk"] for row in rows if row["what"] == "admissions")
    rows += _reopen(folder / "training", shape, admitted)
    shutil.rmtree(folder / "training")
    for blocks in (8, 64):
        small = Shape(min(shape.events, 1_000_000), examples=min(shape.examples, 100_000), blocks=blocks)
        with _Bench(folder / f"blocks{blocks}", small) as bench:
            before = bench.size_on_disk()
            for step in workload.steps(small):
                bench.append(step)
            bench.ledger.close()
            rows.append(report.emit("disk", blocks=blocks, events=small.events, **bench.bytes_per_event(before)))
    return rows


class _Bench:
    """A log with its run, sources and examples admitted, ready for events."""

    def __init__(self, path: Path, shape: Shape) -> None:
        self.path = path
        self.shape = shape
        self.ledger = Ledger.create(path, KEY)
        self.blocks = [f"block.{i}" for i in range(shape.blocks)]
        blocks = tuple(Block(name, ("all",), 1_000_000) for name in self.blocks)
        started = RunStarted("bench", "bench", blocks, Technique.SCALE, Stage.ENFORCE, None, None, None, now_ms())
        run = Ref(self.ledger.append(started))
        self.profile = self.ledger.append(ProfileDeclared(run, (Signed(15),) * shape.blocks, ("full",) * shape.blocks))
        mentions = [AttestationMentioned(_digest("a", i), f"source.{i}") for i in range(shape.sources)]
        attestations = np.array([self.ledger.append(mention) for mention in mentions])
        self.ledger.commit()
        self.attestation_of = attestations[workload.source_of(shape, np.arange(shape.examples))]
        self.example_refs = np.empty(shape.examples, np.int64)

    def admit(self) -> None:
        for i in range(self.shape.examples):
            ref, profile = Ref(int(self.attestation_of[i])), Ref(self.profile)
            admitted = Determination.ADMITTED
            self.example_refs[i] = self.ledger.append(
                ExampleAdmitted(
                    _digest("e", i), _digest("c", i), ref, None, profile, admitted, (), "middle", 4.5, 0, (), None
                )
            )
            if i % 1024 == 1023:
                self.ledger.commit()
        self.ledger.commit()

    def events(self, step: workload.Step) -> Events:
        return Events.of(
            example=self.example_refs[step.examples],
            attestation=self.attestation_of[step.examples],
            profile=self.profile,
            step=step.step,
            slot=np.arange(self.shape.batch),
            norms_raw=step.norms,
        )

    def append(self, step: workload.Step) -> None:
        """One durable commit."""
        self.ledger.append_events(self.events(step))
        self.ledger.commit()

    def size_on_disk(self) -> int:
        return report.size_on_disk(self.path)

    def bytes_per_event(self, before: int) -> dict[str, float]:
        after = self.size_on_disk()
        return {
            "bytes_per_event": (after - before) / self.shape.events,
            "bytes_per_event_admissions_included": after / self.shape.events,
        }

    def __enter__(self) -> _Bench:
        self.admit()
        return self

    def __exit__(self, *_: object) -> None:
        self.ledger.close()


def _digest(kind: str, number: int) -> Digest:
    return Digest(workload.digest(kind, number))


# ---- peers -----------------------------------------------------------------------------------------------------


def _peers(folder: Path, shape: Shape, count: int) -> list[dict[str, Any]]:
    """Licet and each peer over the same first events, one after another."""
    part = Shape(count - count % shape.batch, shape.sources, min(shape.examples, count), shape.blocks, shape.batch)
    rows = []
    with _Bench(folder / "same", part) as bench:
        ours = _rate(part, bench.append)
        rows.append(report.emit("append", system="licet", commits="one by one", events=part.events, events_per_s=ours))
        entries = [entry for _, entry in bench.ledger.entries(bench.ledger.size - shape.batch)]
    with _Bench(folder / "queued", part) as bench, BackgroundWriter(bench.ledger) as writer:
        queued = _rate(part, lambda step: writer.submit([bench.events(step)]), writer.flush)
        rows.append(report.emit("append", system="licet", commits="queued", events=part.events, events_per_s=queued))
    chain = SqliteChain(folder, part)
    rate = _rate(part, lambda step: chain.append(step, workload.source_of(part, step.examples)))
    chain.close()
    size = (folder / "chain.db").stat().st_size / part.events
    facts = {"events": part.events, "events_per_s": rate, "bytes_per_event": size, "licet_is_faster_by": ours / rate}
    rows.append(report.emit("append", system="sqlite hash chain", **facts))
    for name, tree, per_call in (
        ("pymerkle, a batch a transaction, no root", PymerkleTree(folder, with_root=False), shape.batch),
        ("pymerkle, a batch a transaction, root after each", PymerkleTree(folder, with_root=True), shape.batch),
        ("pymerkle, an entry a transaction", PymerkleTree(folder / "same", with_root=False), 1),
    ):
        total, seconds = 0, time.perf_counter()
        while total < part.events and time.perf_counter() - seconds < 60:
            if per_call == 1:
                tree.append_one(entries[total % len(entries)])
            else:
                tree.append(entries)
            total += per_call
        rate = total / (time.perf_counter() - seconds)
        tree.close()
        rows.append(report.emit("append", system=name, events=total, events_per_s=rate, licet_is_faster_by=ours / rate))
    for name in ("same", "queued"):
        shutil.rmtree(folder / name)
    (folder / "chain.db").unlink()
    return rows


def _rate(shape: Shape, append: Any, finish: Any = None) -> float:
    steps = list(workload.steps(shape))
    started = time.perf_counter()
    for step in steps:
        append(step)
    if finish is not None:
        finish()
    return shape.events / (time.perf_counter() - started)


# ---- the long run ----------------------------------------------------------------------------------------------


def _append_and_crash(path: Path, shape: Shape) -> list[dict[str, Any]]:
    """A child appends everything, asks its questions on the way, and is killed in the middle of more."""
    arguments = [sys.executable, "-m", "benchmarks.ledger", "--child", str(path), json.dumps(_fields(shape))]
    rows = []
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for line in child.stdout:
            row = json.loads(line)
            if row["what"] == "appended everything":
                time.sleep(0.5)  # it goes on appending: let the kill hit that
                child.send_signal(signal.SIGKILL)
                break
            rows.append(row)
            sys.stdout.write(line)
            sys.stdout.flush()
    return rows


def _child(path: Path, shape: Shape) -> None:
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    bench = _Bench(path, shape)
    started = time.perf_counter()
    bench.admit()
    rate = shape.examples / (time.perf_counter() - started)
    before = bench.size_on_disk()
    report.emit("admissions", examples=shape.examples, per_s=rate, bytes_on_disk=before)
    marks = [m for m in (100_000, 300_000, 1_000_000, 3_000_000, 10_000_000) if m < shape.events] + [shape.events]
    done, since, times = 0, 0, []
    whole = 0.0
    for step in workload.steps(shape):
        started = time.perf_counter()
        bench.append(step)
        times.append(time.perf_counter() - started)
        done += shape.batch
        if done >= marks[0] - shape.batch:
            marks.pop(0)
            whole += sum(times)
            rate = (done - since) / sum(times)
            facts = {"events_per_s": rate, "resident_mb": report.resident_mb(), **report.quantiles_ms(times)}
            report.emit("append growth", events=done, **facts)
            _questions(bench, done)
            since, times = done, []
    report.emit("append sustained", events=done, events_per_s=done / whole)
    bench.ledger.checkpoint()
    report.emit("disk, log still open", blocks=shape.blocks, events=done, **bench.bytes_per_event(before))
    sys.stdout.write(json.dumps({"what": "appended everything", "pid": os.getpid()}) + "\n")
    sys.stdout.flush()
    number = done // shape.batch
    while True:
        step = workload.Step(number, np.arange(shape.batch), np.ones((shape.batch, shape.blocks), np.float32))
        bench.append(step)
        number += 1


def _questions(bench: _Bench, done: int) -> None:
    """Latencies of the writer's own answers at this size."""
    rng = np.random.default_rng(1)
    exposure, shape = bench.ledger.exposure, bench.shape
    note = bench.ledger.checkpoint()
    picks = [list(rng.choice(bench.blocks, 8, replace=False)) for _ in range(500)]
    names = [f"source.{i}" for i in rng.integers(0, shape.sources, 500).tolist()]
    indices = (bench.ledger.size - 1 - rng.integers(0, done, 500)).tolist()
    started = time.perf_counter()
    exposure.reverse(picks[0])  # sums what waits from the last commits
    first = (time.perf_counter() - started) * 1e3
    times = report.latencies(lambda i: exposure.reverse(picks[i]), 500)
    report.emit("reverse, 8 blocks, top 20", events=done, **times, first_after_appends_ms=first)
    report.emit(
        "forward, one source", events=done, **report.latencies(lambda i: exposure.forward(source=names[i]), 500)
    )
    proofs: list[tuple[proof.Proof, bytes]] = []
    made = report.latencies(lambda i: bench.ledger.prove_inclusion(indices[i]), 500)
    report.emit("prove one entry", events=done, **made)
    for index in indices[:100]:
        proofs.append((proof.make_proof(bench.ledger, index, note), bench.ledger.entry(index)))
    key = [bench.ledger.first_key]
    checked = report.latencies(lambda i: proof.verify_proof(*proofs[i % 100], key), 500)
    report.emit("verify one proof, signature included", events=done, **checked)


def _reopen(path: Path, shape: Shape, admitted: int) -> list[dict[str, Any]]:
    started = time.perf_counter()
    ledger = Ledger.open(path)
    opened = time.perf_counter() - started
    ledger.exposure.reverse(["block.0"])
    facts = {"open_s": opened, "with_exposure_s": time.perf_counter() - started, "resident_mb": report.resident_mb()}
    rows = [report.emit("open after a kill", entries=ledger.size, **facts)]
    key: VerifierKey = ledger.first_key
    ledger.close()
    with LogReader.open(path) as log:
        note = log.latest_checkpoint()
        assert note is not None
        started = time.perf_counter()
        checked = verify(log, note, key)
        seconds = time.perf_counter() - started
    events = checked.kinds["GradientApplied"]
    size = report.size_on_disk(path)
    sizes = {"bytes_per_event": (size - admitted) / events, "bytes_per_event_admissions_included": size / events}
    rows.append(report.emit("disk", blocks=shape.blocks, events=events, **sizes))
    facts = {"events": events, "entries": checked.size, "seconds": seconds}
    rows.append(report.emit("verify entries, tree, signature", **facts, events_per_s=events / seconds))
    started = time.perf_counter()
    fsck(path, key)
    seconds = time.perf_counter() - started
    rows.append(report.emit("verify all, indexes too", events=events, seconds=seconds, events_per_s=events / seconds))
    return rows


def _fields(shape: Shape) -> dict[str, int]:
    return {name: getattr(shape, name) for name in ("events", "sources", "examples", "blocks", "batch")}


if __name__ == "__main__":
    main()
