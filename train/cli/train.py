"""`licet train`: a run from its run.toml to a sealed checkpoint and a log that says what shaped it."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from licet.ledger import terminal
from licet.ledger.cli.options import AsJson, HomeOption
from licet.ledger.home import Home
from licet.ledger.norms import LEVELS
from licet.ledger.records import Determination
from licet.train.data.judging import Judged
from licet.train.run.file import Run, read_run
from licet.train.run.planning import Plan, planned

train = typer.Typer(add_completion=False)

_ROWS_SHOWN = 20


@train.command()
def run(
    file: Annotated[Path, typer.Argument(metavar="RUN.toml", help="What the run is made from; see train/README.md.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Put every row to the gate, say what it answers, and stop there.")
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Begin anew, also where an earlier beginning could go on.")
    ] = False,
    home: HomeOption = None,
    as_json: AsJson = False,
) -> None:
    """Train a model, recording every gradient application. A run that was interrupted goes on from its last seal."""
    asked, where = read_run(file), Home.find(home)
    if dry_run:
        _dry_run(asked, where, as_json=as_json)
        return
    from licet.train.run.session import train as train_run  # noqa: PLC0415  torch's distributed parts take a second

    outcome = train_run(asked, where, fresh=fresh)
    facts = {**asdict(outcome), "directory": str(outcome.directory), "finished": outcome.is_finished}
    if os.environ.get("RANK", "0") == "0":  # torchrun starts one of these for each rank
        terminal.show_result(facts, _sentence(outcome), as_json=as_json)
    if outcome.stopped_by is not None:
        raise typer.Exit(130 if outcome.stopped_by == "SIGINT" else 143)


def _sentence(outcome: Any) -> str:
    if outcome.is_finished:
        held = f", held out {outcome.held_out:.3f} bits per byte" if outcome.held_out is not None else ""
        is_trained = "is trained" if outcome.taken else "was trained already, and has nothing left to do"
        return f"{outcome.run} {is_trained}: {outcome.steps} steps{held}\n{outcome.directory}"
    return (
        f"{outcome.run} was stopped after {outcome.steps} of {outcome.steps_planned} steps and sealed as "
        f"{outcome.directory}\nThe same command goes on from there."
    )


def _dry_run(asked: Run, home: Home, *, as_json: bool) -> None:
    with planned(asked, home) as plan, terminal.progress("judging") as report:
        counts: Counter[str] = Counter()
        reasons: Counter[str] = Counter()
        shapes: Counter[tuple[str, str, tuple[int, ...]]] = Counter()
        shown = 0
        for judged in plan.judge.judge(plan.rows(report)):
            admission = judged.admission
            counts[admission.determination.value] += 1
            reasons.update(reason.value for reason in admission.reasons)
            shapes[admission.source or "-", judged.example.entropy_band or "-", tuple(admission.levels)] += 1
            if as_json:
                terminal.show_json(_facts(judged, plan))
            elif admission.determination is Determination.REJECTED and shown < _ROWS_SHOWN:
                shown += 1
                terminal.say(f"rejected: {judged.row.place}: {', '.join(reason.value for reason in admission.reasons)}")
    if as_json:
        terminal.show_json({"rows": sum(counts.values()), "determinations": counts, "reasons": reasons})
        return
    rejected = counts[Determination.REJECTED.value]
    if rejected > shown:
        terminal.say(f"… and {rejected - shown} more")
    bands = plan.layout.names
    rows = [
        (source, entropy, count, *(f"{_reached(plan, levels, band):.2f}" for band in range(len(bands))))
        for (source, entropy, levels), count in sorted(shapes.items(), key=lambda item: (item[0][0], -item[1]))
    ]
    terminal.show_table(("source", "entropy", "rows", *bands), rows, right=frozenset(range(2, 3 + len(bands))))
    terminal.show(f"{sum(counts.values())} rows: {', '.join(f'{n} {what}' for what, n in sorted(counts.items()))}")


def _reached(plan: Plan, levels: tuple[int, ...], band: int) -> float:
    """The most that reaches a block of a band."""
    inside = (level for level, own in zip(levels, plan.layout.own, strict=True) if band in own)
    return max(inside, default=0) / LEVELS


def _facts(judged: Judged, plan: Plan) -> dict[str, Any]:
    admission, example = judged.admission, judged.example
    return {
        "row": judged.row.place,
        "example": plan.gate.id_of(example, admission),
        "source": admission.source,
        "determination": admission.determination,
        "reasons": [reason.value for reason in admission.reasons],
        "entropy_band": example.entropy_band,
        "bits_per_byte": example.bits_per_byte,
        "levels": dict(zip(plan.gate.blocks, admission.levels, strict=True)),
        "rules": dict(zip(plan.gate.blocks, admission.rules, strict=True)),
    }
