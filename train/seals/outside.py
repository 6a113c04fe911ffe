"""A base model from elsewhere: sealed as it came, so that whoever asks later is told that its history is unknown."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from torch import nn

from licet.ledger.log import Ledger, now_ms
from licet.ledger.note import SigningKey
from licet.ledger.records import CheckpointSealed, Digest
from licet.train.gate import Gate
from licet.train.run.sealing import told
from licet.train.seals import seal
from licet.train.seals.history import LogHistory
from licet.train.seals.statement import Claims, History
from licet.train.seals.tensor_file import digest_of
from licet.train.seals.verify import verify_seal
from licet.train.seals.writer import checkpoint_of, write_seal


def seal_outside(
    folder: Path, models: Path, name: str, model: nn.Module, prefixes: dict[str, list[str]], tokenizer: Any, log: Ledger
) -> Digest:
    """The outside seal of the model that was loaded from a folder: the one it has already, or a new one."""
    assert log.key is not None
    directory = models / f"outside-{_name_of(folder)}"
    if directory.is_dir():
        report = verify_seal(directory, log.verifier_keys(), history=LogHistory(log))
        report.check()
        sealed = report.seal
    else:
        sealed = _write(directory, name, model, prefixes, tokenizer, log.key)
    if not log.find(CheckpointSealed, sealed.id):
        log.append(seal.as_record(sealed))
    return sealed.id


def _write(
    directory: Path, name: str, model: nn.Module, prefixes: dict[str, list[str]], tokenizer: Any, key: SigningKey
) -> Any:
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    model.requires_grad_(True)
    gate = Gate(model, prefixes)
    try:
        checkpoint = checkpoint_of(model, gate, tokenizer)
    finally:
        gate.remove()
        for parameter in frozen:
            parameter.requires_grad_(False)
    claims = Claims(name, directory.name, 0, now_ms(), history=History.OUTSIDE)
    return write_seal(directory, told(checkpoint), claims, key)


def _name_of(folder: Path) -> str:
    """The same for the same files."""
    hashed = hashlib.sha256()
    for file in sorted([*folder.glob("*.safetensors"), *folder.glob("*.json")]):
        hashed.update(file.name.encode() + digest_of(file))
    return hashed.hexdigest()[:12]
