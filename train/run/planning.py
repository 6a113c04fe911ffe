"""What a run will be, before anything is written: its model, the policies over its blocks, and who judges its rows.

A dry run needs no more than this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from torch import nn

from licet.ledger.ancestry import ADAPTER
from licet.ledger.files import read_whole
from licet.ledger.home import Home
from licet.ledger.reader import LogReader
from licet.policies.bands import Architecture, Layout
from licet.policies.evaluate import Gate
from licet.policies.policy import POLICY_BYTES_MAX, Policy
from licet.policies.registry import Registry
from licet.train.blocks import describe
from licet.train.data.held_out import HeldOut
from licet.train.data.judging import Judge, Measure, by_compression, by_model
from licet.train.data.row_files import RowShape, claims_of, read_rows
from licet.train.data.rows import Row
from licet.train.run import base, curriculum, models
from licet.train.run.base import Base
from licet.train.run.curriculum import Phase
from licet.train.run.file import DataPart, Run, RunFile
from licet.train.seals.history import LogHistory

Report = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """A run, ready to judge its rows."""

    run: Run
    base: Base
    prefixes: dict[str, list[str]]
    judge: Judge
    training_log: LogReader

    @property
    def gate(self) -> Gate:
        return self.judge.gate

    @property
    def policy(self) -> Policy:
        """The home's own; its bands are the run's."""
        return self.judge.policy

    @property
    def layout(self) -> Layout:
        return self.judge.layout

    def rows(self, report: Report | None = None) -> Iterator[Row]:
        """All rows of all files, in the order of the run file."""
        for part in self.run.file.data:
            yield from read_rows(self.run.path(part.path), self._shape(part), claims_of(part.metadata), report)

    def _shape(self, part: DataPart) -> RowShape:
        kinds = {"pretraining": "text", "chat": "chat", "preference": "preference"}
        return RowShape(
            kinds[self.run.file.objective.kind],  # type: ignore[arg-type]
            text=part.column,
            messages="messages" if part.column == "text" else part.column,
            prompt=part.prompt,
            chosen=part.chosen,
            rejected=part.rejected,
        )


@contextmanager
def planned(run: Run, home: Home) -> Iterator[Plan]:
    """A run over the home's registry as it is now."""
    with LogReader.open(home.log("registry")) as registry_log, LogReader.open(home.log("training")) as training_log:
        registry = Registry.read(registry_log, home.verifier_key("registry"))
        others = [_policy(run, where) for where in run.file.policies]
        begun = base.begin(run, training_log.verifier_keys(), LogHistory(training_log), home.path / "models")
        architecture, prefixes = described(begun.model, run.file)
        judge = Judge.over(home, registry, architecture, others, _measure(run, begun))
        _check(run, begun, judge.layout)
        yield Plan(run, begun, prefixes, judge, training_log)


def phases_of(file: RunFile) -> Sequence[Phase]:
    return [Phase(one.name, one.until, one.ceiling, one.confined) for one in file.phase]


def _check(run: Run, begun: Base, layout: Layout) -> None:
    """What would end the run later is refused before any row is put to the gate."""
    models.check_context(begun.model, run.file.objective.context)
    known = begun.tokenizer
    models.check_vocabulary(begun.model, len(known) if known is not None else base.vocabulary_of(run))
    HeldOut.of(run)
    if run.file.phase:
        curriculum.check(phases_of(run.file), layout)


def described(model: nn.Module, file: RunFile) -> tuple[Architecture, dict[str, list[str]]]:
    """A model's blocks. Adapters get names of their own: what shaped them is recorded, whatever shaped the base."""
    architecture, prefixes = describe(model, file.model.layers_per_block)
    if file.method != "lora":
        return architecture, prefixes
    blocks = tuple(replace(block, name=ADAPTER + block.name) for block in architecture.blocks)
    return replace(architecture, blocks=blocks), {ADAPTER + name: members for name, members in prefixes.items()}


def _policy(run: Run, where: str) -> Policy:
    path = run.path(where)
    return Policy.parse(read_whole(path, bytes_max=POLICY_BYTES_MAX).decode(errors="replace"), str(path))


def _measure(run: Run, begun: Base) -> Measure:
    """Bits per byte under the base, or under compression where there is none that could tell."""
    wanted = run.file.entropy or ("model" if run.file.model.base is not None else "compression")
    if wanted == "compression" or begun.tokenizer is None:
        return by_compression
    return by_model(begun.model, begun.tokenizer, run.file.objective.context)
