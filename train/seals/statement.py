"""What a seal states of a checkpoint: frozen types, and the one spelling in which they are signed.

A seal is called by the SHA-256 of its statement, so who signed it does not change its name. What a statement says:

    model, label, step, run      which checkpoint this is
    history                      `recorded`: a ledger says what shaped it; `outside`: nobody knows
    ledger                       the signed checkpoint of the training log that it grew from
    policy, parent, proposals    under which rules, from which seal, with which approved proposals
    blocks                       of each block its digest, and of each of its tensors type, shape and digest
    tied                         other names under which the model uses a tensor that is stored once
    files                        all files beside it: weights by the digest of their header, others by their own

The digest of a block covers its name and its tensors, sorted by name: name, element type, shape, and the SHA-256 of the
bytes as safetensors stores them (little-endian, in row order). Tensors that no gradient may reach (buffers, parameters
of no block) stand in the block `ungated`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any

from licet.ledger.errors import Finding, FormatError
from licet.ledger.note import Checkpoint, split_note
from licet.ledger.records import ClaimedMs, Digest, Ref
from licet.policies import strict_json

VERSION = 1
UNGATED = "ungated"
_BLOCK_TAG = b"licet/block/v1\n"


class SealError(Finding):
    """A checkpoint is not what its seal says, or has no seal that can be believed."""


class History(StrEnum):
    """Whether a ledger says what shaped a checkpoint."""

    RECORDED = "recorded"
    OUTSIDE = "outside"


class Role(StrEnum):
    """What a file of a checkpoint is for."""

    WEIGHTS = "weights"
    CONFIG = "config"
    TOKENIZER = "tokenizer"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class LedgerPoint:
    """How far the training log reached: its signed checkpoint, and what that says."""

    note: str
    origin: str
    size: int
    root: Digest

    @classmethod
    def of(cls, note: bytes) -> LedgerPoint:
        """Read a note; whether its signature holds is for `verify.py` to say."""
        point = Checkpoint.parse(split_note(note)[0])
        return cls(note.decode(), point.origin, point.size, Digest(point.root))


@dataclass(frozen=True, slots=True)
class RunPlace:
    """A training run by its name and the entry that started it."""

    name: str
    entry: Ref


@dataclass(frozen=True, slots=True)
class Claims:
    """What whoever seals says of a checkpoint, beside what can be read off its files."""

    model: str
    label: str
    step: int
    claimed_ms: ClaimedMs
    history: History = History.RECORDED
    ledger: LedgerPoint | None = None
    run: RunPlace | None = None
    policy: Digest | None = None
    parent: Digest | None = None
    proposals: tuple[Digest, ...] = ()

    def __post_init__(self) -> None:
        if self.history is History.OUTSIDE and (self.parent is not None or self.run is not None or self.step):
            raise FormatError("An outside seal has no parent, no run and no steps: its history is unknown.")
        if self.history is History.RECORDED and self.ledger is None:
            raise FormatError(
                "A recorded seal names the checkpoint of the ledger that it grew from.",
                remedy="Sign one with `checkpoint()`, or seal a model of unknown history as outside.",
            )


@dataclass(frozen=True, slots=True)
class SealedTensor:
    """A tensor as it is stored."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    digest: Digest


@dataclass(frozen=True, slots=True)
class SealedBlock:
    """The tensors of a block, sorted by name."""

    name: str
    tensors: tuple[SealedTensor, ...]

    @property
    def digest(self) -> Digest:
        return Digest(hashlib.sha256(_BLOCK_TAG + strict_json.spell(_block_json(self))).digest())


@dataclass(frozen=True, slots=True)
class SealedFile:
    """A file of the checkpoint. `digest` is of the whole; of a file of weights, of its header."""

    name: str
    role: Role
    bytes: int
    digest: Digest


@dataclass(frozen=True)
class Seal:
    """A statement about a checkpoint."""

    claims: Claims
    blocks: tuple[SealedBlock, ...]
    tied: tuple[tuple[str, str], ...]
    """(another name, the name under which the tensor is stored), sorted."""
    files: tuple[SealedFile, ...]

    @cached_property
    def statement(self) -> bytes:
        """What is signed."""
        return strict_json.spell(_statement_json(self))

    @cached_property
    def id(self) -> Digest:
        return seal_id(self.statement)

    @property
    def config_digest(self) -> Digest | None:
        """Of config.json, as its bytes stand; None where there is none."""
        return next((file.digest for file in self.files if file.role is Role.CONFIG), None)

    @property
    def tokenizer_digest(self) -> Digest | None:
        """Of all files of the tokenizer together; None where there are none."""
        parts = sorted((f.name, f.digest.hex()) for f in self.files if f.role is Role.TOKENIZER)
        return Digest(hashlib.sha256(b"licet/tokenizer/v1\n" + strict_json.spell(parts)).digest()) if parts else None


def seal_id(statement: bytes) -> Digest:
    """What a seal is called everywhere."""
    return Digest(hashlib.sha256(statement).digest())


def _block_json(block: SealedBlock) -> dict[str, Any]:
    tensors = [
        {"name": t.name, "dtype": t.dtype, "shape": list(t.shape), "sha256": t.digest.hex()} for t in block.tensors
    ]
    return {"name": block.name, "tensors": tensors}


def sorted_block(name: str, tensors: Sequence[SealedTensor]) -> SealedBlock:
    """A block with its tensors in order."""
    return SealedBlock(name, tuple(sorted(tensors, key=lambda tensor: tensor.name)))


def _statement_json(seal: Seal) -> dict[str, Any]:
    claims = seal.claims
    said = {
        "version": VERSION,
        "model": claims.model,
        "label": claims.label,
        "step": claims.step,
        "claimedMs": claims.claimed_ms,
        "history": claims.history.value,
        "ledger": claims.ledger.note if claims.ledger is not None else None,
        "run": {"name": claims.run.name, "entry": claims.run.entry} if claims.run is not None else None,
        "policy": claims.policy.hex() if claims.policy is not None else None,
        "parent": claims.parent.hex() if claims.parent is not None else None,
        "proposals": [proposal.hex() for proposal in claims.proposals],
        "blocks": [{**_block_json(block), "sha256": block.digest.hex()} for block in seal.blocks],
        "tied": dict(seal.tied),
        "files": [
            {"name": f.name, "role": f.role.value, "bytes": f.bytes, "sha256": f.digest.hex()} for f in seal.files
        ],
    }
    return {name: value for name, value in said.items() if value is not None}
