"""Sealing a run as it goes: everything recorded is durable and signed first, then the weights, then the run's state."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from licet.ledger.log import now_ms
from licet.ledger.note import SigningKey
from licet.ledger.records import CheckpointSealed, Digest, Ref
from licet.train import seal
from licet.train.assembly import Assembled
from licet.train.ranks import Ranks
from licet.train.recorder import Recorder
from licet.train.run_state import RunState, save_state
from licet.train.seal_statement import Claims, LedgerPoint, RunPlace
from licet.train.seal_writer import Checkpoint, checkpoint_of, write_seal


@dataclass(slots=True)
class Sealer:
    """Writes the checkpoints of one run, each the child of the one before."""

    models: Path
    """models/NAME of the home."""
    state: Path
    run: RunPlace
    model_name: str
    policy: Digest
    policy_entry: Ref
    key: SigningKey | None
    """None on the ranks that do not lead."""
    parent: Digest | None
    tokenizer: Any
    ranks: Ranks

    def seal(self, step: int, assembled: Assembled, recorder: Recorder | None) -> Path:
        """Seal what the run has come to after `step` steps. All ranks call it, and one writes."""
        loop = assembled.loop
        checkpoint = checkpoint_of(assembled.model, loop.gate, self.tokenizer)
        kept = RunState(
            self.run.name, self.run.entry, step, Digest(b""), loop.optimizer.state_dict(), assembled.facts()
        ).gathered()
        directory = self.models / label_of(self.run.name, step)
        if recorder is not None:
            self._write(directory, checkpoint, kept, recorder)
        self.ranks.wait()
        return directory

    def acknowledge(self, directory: Path, recorder: Recorder) -> None:
        """Record a seal whose state was kept, and whose entry a kill prevented."""
        sealed = seal.open_seal((directory / seal.SEAL_FILE).read_bytes(), recorder.ledger.verifier_keys())
        if not recorder.ledger.find(CheckpointSealed, sealed.id):
            recorder.add(seal.as_record(sealed, policy=self.policy_entry))

    def _write(self, directory: Path, checkpoint: Checkpoint, kept: RunState, recorder: Recorder) -> None:
        """Log, weights, state, entry: whatever a kill cuts off, the run goes on from a state that is whole."""
        assert self.key is not None
        recorder.flush()
        point = LedgerPoint.of(recorder.ledger.checkpoint())
        claims = Claims(
            self.model_name,
            directory.name,
            kept.step,
            now_ms(),
            ledger=point,
            run=self.run,
            policy=self.policy,
            parent=self.parent,
        )
        _clear_unfinished(directory, recorder)
        sealed = write_seal(directory, checkpoint, claims, self.key)
        save_state(self.state, replace(kept, seal=sealed.id), self.key)
        recorder.add(seal.as_record(sealed, policy=self.policy_entry))
        recorder.ledger.checkpoint()
        self.parent = sealed.id


def label_of(run: str, step: int) -> str:
    return f"{run}-{step:08d}"


def _clear_unfinished(directory: Path, recorder: Recorder) -> None:
    """Remove a checkpoint that was written before a kill and never became part of the run."""
    file = directory / seal.SEAL_FILE
    if file.is_file() and not recorder.ledger.find(CheckpointSealed, seal.claimed_id(file.read_bytes())):
        shutil.rmtree(directory)
