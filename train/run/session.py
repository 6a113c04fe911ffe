"""A training run from its beginning, or from its last seal, to its end.

1. each row to the gate, each admission into the log      (or: the lessons of a run that goes on)
2. steps, each recorded; seals on the way
3. the last seal
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from licet.ledger import terminal
from licet.ledger.ancestry import ADAPTER
from licet.ledger.errors import ConfigError, LicetError, NotFoundError
from licet.ledger.home import Home
from licet.ledger.log import Ledger, now_ms
from licet.ledger.records import Digest, PolicyMentioned, Ref, RunStarted, Stage
from licet.train.data import tokenizer
from licet.train.data.enrolment import Enrolled, Enrolment, make_lessons
from licet.train.data.held_out import HeldOut
from licet.train.data.lessons import Lessons
from licet.train.data.tokens import TokenStore
from licet.train.run.assembly import Assembled, assemble, objective_of
from licet.train.run.base import vocabulary_of
from licet.train.run.file import Run
from licet.train.run.folder import RunFolder
from licet.train.run.planning import Plan, planned
from licet.train.run.progress import Progress, watched
from licet.train.run.ranks import Ranks
from licet.train.run.recorder import Recorder
from licet.train.run.sealing import Sealer
from licet.train.run.state import RunState, load_state
from licet.train.run.stopping import Stopper
from licet.train.seals import seal
from licet.train.seals.finder import seals_in
from licet.train.seals.history import LogHistory
from licet.train.seals.outside import seal_outside
from licet.train.seals.seal import SEAL_FILE
from licet.train.seals.statement import RunPlace
from licet.train.seals.verify import verify_seal


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to. Losses are of the last step that showed something; `held_out` is in bits per byte."""

    run: str
    directory: Path
    steps: int
    steps_planned: int
    loss: float | None
    held_out: float | None
    lessons: int
    stopped_by: str | None
    taken: int
    """How many of the steps were taken this time; none if the run was done already."""

    @property
    def is_finished(self) -> bool:
        return self.steps == self.steps_planned


def train(run: Run, home: Home, *, fresh: bool = False, live: bool | None = None) -> Outcome:
    """Train a run to its end, or go on with it. Asked to stop, it seals what it has and can go on later."""
    with ExitStack() as stack:
        ranks = Ranks.join()
        stack.callback(ranks.leave)
        ledger = stack.enter_context(home.open_log("training")) if ranks.leads else None
        plan = stack.enter_context(planned(run, home))
        folder = RunFolder.of(home, run.name)
        if ledger is not None and (fresh or not folder.has_begun):
            _begin(plan, home, ledger, folder)
        ranks.wait()
        return _go_on(plan, home, ledger, folder, ranks, stack, watched() if live is None else live)


# -- the beginning


def _begin(plan: Plan, home: Home, ledger: Ledger, folder: RunFolder) -> None:
    """Put every row to the gate, record what it said, and keep what was admitted as samples."""
    run, file = plan.run, plan.run.file
    folder.clear()
    mentioned = {p.digest: Ref(ledger.append(PolicyMentioned(p.digest))) for p in plan.gate.policies}
    entry = Ref(
        ledger.append(
            RunStarted(
                run.name,
                file.name,
                plan.layout.as_records(),
                file.technique,
                file.stage,
                mentioned[plan.policy.digest],
                _parent(plan, home, ledger),
                run.digest,
                now_ms(),
            )
        )
    )
    enrolment = Enrolment(ledger, entry, plan.judge, file.stage, mentioned[plan.policy.digest], home.content)
    with terminal.progress("admitting") as report:
        enrolled = [one for _, one in enrolment.enrol(plan.rows(report))]
    _tell(enrolled)
    known = plan.base.tokenizer or _trained_tokenizer(plan, enrolled)
    folder.keep_tokenizer(known)
    objective = objective_of(file, known)
    with terminal.progress("tokenizing") as report, TokenStore.create(folder.tokens) as store:
        lessons = make_lessons(plan.rows(), enrolled, objective, store, report)
    if not lessons.samples:
        raise ConfigError(
            "Nothing of the data may be trained on.", remedy="`licet train --dry-run` says why, row by row."
        )
    lessons.save(folder.lessons)
    ledger.checkpoint()
    assert ledger.key is not None
    folder.begin(run, entry, ledger.key)


def _parent(plan: Plan, home: Home, ledger: Ledger) -> Digest | None:
    """The seal that a run grows from; one that came from elsewhere is given one that says so."""
    base = plan.base
    if not base.is_outside:
        return base.seal
    file = plan.run.file
    assert file.model.base is not None
    where, models = plan.run.path(file.model.base), home.path / "models" / file.name
    prefixes = {name.removeprefix(ADAPTER): members for name, members in plan.prefixes.items()}
    return seal_outside(where, models, file.name, base.model, prefixes, base.tokenizer, ledger)


def _tell(enrolled: list[Enrolled]) -> None:
    admitted = sum(one.lesson is not None for one in enrolled)
    terminal.say(f"{len(enrolled)} rows: {admitted} may teach, {len(enrolled) - admitted} were rejected")


def _trained_tokenizer(plan: Plan, enrolled: list[Enrolled]) -> Any:
    """A tokenizer trained on what may teach: what may not leaves no trace here either."""
    kind = plan.run.file.tokenizer.kind
    assert kind is not None
    return tokenizer.train(_teaching_texts(plan, enrolled), vocabulary_of(plan.run), kind)


def _teaching_texts(plan: Plan, enrolled: list[Enrolled]) -> Iterator[str]:
    for row, one in zip(plan.rows(), enrolled, strict=False):  # whether they are the same is looked at after
        if one.lesson is not None and any(one.lesson.levels):
            yield row.words


# -- the way on


def _go_on(
    plan: Plan, home: Home, ledger: Ledger | None, folder: RunFolder, ranks: Ranks, stack: ExitStack, live: bool
) -> Outcome:
    run = plan.run
    log = plan.training_log if ledger is None else ledger
    if ledger is None:
        log.refresh()
    entry, started = folder.entry(run, log)
    lessons, store = Lessons.load(folder.lessons), TokenStore.open(folder.tokens)
    lessons.check(log, entry)
    if len(store) != lessons.samples:
        raise NotFoundError("The samples of this run are not all there.", remedy="Begin anew: `licet train --fresh`.")
    models = home.path / "models" / run.file.name
    state = None
    if folder.has_state:
        state = load_state(folder.state, log.verifier_keys(), run=run.name, entry=entry)
    weights = _sealed_weights(state, models, log, home) if state is not None else None
    known = tokenizer.load(folder.tokenizer)
    recorder = None
    first = state.step if state is not None else 0
    if ledger is not None:
        every = next(setting.value for setting in home.settings() if setting.name == "checkpoint_s")
        recorder = Recorder(ledger, entry, lessons, from_step=first, checkpoint_s=every)
        stack.callback(recorder.close)
    assembled = assemble(plan, known, lessons, store, ranks, recorder, state, weights)
    assert started.policy is not None
    sealer = Sealer(
        models=models,
        state=folder.state,
        run=RunPlace(run.name, Ref(entry)),
        model_name=run.file.name,
        policy=plan.policy.digest,
        policy_entry=started.policy,
        key=ledger.key if ledger is not None else None,
        parent=state.seal if state is not None else started.parent_seal,
        tokenizer=known,
        ranks=ranks,
    )
    if recorder is not None and state is not None and weights is not None:
        sealer.acknowledge(weights, recorder)
    held_out = HeldOut.of(run) if ranks.leads else None
    bands = [plan.layout.bands_of(b) for b in range(len(plan.layout.blocks))]
    name = f"{run.file.name}/{run.name}"
    with Progress(name, assembled.loop.schedule.steps, bands, folder.metrics, live=live and ranks.leads) as progress:
        return _take_steps(plan, assembled, sealer, progress if ranks.leads else None, held_out, first, weights)


def _take_steps(
    plan: Plan,
    assembled: Assembled,
    sealer: Sealer,
    progress: Progress | None,
    held_out: HeldOut | None,
    first: int,
    sealed: Path | None,
) -> Outcome:
    """Steps from `first` on, with seals where they are due."""
    loop, file = assembled.loop, plan.run.file
    steps, every = loop.schedule.steps, file.checkpoints.every
    loss, measured, done = math.nan, None, first
    with Stopper() as stopper:
        while done < steps:
            result = loop.step(done)
            loss, done = (loss if math.isnan(result.loss) else result.loss), done + 1
            if progress is not None:
                progress.step(result)
            asked = loop.ranks.agree(stopper.asked is not None)
            if asked or done == steps or (every is not None and done % every == 0):
                if held_out is not None and progress is not None:
                    measured = held_out.measure(assembled.model, sealer.tokenizer)
                    progress.held_out(done, measured)
                _adapt(done, assembled)
                kept = RunState(
                    plan.run.name, sealer.run.entry, done, Digest(b""), loop.optimizer.state_dict(), assembled.facts()
                )
                sealed = sealer.seal(done, assembled.model, loop.gate, loop.recorder, kept)
                if progress is not None:
                    progress.sealed(done, sealed)
            if asked:
                break
    if sealed is None:
        raise ConfigError("This run has no steps left to take, and was never sealed.", remedy="Begin anew: --fresh.")
    signal = stopper.asked.name if stopper.asked is not None else None
    last = None if math.isnan(loss) else loss
    return Outcome(plan.run.name, sealed, done, steps, last, measured, len(loop.lessons), signal, done - first)


def _adapt(done: int, assembled: Assembled) -> None:
    """Let profiles follow the model. All ranks read alike, and one records."""
    loop = assembled.loop
    if loop.stage is Stage.ENFORCE:
        for adapted in assembled.adapting.look(done, assembled.model, loop):
            if loop.recorder is not None:
                loop.recorder.add(adapted)


def _sealed_weights(state: RunState, models: Path, log: Any, home: Home) -> Path:
    """The folder of the seal that a state belongs to, verified down to its base."""
    lookup_in = sorted(path for path in models.parent.iterdir() if path.is_dir()) if models.parent.is_dir() else []
    for folder in sorted(models.iterdir()) if models.is_dir() else ():
        raw = folder / SEAL_FILE
        if raw.is_file() and _is_called(raw, state.seal):
            report = verify_seal(folder, log.verifier_keys(), parents=seals_in(*lookup_in), history=LogHistory(log))
            report.check()
            return folder
    raise NotFoundError(
        f"The seal {state.seal.hex()[:16]} that this run would go on from is not in {models}.",
        remedy="Restore it, or begin anew: `licet train --fresh`.",
    )


def _is_called(file: Path, wanted: Digest) -> bool:
    """Whether a seal has this id; one that cannot be read is another."""
    try:
        return seal.claimed_id(file.read_bytes()) == wanted
    except (OSError, LicetError):
        return False
