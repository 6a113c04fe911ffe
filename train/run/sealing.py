"""Sealing a run as it goes: everything recorded is durable and signed first, then the weights, then the run's state."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from licet.ledger.errors import LicetError, StorageError
from licet.ledger.log import now_ms
from licet.ledger.note import SigningKey
from licet.ledger.records import CheckpointSealed, Digest, Ref
from licet.train.gate import Gate
from licet.train.run.ranks import Ranks
from licet.train.run.recorder import Recorder
from licet.train.run.state import RunState, save_state
from licet.train.seals import seal
from licet.train.seals.statement import Claims, LedgerPoint, RunPlace
from licet.train.seals.writer import Checkpoint, Companion, checkpoint_of, write_seal


@dataclass(slots=True)
class Sealer:
    """Writes the checkpoints of one run, each the child of the one before."""

    models: Path
    """models/NAME of the home."""
    state: Path | None
    """Where the run keeps what it needs to go on; None for one that cannot."""
    run: RunPlace
    model_name: str
    policy: Digest
    policy_entry: Ref
    key: SigningKey | None
    """None on the ranks that do not lead."""
    parent: Digest | None
    tokenizer: Any
    ranks: Ranks

    def seal(
        self, step: int, model: nn.Module, gate: Gate, recorder: Recorder | None, kept: RunState | None = None
    ) -> Path:
        """Seal what the run has come to after `step` steps. All ranks call it, and one writes.

        `kept` is what the run needs to go on from there; without it, it cannot.
        """
        checkpoint = checkpoint_of(model, gate, self.tokenizer)
        kept = kept.gathered() if kept is not None else None
        directory = self.models / (
            self._label(step, recorder) if recorder is not None else label_of(self.run.name, step)
        )
        if recorder is not None:
            self._write(directory, checkpoint, step, kept, recorder)
        self.ranks.wait()
        return directory

    def _label(self, step: int, recorder: Recorder) -> str:
        """What a seal is called. Those of an earlier beginning of the same run stay where they are."""
        label = label_of(self.run.name, step)
        others = (
            sealed
            for _, sealed in recorder.ledger.all_of(CheckpointSealed)
            if (sealed.model, sealed.label) == (self.model_name, label) and sealed.run != self.run.entry
        )
        return label_of(f"{self.run.name}-{self.run.entry}", step) if any(others) else label

    def acknowledge(self, directory: Path, recorder: Recorder) -> None:
        """Record a seal whose state was kept, and whose entry a kill prevented."""
        sealed = seal.open_seal((directory / seal.SEAL_FILE).read_bytes(), recorder.ledger.verifier_keys())
        if not recorder.ledger.find(CheckpointSealed, sealed.id):
            recorder.add(seal.as_record(sealed, policy=self.policy_entry))

    def _write(
        self, directory: Path, checkpoint: Checkpoint, step: int, kept: RunState | None, recorder: Recorder
    ) -> None:
        """Log, weights, state, entry: whatever a kill cuts off, the run goes on from a state that is whole."""
        assert self.key is not None
        recorder.flush()
        point = LedgerPoint.of(recorder.ledger.checkpoint())
        claims = Claims(
            self.model_name,
            directory.name,
            step,
            now_ms(),
            ledger=point,
            run=self.run,
            policy=self.policy,
            parent=self.parent,
        )
        _clear_unfinished(directory, self.run, recorder)
        sealed = write_seal(directory, told(checkpoint), claims, self.key)
        if kept is not None and self.state is not None:
            save_state(self.state, replace(kept, seal=sealed.id), self.key)
        recorder.add(seal.as_record(sealed, policy=self.policy_entry))
        recorder.ledger.checkpoint()
        self.parent = sealed.id


def told(checkpoint: Checkpoint) -> Checkpoint:
    """The same checkpoint, whose companions say what is wrong: tokenizers raise a plain Exception on a full disk."""

    def careful(companion: Companion) -> Companion:
        def save(folder: Path) -> None:
            try:
                companion.save(folder)
            except (LicetError, OSError):
                raise
            except Exception as error:
                raise StorageError(
                    f"The {companion.role} files could not be written: {str(error)[:300]}.",
                    remedy="Look at free space and permissions; nothing was changed, and training can go on.",
                ) from error

        return Companion(companion.role, save)

    return replace(checkpoint, companions=tuple(careful(one) for one in checkpoint.companions))


def label_of(run: str, step: int) -> str:
    return f"{run}-{step:08d}"


def _clear_unfinished(directory: Path, run: RunPlace, recorder: Recorder) -> None:
    """Remove a checkpoint of this run that was written before a kill and never became part of it."""
    file = directory / seal.SEAL_FILE
    if not file.is_file():
        return
    sealed = seal.open_seal(file.read_bytes(), recorder.ledger.verifier_keys())
    if sealed.claims.run == run and not recorder.ledger.find(CheckpointSealed, sealed.id):
        shutil.rmtree(directory)
