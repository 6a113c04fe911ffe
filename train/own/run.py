"""A run in a training loop of one's own: which samples may teach, how deep, and the record of what they taught.

    begin    every row to the gate, each answer into the log
    batch    samples, and the weight of each in each block
    note     what one forward and backward pass did
    step     the guarded optimizer's: taken and recorded, both or neither
    seal     the checkpoint

The loop itself, the model and the optimizer are the user's. `licet train` does more: it goes on after a kill, runs on
several ranks, orders by phases, and reads the model again to adapt profiles. Here a run that ended goes on as a new
one whose base is the last seal.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from licet.ledger.errors import ClosedError, ConfigError
from licet.ledger.home import Home
from licet.ledger.log import Ledger
from licet.ledger.norms import LEVELS
from licet.ledger.records import MemorizationFlagged, Ref, Stage, Technique
from licet.policies.policy import Policy
from licet.train.blocks import describe
from licet.train.objectives import Objective, PretrainingObjective
from licet.train.optimizer import GuardedOptimizer, NotFinite
from licet.train.own.beginning import Beginning, Begun, begin
from licet.train.own.step import Batch, CountedGate, OpenStep, OwnLoopError
from licet.train.rights import reserved_rights
from licet.train.run.file import SLOTS_MAX
from licet.train.run.folder import RunFolder
from licet.train.run.ranks import Ranks
from licet.train.run.recorder import Recorder, Taught
from licet.train.run.sealing import Sealer
from licet.train.run.teaching import Assignment, Teaching, repeats_max
from licet.train.seals.statement import RunPlace
from licet.train.step_report import StepReport
from licet.train.watch.watching import Watching

_Choice = TypeVar("_Choice", Stage, Technique)
__all__ = ["Batch", "GovernedRun", "OwnLoopError", "RecordedOptimizer"]

EPOCHS_MAX = 1 << 16
"""An event has 16 bits for how often its sample was taught before."""


class RecordedOptimizer(GuardedOptimizer):
    """A guarded optimizer that knows the rights behind its run's step, and has each step recorded."""

    run: GovernedRun

    def step(  # type: ignore[override]
        self, closure: None = None, *, authorities: Mapping[str, Collection[str]] | None = None
    ) -> StepReport:
        """Step on what was noted, record it, and drop the gradients: none counts in two steps."""
        if authorities is not None:
            raise OwnLoopError("The run knows the authorities of its steps.", remedy="Call step() without them.")
        reached = self.run._ready()
        parameters = [p for block in reached for p in self._members[block]]
        if parameters and all(parameter.grad is None for parameter in parameters):
            raise OwnLoopError(
                "The gradients of what was noted are gone.",
                remedy="Between passes of a step call no zero_grad(); to drop a step, call the optimizer's.",
            )
        report = super().step(closure, authorities=reached)
        self.run._record(report, float(self.param_groups[0]["lr"]))
        self.zero_grad()
        return report

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients, and what was noted with them."""
        super().zero_grad(set_to_none)
        self.run._open.forget()


class GovernedRun:
    """One run on a home, as long as its `with` lasts: it holds the training log, and a gate on the model."""

    def __init__(
        self,
        home: Home,
        model: nn.Module,
        gate: CountedGate,
        tokenizer: Any,
        asked: Beginning,
        begun: Begun,
        log: Ledger,
    ) -> None:
        self.name = asked.name
        self.model = model
        self.tokenizer = tokenizer
        self.objective = asked.objective
        self.lessons = begun.lessons
        self.gate = gate
        self.context = asked.context
        self._begun = begun
        self._stage = asked.stage
        self._stack = ExitStack()
        self._closed = False
        self._optimizer: RecordedOptimizer | None = None
        self._recorder = Recorder(log, begun.entry, begun.lessons, checkpoint_s=_checkpoint_s(home))
        self._stack.callback(self._recorder.close)
        self._teaching = Teaching(
            begun.lessons, begun.layout, (), steps=1, repeats_max=repeats_max(begun.policies, self._stage)
        )
        self._watching = Watching.of(begun.policy, self._teaching, begun.lessons, begun.layout, asked.stage)
        self._sealer = Sealer(
            models=home.path / "models" / asked.model_name,
            state=RunFolder.of(home, asked.name).state,
            run=RunPlace(asked.name, begun.entry),
            model_name=asked.model_name,
            policy=begun.policy.digest,
            policy_entry=begun.policy_entry,
            key=log.key,
            parent=begun.parent,
            tokenizer=tokenizer,
            ranks=Ranks(),
        )
        self.steps = 0
        """How many were recorded."""
        self._open = OpenStep(gate, begun.lessons)
        self._times = np.zeros(begun.lessons.samples, np.int64)
        """How often each sample was taught."""
        self._sealed: Path | None = None

    @classmethod
    def begin(
        cls,
        home: Home,
        model: nn.Module,
        tokenizer: Any,
        rows: Path | Sequence[Path],
        *,
        name: str,
        model_name: str,
        base: Path | None = None,
        from_scratch: bool = False,
        objective: Objective | None = None,
        context: int = 256,
        metadata: Mapping[str, Any] | None = None,
        layers_per_block: int = 1,
        stage: Stage | str = Stage.ENFORCE,
        technique: Technique | str = Technique.SCALE,
        policies: Sequence[Policy] = (),
    ) -> Self:
        """Put the rows to the gate, record what it says, and be ready to teach what it admitted.

        `base` is the folder that the model was loaded from: sealed, or a model from elsewhere. `from_scratch` says
        that its weights were drawn at random. `metadata` holds for rows that do not say it themselves. The objective
        is pre-training, unless another is given; it is made with the same tokenizer and context.
        """
        if (base is None) != from_scratch:
            raise ConfigError(
                "Where the model's weights come from is not known.",
                remedy="Say base=FOLDER, from which it was loaded, or from_scratch=True. A model that is nowhere on "
                "the disk is laid down first with save_pretrained.",
            )
        if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
            raise ConfigError(
                "A loop of one's own runs in one process.", remedy="On several ranks, use `torchrun … licet train`."
            )
        asked = Beginning(
            name,
            model_name,
            objective or PretrainingObjective(tokenizer, context),
            context,
            (rows,) if isinstance(rows, Path) else tuple(rows),
            metadata or {},
            base,
            layers_per_block,
            _one_of(Stage, stage),
            _one_of(Technique, technique),
            tuple(policies),
        )
        with ExitStack() as stack:
            log = stack.enter_context(home.open_log("training"))
            # Before anything is recorded: what the gate has no rule for is refused here.
            gate = CountedGate(model, describe(model, layers_per_block)[1], technique=asked.technique)
            stack.callback(gate.remove)
            run = cls(home, model, gate, tokenizer, asked, begin(asked, model, tokenizer, home, log), log)
            stack.push(run._stack.pop_all())
            run._stack = stack.pop_all()
            return run

    # -- a step

    @property
    def samples(self) -> int:
        """How many there are; they are numbered from 0."""
        return self.lessons.samples

    def guard(
        self, optimizer: torch.optim.Optimizer, *, clip_norm: float | Mapping[str, float] | None = 1.0
    ) -> RecordedOptimizer:
        """The optimizer behind the guard: each block is clipped by itself, and reserved ones ask for the right."""
        if self._optimizer is not None:
            raise OwnLoopError("This run has an optimizer.", remedy="Guard one, and step with that.")
        held = {parameter for group in optimizer.param_groups for parameter in group["params"]}
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad and parameter not in held:
                raise OwnLoopError(
                    f"{name} is trainable, and the optimizer does not step it.",
                    remedy="Freeze it before the run begins, or give it to the optimizer too.",
                )
        enforced = self._stage is Stage.ENFORCE
        guarded = RecordedOptimizer(
            optimizer,
            self.gate,
            model=self.model,
            reserved=reserved_rights(self._begun.policies, self._begun.layouts) if enforced else {},
            clip_norm=clip_norm,
            not_finite=NotFinite.REFUSE,
        )
        guarded.run, self._optimizer = self, guarded
        return guarded

    def batch(self, samples: Sequence[int], *, slots: int | None = None) -> Batch:
        """Samples in the slots of one pass, with what each may reach now.

        `slots` counts those of the whole step, where it has several passes: each example's part in a step is the same
        whatever stands in other slots.
        """
        self._check_open()
        chosen = np.asarray(samples)
        if chosen.ndim != 1 or not np.issubdtype(chosen.dtype, np.integer) or not 0 < len(chosen) <= SLOTS_MAX:
            raise OwnLoopError("A batch is a list of numbers of samples.", remedy=f"Give 1 to {SLOTS_MAX} of them.")
        if chosen.min() < 0 or chosen.max() >= self.samples:
            odd = int(chosen.min() if chosen.min() < 0 else chosen.max())
            raise OwnLoopError(f"There is no sample {odd}.", remedy=f"They are 0 to {self.samples - 1}.")
        whole = len(chosen) if slots is None else slots
        if whole < len(chosen):
            raise OwnLoopError(f"A step of {whole} slots has no room for {len(chosen)}.", remedy="Count all passes.")
        chosen = chosen.astype(np.int64)
        lessons = self.lessons.of_sample[chosen]
        epochs = self._times[chosen].tolist()
        if max(epochs) + whole >= EPOCHS_MAX:
            raise OwnLoopError("A sample was taught 65,535 times.", remedy="Begin a new run from this one's last seal.")
        assigned = tuple(
            self._teaching.assigned(lesson, self.steps, sample)
            for lesson, sample in zip(lessons.tolist(), chosen.tolist(), strict=True)
        )
        store = self._begun.store
        shown = [
            store.sample(sample) if any(one.levels) else None
            for sample, one in zip(chosen.tolist(), assigned, strict=True)
        ]
        weights = torch.tensor([one.levels for one in assigned], dtype=torch.float32) / LEVELS / whole
        device = next(self.model.parameters()).device
        return Batch(chosen, lessons, self.objective.inputs(shown, self.context).to(device), weights, assigned)

    def losses(self, batch: Batch, model: nn.Module | None = None) -> Tensor:
        """Each slot's own loss, by the run's objective. A loop may have another of its own."""
        return self.objective.losses(self.model if model is None else model, batch.inputs)

    def note(self, batch: Batch, losses: Tensor) -> None:
        """Take down what a pass did, right after its `with gate(batch.weights)`."""
        self._check_open()
        self._open.note(batch, losses)

    # -- the end

    def seal(self) -> Path:
        """Seal what the model is now; the folder of the checkpoint. Asked again, it is the same until the next step."""
        self._check_open()
        if not self._open.is_empty:
            raise OwnLoopError("A step is open.", remedy="Take it, or drop it with the optimizer's zero_grad().")
        if self._sealed is None:
            self._sealed = self._sealer.seal(self.steps, self.model, self.gate, self._recorder)
        return self._sealed

    def close(self) -> None:
        """Let go of the log, and give the model back without the gate. What was not sealed stays so."""
        self._closed = True
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- for the optimizer

    def _ready(self) -> dict[str, frozenset[str]]:
        """The rights that stand behind the step, block by block."""
        self._check_open()
        return self._open.rights()

    def _record(self, report: StepReport, rate: float) -> None:
        """Record the step that was taken on what was noted."""
        filled = self._open.filled()
        profiles = [self._profile(*one) for one in zip(filled.lessons.tolist(), filled.assigned, strict=True)]
        taught = Taught(
            self.steps,
            filled.lessons,
            np.array(profiles, np.int64),
            self._epochs(filled.samples),
            filled.passes,
            filled.slots,
            np.where(filled.levels == 0, 0.0, filled.norms),
            rate,
            filled.loss,
            report,
        )
        flags = [
            MemorizationFlagged(
                Ref(self.lessons[one.lesson].example), taught.step, one.blocks, one.score, one.threshold, one.response
            )
            for one in self._watching.look(taught.step, taught.lessons, filled.levels, filled.norms)
        ]
        self._recorder.step(taught, flags)
        np.add.at(self._times, filled.samples, 1)
        self._sealed = None
        self.steps += 1

    # -- inside

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("This run was closed.", remedy="Begin a new one.")

    def _epochs(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """Of each slot, how often its sample was taught before."""
        found = self._times[samples]
        seen: dict[int, int] = {}
        for slot, sample in enumerate(samples.tolist()):
            found[slot] += seen.get(sample, 0)
            seen[sample] = seen.get(sample, 0) + 1
        return found

    def _profile(self, lesson: int, assigned: Assignment) -> int:
        given = self.lessons[lesson]
        if assigned.levels == given.levels and assigned.rules == given.rules:
            return given.profile
        return self._recorder.profile(assigned.levels, assigned.rules)


def _one_of(kind: type[_Choice], name: str) -> _Choice:
    try:
        return kind(name)
    except ValueError:
        known = ", ".join(kind)
        raise ConfigError(f"{name!a} is no {kind.__name__.lower()}.", remedy=f"Choose one of {known}.") from None


def _checkpoint_s(home: Home) -> float:
    found: float = next(setting.value for setting in home.settings() if setting.name == "checkpoint_s")
    return found
