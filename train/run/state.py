"""What a run needs to go on from its last seal, beside the seal: optimizer, responses, statistics.

Random numbers are not among it: they are drawn anew for each microbatch from the seed and the step.

It lies in the run's folder under the home and is replaced whole at each seal. It is signed like the seal that it
belongs to, because whoever can change it can change what is learned next.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from licet.ledger.errors import FormatError, SignatureError, StorageError, VerificationError
from licet.ledger.files import read_whole, sync_folder, write_whole
from licet.ledger.note import SigningKey, VerifierKey
from licet.ledger.records import Digest
from licet.policies import dsse, strict_json
from licet.train.run.ranks import whole
from licet.train.seals.tensor_file import digest_of

PAYLOAD_TYPE = "application/vnd.licet.run-state.v1+json"
STATE_BYTES_MAX = 256 << 20
_REMEDY = "Start a new run whose [model] base is the last seal's folder."


@dataclass(frozen=True, slots=True)
class RunState:
    """Where a run stood when it was sealed."""

    run: str
    entry: int
    step: int
    """The next step to take."""
    seal: Digest
    optimizer: dict[str, Any]
    facts: dict[str, Any]
    """What others need to go on, as plain JSON."""

    def gathered(self) -> RunState:
        """With the parts of all ranks put together. All ranks must ask."""
        state = {
            index: {name: whole(value) if isinstance(value, Tensor) else value for name, value in held.items()}
            for index, held in self.optimizer["state"].items()
        }
        return replace(self, optimizer={**self.optimizer, "state": state})


def save_state(folder: Path, state: RunState, key: SigningKey) -> None:
    """Keep a state in place of the one before; a kill at any instant leaves one of the two, whole."""
    name = f"state-{state.step}.safetensors"
    tensors, plain = _taken_apart(state.optimizer)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _clear_unfinished(folder)
        making = folder / f".{name}.{os.getpid()}.tmp"
        save_file(tensors, making)
        descriptor = os.open(making, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        making.replace(folder / name)
        sync_folder(folder)
    except (OSError, SafetensorError) as error:
        _clear_unfinished(folder)
        raise StorageError(
            f"The state of the run could not be kept in {folder}: {getattr(error, 'strerror', None) or error}.",
            remedy="Look at free space and permissions. The seal stands, and the state before is untouched.",
        ) from error
    said = {
        "run": state.run,
        "entry": state.entry,
        "step": state.step,
        "seal": state.seal.hex(),
        "tensors": {"file": name, "sha256": digest_of(folder / name).hex()},
        "optimizer": plain,
        "facts": state.facts,
    }
    payload = json.dumps(said, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    write_whole(folder / "state.json", dsse.sign(payload, PAYLOAD_TYPE, key))
    for old in folder.glob("state-*.safetensors"):
        if old.name != name:
            old.unlink(missing_ok=True)


def load_state(folder: Path, keys: list[VerifierKey], *, run: str, entry: int) -> RunState:
    """The state that was kept last, checked: signed, whole, and of this run."""
    envelope = dsse.read(read_whole(folder / "state.json", bytes_max=STATE_BYTES_MAX), bytes_max=STATE_BYTES_MAX)
    if envelope.payload_type != PAYLOAD_TYPE:
        raise FormatError(f"{folder / 'state.json'} does not hold the state of a run.", remedy=_REMEDY)
    if not any(envelope.is_signed_by(key, signature) for key in keys for signature in envelope.signatures):
        raise SignatureError(f"{folder / 'state.json'} was not signed by the training log's key.", remedy=_REMEDY)
    said = strict_json.parse(envelope.payload, bytes_max=STATE_BYTES_MAX, what="the state of a run")
    if (said["run"], said["entry"]) != (run, entry):
        raise VerificationError(
            f"{folder / 'state.json'} is the state of the run {said['run']} (entry {said['entry']}), and not of "
            f"{run} (entry {entry}).",
            remedy="Put the run's own state back, or begin anew: `licet train --fresh`.",
        )
    file = folder / Path(said["tensors"]["file"]).name
    if not file.is_file() or digest_of(file).hex() != said["tensors"]["sha256"]:
        raise VerificationError(f"{file} is not what was kept.", remedy=_REMEDY)
    tensors = load_file(file)
    return RunState(
        said["run"],
        said["entry"],
        said["step"],
        Digest(bytes.fromhex(said["seal"])),
        _put_together(tensors, said["optimizer"]),
        said["facts"],
    )


def _clear_unfinished(folder: Path) -> None:
    """Remove what a kill or a full disk left: as large as the model, it would fill the disk the next time."""
    for unfinished in folder.glob(".state*.tmp"):
        unfinished.unlink(missing_ok=True)


def _taken_apart(state: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimizer's state as tensors with names, and the rest as JSON."""
    tensors: dict[str, Tensor] = {}
    others: dict[str, dict[str, Any]] = {}
    for index, held in state["state"].items():
        for name, value in held.items():
            if isinstance(value, Tensor):
                tensors[f"{index}/{name}"] = value.detach().cpu().contiguous().clone()
            else:
                others.setdefault(str(index), {})[name] = value
    groups = [{k: list(v) if isinstance(v, tuple) else v for k, v in g.items()} for g in state["param_groups"]]
    return tensors, {"state": others, "groups": groups}


def _put_together(tensors: dict[str, Tensor], plain: dict[str, Any]) -> dict[str, Any]:
    state: dict[int, dict[str, Any]] = {int(index): dict(held) for index, held in plain["state"].items()}
    for key, value in tensors.items():
        index, _, name = key.partition("/")
        state.setdefault(int(index), {})[name] = value
    groups = [{k: tuple(v) if k == "betas" else v for k, v in group.items()} for group in plain["groups"]]
    return {"state": state, "param_groups": groups}
