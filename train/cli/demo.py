"""`licet demo`: a small governed model, trained here and now; each claim is checked on the log of that run."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from transformers.utils.logging import disable_progress_bar

from licet.ledger import terminal
from licet.ledger.cli.options import AsJson
from licet.ledger.errors import Finding
from licet.ledger.files import write_whole
from licet.ledger.home import Home
from licet.ledger.norms import LEVELS
from licet.ledger.reader import LogReader
from licet.ledger.records import AttestationMentioned, Determination, ExampleAdmitted
from licet.policies import wire
from licet.policies.cli.recording import reading
from licet.policies.evaluate import evaluate
from licet.policies.reasons import Reason
from licet.train.blocks import describe
from licet.train.cli import demo_lessons, demo_proofs, demo_recital
from licet.train.cli.demo_claims import Claims
from licet.train.cli.demo_lessons import Lesson, Role
from licet.train.cli.demo_proofs import Trained
from licet.train.data import tokenizer
from licet.train.data.judging import Judged
from licet.train.heatmap import Heatmap
from licet.train.run import models
from licet.train.run.file import Run, read_run
from licet.train.run.folder import RunFolder
from licet.train.run.planning import Plan, planned
from licet.train.run.session import Outcome, train

demo = typer.Typer(add_completion=False)
STEPS, SEED = 120, 1
RECITED_MIN = 50
"""Tokens in a row, as in studies of extraction."""
_QUOTED_CHARS = 160
_RIGHT = frozenset({2, 3, 4})
"""Columns of numbers."""


@dataclass(frozen=True, slots=True)
class _Prepared:
    """What the run is made from, and what the gate said of it."""

    home: Home
    place: Path
    run: Run
    lessons: tuple[Lesson, ...]
    judged: tuple[Judged, ...]
    blocks: tuple[str, ...]


@demo.command()
def command(
    directory: Annotated[
        Path | None, typer.Option("--dir", help="Keep everything here to look at. Default: a scratch folder.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Fail if anything that is claimed does not hold.")] = False,
    as_json: AsJson = False,
) -> None:
    """Attest the installed packages, train a small governed model until it recites some, then ask, prove and attack."""
    claims = Claims(quiet=as_json)
    place = directory or Path(tempfile.mkdtemp(prefix="licet-demo-"))
    try:
        trained, lessons = show(place, claims)
        if directory is not None:
            claims.tell(further(trained, lessons))
    finally:
        if directory is None:
            shutil.rmtree(place, ignore_errors=True)
    if as_json:
        terminal.show_json(claims.held)
    if check and not all(claims.held.values()):
        raise Finding("Not everything that the demo claims held.")


def show(place: Path, claims: Claims, *, steps: int = STEPS, seed: int = SEED) -> tuple[Trained, tuple[Lesson, ...]]:
    """The whole demo, in a folder: what was trained there, and on what."""
    with one_thread():
        prepared = _decide(Home.create(place / "home", "demo.licet"), place, claims, steps, seed)
        outcome = _train(prepared, claims)
        _recite(prepared, outcome, claims)
        _ask(prepared, claims)
        trained = Trained(prepared.home, place, outcome.directory)
        demo_proofs.prove(trained, claims)
        demo_proofs.verify_checkpoint(trained, claims)
        demo_proofs.attack(trained, claims)
        return trained, prepared.lessons


@contextmanager
def one_thread() -> Iterator[None]:
    """The model is too small for more, and on a busy machine threads that wait for each other take much longer."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def further(trained: Trained, lessons: Sequence[Lesson]) -> str:
    """What to try with a demo that was kept."""
    place, home = trained.place, trained.home.path
    (narrowed, *_) = (lesson.source for lesson in lessons if lesson.role is Role.NARROWED)
    return (
        f"\nEverything is in {place}. Try:\n"
        f"  licet train {place / 'run.toml'} --home {home}\n"
        f"  licet train {place / 'run.toml'} --dry-run --home {home}\n"
        f"  licet ledger forward training --source {narrowed} --home {home}\n"
        f"  licet policy explain {place / 'examples.jsonl'} --row 1 --layers 6 --home {home}\n"
        f"  licet seal verify {trained.sealed} --home {home}"
    )


# -- 1


def _decide(home: Home, place: Path, claims: Claims, steps: int, seed: int) -> _Prepared:
    started = time.perf_counter()
    claims.tell(
        "1. Attest every installed Python package under its own licence, and ask the policy how deep it may teach"
    )
    with terminal.progress("attesting") as bar:
        found = demo_lessons.attest(home, bar)
    demo_lessons.write_run(place / "run.toml", steps=steps, seed=seed)
    run = read_run(place / "run.toml")
    lessons = tuple(demo_lessons.narrow(home, _chosen(run, home, found)))
    demo_lessons.write_rows(place / "rows.jsonl", lessons)
    with reading(home) as registry, planned(run, home) as plan:
        judged = tuple(plan.judge.judge(plan.rows()))
        claims.tell(
            f"   {len(registry.sources)} sources registered and attested, {plan.policy.document.name} adopted, "
            f"{time.perf_counter() - started:.1f} s\n"
        )
        claims.table(("source", "licence", *plan.layout.names, "decided by"), _depths(plan, lessons, judged), _RIGHT)
        claims.tell(
            "   Those with “surface only” signed narrower terms, to show it: ideas and not words, and nothing deeper.\n"
        )
        claims.claim(
            "whoever evaluates an example from its wire form gets the same admission, byte for byte",
            _agree(plan, judged),
        )
        claims.claim("an attestation does not count for other content", _refuses_other_content(plan, judged))
        blocks = plan.gate.blocks
    write_whole(place / "examples.jsonl", b"\n".join(wire.to_json(one.example) for one in judged) + b"\n")
    (withdrawn,) = (one for one in lessons if one.role is Role.REVOKED)
    demo_lessons.revoke(home, withdrawn)
    claims.tell(f"   The licence of {withdrawn.source} is revoked now; its row stays in the training data.")
    return _Prepared(home, place, run, lessons, judged, blocks)


def _chosen(run: Run, home: Home, found: Sequence[Lesson]) -> list[Lesson]:
    """Put all that could be lessons to the gate, and take some of each depth."""
    rows = run.path(run.file.data[0].path)
    demo_lessons.write_rows(rows, found)
    if not found:
        return demo_lessons.choose([], [])
    with planned(run, home) as plan:
        return demo_lessons.choose(found, list(plan.judge.judge(plan.rows())))


def _depths(plan: Plan, lessons: Sequence[Lesson], judged: Sequence[Judged]) -> list[tuple[str, ...]]:
    """Who may teach how deep: the most that reaches a block of each band."""
    rows = []
    for lesson, one in zip(lessons, judged, strict=True):
        levels, licence = one.admission.levels, lesson.distribution.spdx or "not stated"
        most = [
            max((level for level, own in zip(levels, plan.layout.own, strict=True) if band in own), default=0)
            for band in range(len(plan.layout.names))
        ]
        if lesson.role is Role.NARROWED:
            licence += ", surface only"
        rows.append((lesson.source, licence[:32], *(f"{level / LEVELS:.2f}" for level in most), _decided_by(one)))
    return rows


def _decided_by(judged: Judged) -> str:
    """Why not more: the reason of a rejection, else what decided the deepest block."""
    admission = judged.admission
    if admission.determination is Determination.REJECTED:
        return ", ".join(reason.value for reason in admission.reasons)
    return admission.rules[0].partition("/")[2]


def _agree(plan: Plan, judged: Sequence[Judged]) -> bool:
    architecture, _ = describe(plan.base.model, plan.run.file.model.layers_per_block)
    sent = [wire.parse(wire.to_json(one.example)) for one in judged]
    answers = [evaluate(example, plan.gate.policies, architecture).to_json() for example in sent]
    return answers == [one.admission.to_json() for one in judged]


def _refuses_other_content(plan: Plan, judged: Sequence[Judged]) -> bool:
    one, other = judged[0].example, judged[-1].example
    admission = plan.gate.admit(replace(one, content=other.content))
    return Reason.CONTENT_OUT_OF_SCOPE in admission.reasons and not any(admission.levels)


# -- 2


def _train(prepared: _Prepared, claims: Claims) -> Outcome:
    home, run, started = prepared.home, prepared.run, time.perf_counter()
    claims.tell("\n2. Train a small Llama from scratch; each gradient reaches only the blocks that its profile allows")
    claims.tell(
        "   What may not teach everything waits until the rest has formed. Memorization is recorded here, not answered."
    )
    outcome = train(run, home)
    if outcome.stopped_by is not None:  # the trainer has sealed what there was; there is nothing to claim of it
        raise typer.Exit(130 if outcome.stopped_by == "SIGINT" else 143)
    losses = _losses(home, run)
    last = losses[-20:]
    with LogReader.open(home.log("training")) as log:
        size, events = log.size, _applications(log)
        claims.tell(
            f"   loss {losses[0]:.2f} → {sum(last) / len(last):.2f} nats a token in "
            f"{time.perf_counter() - started:.0f} s; {events} gradient applications recorded, {size} entries"
        )
        slots = outcome.steps * run.file.schedule.batch
        claims.claim("every slot of every step is in the log", events == slots)
        claims.claim("the model learned", sum(last) / len(last) < losses[0] / 2)
        withdrawn = next(lesson for lesson in prepared.lessons if lesson.role is Role.REVOKED)
        claims.claim(
            "the text whose licence was revoked is rejected, with that reason, and teaches nothing",
            _taught_nothing(log, withdrawn, Reason.ATTESTATION_REVOKED),
        )
    again = train(run, home, live=False)
    with LogReader.open(home.log("training")) as log:
        same = (again.steps, again.directory, log.size) == (outcome.steps, outcome.directory, size)
    claims.claim("the same command again finds nothing left to do", again.is_finished and same)
    return outcome


def _losses(home: Home, run: Run) -> list[float]:
    """The loss of each step that showed something."""
    lines = map(json.loads, RunFolder.of(home, run.name).metrics.read_text().splitlines())
    return [said["loss"] for said in lines if said.get("loss") is not None]


def _applications(log: LogReader) -> int:
    return sum(len(events) for events, _, _ in log.exposure.events_between(0, log.size))


def _taught_nothing(log: LogReader, lesson: Lesson, reason: Reason) -> bool:
    """Whether a text was put to the gate, rejected for this reason, and none of its gradient applied."""
    mentioned = {index for index, _ in log.find(AttestationMentioned, lesson.attestation)}
    admissions = [admitted for _, admitted in log.all_of(ExampleAdmitted) if admitted.attestation in mentioned]
    return (
        bool(admissions)
        and all(one.determination is Determination.REJECTED and reason.value in one.reasons for one in admissions)
        and not any(block.events for block in log.exposure.forward(attestation=lesson.attestation))
    )


# -- 3


def _recite(prepared: _Prepared, outcome: Outcome, claims: Claims) -> None:
    prefix, most = demo_recital.PREFIX_TOKENS, demo_recital.RECITED_TOKENS_MAX
    claims.tell(f"\n3. Give it {prefix} tokens of a text, and see how many of the next {most} it recites word for word")
    lessons = prepared.lessons
    disable_progress_bar()  # of loading a model this small
    found = demo_recital.recite(
        models.from_folder(outcome.directory),
        tokenizer.load(outcome.directory),
        [lesson.text for lesson in lessons],
    )
    rows = [
        (lesson.source, lesson.role.value, one.longest, one.possible, f"{one.mean:.1f}")
        for lesson, one in zip(lessons, found, strict=True)
    ]
    claims.table(("source", "it is", "longest", "of", "mean"), rows, frozenset({2, 3, 4}))
    by_role = {role: [r for of, r in zip(lessons, found, strict=True) if of.role is role] for role in Role}
    best = max(by_role[Role.OPEN], key=lambda one: one.longest)
    claims.tell(f"   …{_quoted(best.prefix[-60:])} → {_quoted(best.said)}")
    claims.tell(
        "   A governed model can still recite what it may learn whole. What may not be said is the server's to stop."
    )
    recited = sum(one.longest >= RECITED_MIN for one in by_role[Role.OPEN])
    claims.claim(
        f"of most texts that may teach everything it recites {RECITED_MIN} tokens and more",
        recited > len(by_role[Role.OPEN]) / 2,
    )
    claims.claim(
        "texts that their sources narrowed come back for less than half as long",
        _mean(by_role[Role.NARROWED]) < _mean(by_role[Role.OPEN]) / 2,
    )


def _mean(recitals: Sequence[demo_recital.Recital]) -> float:
    return sum(one.mean for one in recitals) / len(recitals) if recitals else 0.0


def _quoted(text: str) -> str:
    """A piece of a text on one line, and nothing in it that a terminal could take for a command."""
    plain = " ".join("".join(c if c.isprintable() or c.isspace() else "?" for c in text).split())
    return f"“{plain[:_QUOTED_CHARS]}{'…' if len(plain) > _QUOTED_CHARS else ''}”"


# -- 4


def _ask(prepared: _Prepared, claims: Claims) -> None:
    claims.tell("\n4. Ask who shaped which block: recorded exposure, as a share of each block (recorded, not causal)")
    picture = prepared.place / "heatmap.svg"
    with LogReader.open(prepared.home.log("training")) as log:
        heatmap = Heatmap.read(log.exposure, sources=[lesson.source for lesson in prepared.lessons])
        write_whole(picture, heatmap.svg("The demo: each source's share of each block's recorded exposure").encode())
        columns, rows = heatmap.table()
        claims.table(columns, rows, frozenset(range(1, len(columns))))
        claims.tell(f"   as a picture: {picture.name}")
        block = prepared.blocks[1]
        for rank, row in enumerate(log.exposure.reverse([block], top=3), start=1):
            claims.tell(f"   {rank}. in {block}: {row.source:<24} {row.share:6.1%}")
        claims.claim(
            "each confined source reached the blocks that are open to it, and no other", _kept_apart(log, prepared)
        )


def _kept_apart(log: LogReader, prepared: _Prepared) -> bool:
    """Whether the exposure of what is confined lies where its profile allows it, and is there."""
    for lesson, one in zip(prepared.lessons, prepared.judged, strict=True):
        if lesson.role in (Role.CONFINED, Role.NARROWED):
            allowed = dict(zip(prepared.blocks, one.admission.levels, strict=True))
            shaped = {block.block: block.total for block in log.exposure.forward(source=lesson.source)}
            if any(bool(shaped[name]) is not bool(level) for name, level in allowed.items()):
                return False
    return True
