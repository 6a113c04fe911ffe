"""Is this checkpoint what its seal says, and did everything that changed in it change with authority?

    1. seal.json is signed by a key that was asked for, and read only then
    2. the folder holds the files that the seal names, each as it was, and no other
    3. each tensor has the bytes, type and shape that were sealed; what differs is named with its block
    4. the ledger checkpoint in the seal is signed, and the log, where there is one, holds it
    5. from parent to parent down to the base: each is signed, and no later than its child
    6. a block that differs from the parent's was written to by events of the log between the two

Weights are read piece by piece and never loaded. Bad weights and bad links are collected in the report, so that all of
them are named at once; a seal that nobody signed, or that cannot be read, raises.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from licet.ledger.errors import LicetError, StorageError
from licet.ledger.files import read_whole
from licet.ledger.note import VerifierKey, open_checkpoint
from licet.ledger.records import Digest
from licet.train.seals.history import WriteHistory
from licet.train.seals.reader import FILES_MAX
from licet.train.seals.seal import SEAL_BYTES_MAX, SEAL_FILE, open_seal, shown
from licet.train.seals.statement import History, Role, Seal, SealedBlock, SealedFile, SealedTensor, SealError
from licet.train.seals.tensor_file import ELEMENT_BYTES, StoredTensor, digest_of, opened, read_header

CHAIN_MAX = 10_000
_READERS = 4

ParentLookup = Callable[[Digest], bytes | None]
"""The seal.json of a seal by its id; None if there is none at hand."""


class Fault(StrEnum):
    """What can be wrong with a sealed checkpoint."""

    FILE = "file"
    TENSOR = "tensor"
    LEDGER = "ledger"
    CHAIN = "chain"
    UNAUTHORISED = "unauthorised"


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding, with the block that it is about where it is about one."""

    fault: Fault
    text: str
    block: str | None = None


@dataclass(frozen=True, slots=True)
class BlockReport:
    """One block. `changed` is against the parent, and None where there is none to compare with."""

    name: str
    digest: Digest
    intact: bool
    changed: bool | None


@dataclass(frozen=True, slots=True)
class SealReport:
    """What was found. `chain` begins with the seal itself and ends with its base."""

    seal: Seal
    problems: tuple[Problem, ...]
    blocks: tuple[BlockReport, ...]
    chain: tuple[Seal, ...]
    authority_checked: bool
    """Whether a log was asked for the events behind each change."""

    @property
    def is_good(self) -> bool:
        return not self.problems

    @property
    def history_known(self) -> bool:
        """Whether the chain ends where training began, and not in a model from elsewhere."""
        return self.chain[-1].claims.parent is None and self.chain[-1].claims.history is History.RECORDED

    def check(self) -> None:
        """Raise with the first problem."""
        if self.problems:
            more = f" ({len(self.problems) - 1} more problems)" if len(self.problems) > 1 else ""
            raise SealError(
                self.problems[0].text + more, remedy="Do not serve it. Restore the folder, or go back to its parent."
            )


def verify_seal(
    directory: Path,
    keys: Sequence[VerifierKey],
    *,
    parents: ParentLookup | None = None,
    history: WriteHistory | None = None,
) -> SealReport:
    """Check a sealed checkpoint against its seal, its forebears and, if `history` is given, the training log."""
    seal = open_seal(_read_seal(directory), keys)
    problems = [*_check_listing(directory, seal), *_check_files(directory, seal)]
    bad_tensors = list(_check_tensors(directory, seal))
    chain, broken = _walk(seal, keys, parents)
    problems += [*bad_tensors, *broken]
    for child, parent in zip(chain, [*chain[1:], None], strict=True):
        problems += _check_ledger(child, keys, history)
        problems += _check_link(child, parent, history)
    changed = {block for block, _ in _changes(seal, chain[1])} if len(chain) > 1 else None
    damaged = {problem.block for problem in bad_tensors}
    blocks = tuple(
        BlockReport(b.name, b.digest, b.name not in damaged, None if changed is None else b.name in changed)
        for b in seal.blocks
    )
    return SealReport(seal, tuple(problems), blocks, tuple(chain), history is not None)


def _read_seal(directory: Path) -> bytes:
    with opened(directory / SEAL_FILE):  # no link, no device
        return read_whole(directory / SEAL_FILE, bytes_max=SEAL_BYTES_MAX)


# ---- files and tensors ------------------------------------------------------------------------------------------


def _check_listing(directory: Path, seal: Seal) -> Iterator[Problem]:
    known = {file.name for file in seal.files} | {SEAL_FILE}
    try:
        with os.scandir(directory) as entries:
            for count, entry in enumerate(entries):
                if count > 2 * FILES_MAX:
                    yield Problem(Fault.FILE, f"{directory} holds more files than any seal names.")
                    return
                if entry.name not in known:
                    yield Problem(Fault.FILE, f"The file {shown(entry.name)} is not in the seal.")
    except OSError as error:
        raise StorageError(f"{directory} could not be listed: {error.strerror}.") from error


def _check_files(directory: Path, seal: Seal) -> Iterator[Problem]:
    for file in seal.files:
        try:
            if not _is_as_sealed(directory / file.name, file):
                yield Problem(Fault.FILE, f"The file {file.name} is not the one that was sealed.")
        except LicetError as error:
            yield Problem(Fault.FILE, f"The file {file.name} cannot be checked: {error.message}")


def _is_as_sealed(path: Path, file: SealedFile) -> bool:
    with opened(path) as handle:
        if os.fstat(handle.fileno()).st_size != file.bytes:
            return False
    return (read_header(path).digest if file.role is Role.WEIGHTS else digest_of(path)) == file.digest


def _check_tensors(directory: Path, seal: Seal) -> Iterator[Problem]:
    stored = _stored(directory, seal)
    sealed = {tensor.name: (block, tensor) for block in seal.blocks for tensor in block.tensors}
    with ThreadPoolExecutor(_READERS) as pool:
        places = [(block, tensor, stored.get(name, [])) for name, (block, tensor) in sealed.items()]
        yield from (problem for problem in pool.map(lambda place: _check_tensor(*place), places) if problem)
    for name in sorted(stored.keys() - sealed.keys()):
        yield Problem(Fault.TENSOR, f"The tensor {shown(name)} is not in the seal.")


def _stored(directory: Path, seal: Seal) -> dict[str, list[tuple[Path, StoredTensor]]]:
    """Where each tensor lies; nothing of a file whose header cannot be read, which is a problem already."""
    found: dict[str, list[tuple[Path, StoredTensor]]] = {}
    for file in (file for file in seal.files if file.role is Role.WEIGHTS):
        try:
            header = read_header(directory / file.name)
        except LicetError:
            continue
        for tensor in header.tensors:
            found.setdefault(tensor.name, []).append((directory / file.name, tensor))
    return found


def _check_tensor(
    block: SealedBlock, tensor: SealedTensor, places: Sequence[tuple[Path, StoredTensor]]
) -> Problem | None:
    where = f"The block {block.name}: the tensor {tensor.name}"
    if len(places) != 1:
        return Problem(Fault.TENSOR, f"{where} is {'missing' if not places else 'there twice'}.", block.name)
    path, stored = places[0]
    if (stored.dtype, stored.shape) != (tensor.dtype, tensor.shape):
        is_now, was = f"{stored.dtype} {list(stored.shape)}", f"{tensor.dtype} {list(tensor.shape)}"
        return Problem(Fault.TENSOR, f"{where} is {is_now}, and was sealed as {was}.", block.name)
    try:
        same = digest_of(path, stored.start, stored.end) == tensor.digest
    except LicetError as error:
        return Problem(Fault.TENSOR, f"{where} cannot be read: {error.message}", block.name)
    return None if same else Problem(Fault.TENSOR, f"{where} was changed after it was sealed.", block.name)


# ---- ledger and parents -----------------------------------------------------------------------------------------


def _walk(seal: Seal, keys: Sequence[VerifierKey], parents: ParentLookup | None) -> tuple[list[Seal], list[Problem]]:
    """A seal and its forebears as far as they can be followed, and why no further."""
    chain = [seal]
    while (wanted := chain[-1].claims.parent) is not None:
        of = f"The parent {wanted.hex()[:16]} of {chain[-1].claims.label}"
        raw = parents(wanted) if parents is not None else None
        if raw is None:
            return chain, [Problem(Fault.CHAIN, f"{of} was not found, so its history cannot be followed.")]
        if len(chain) >= CHAIN_MAX:
            return chain, [Problem(Fault.CHAIN, f"There are more than {CHAIN_MAX} seals in a row.")]
        try:
            parent = open_seal(raw, keys)
        except LicetError as error:
            return chain, [Problem(Fault.CHAIN, f"{of} cannot be believed: {error.message}")]
        if parent.id != wanted:
            return chain, [Problem(Fault.CHAIN, f"{of} is another seal than the one that was asked for.")]
        chain.append(parent)
    return chain, []


def _check_ledger(seal: Seal, keys: Sequence[VerifierKey], history: WriteHistory | None) -> Iterator[Problem]:
    point, label = seal.claims.ledger, seal.claims.label
    if point is None:
        return
    try:
        open_checkpoint(point.note.encode(), keys, origin=point.origin)
    except LicetError as error:
        yield Problem(Fault.LEDGER, f"The ledger checkpoint in the seal {label} cannot be believed: {error.message}")
        return
    if history is not None and history.holds(point) is False:
        yield Problem(Fault.LEDGER, f"The log does not hold the checkpoint that the seal {label} grew from.")


def _check_link(child: Seal, parent: Seal | None, history: WriteHistory | None) -> Iterator[Problem]:
    """What changed from a parent to its child, and whether the log says why."""
    if parent is None:
        if child.claims.parent is None and history is not None and history.began_elsewhere(child):
            yield Problem(Fault.CHAIN, f"The seal {child.claims.label} names no parent, and its run began from one.")
        return
    label = f"{parent.claims.label} to {child.claims.label}"
    before, after = parent.claims.ledger, child.claims.ledger
    if before is not None and after is not None and before.origin == after.origin and before.size > after.size:
        yield Problem(Fault.CHAIN, f"From {label}, the ledger became shorter.")
    if child.claims.history is History.OUTSIDE:
        yield Problem(Fault.CHAIN, f"From {label}: an outside seal has a parent.")
    changes = list(_changes(child, parent))
    if history is None or not changes:
        return
    written = history.blocks_written(child, parent)
    if written is None:
        yield Problem(Fault.UNAUTHORISED, f"From {label} blocks changed, and the log that says why is not this one.")
        return
    told: set[str] = set()
    for block, what in changes:
        if block not in written and block not in told:
            told.add(block)
            yield Problem(
                Fault.UNAUTHORISED,
                f"From {label} the block {block} changed without authority: {what}, and no admitted example was "
                "applied to it in between.",
                block,
            )


def _changes(child: Seal, parent: Seal) -> Iterator[tuple[str, str]]:
    """The blocks in which two seals differ, tensor by tensor, however either of them is cut into blocks."""
    before = {t.name: (b.name, t) for b in parent.blocks for t in b.tensors}
    if all(".lora_" in t.name and t.name not in before for b in child.blocks for t in b.tensors):
        yield from _adapters(child)
        return
    names = {**before, **{alias: before[name] for alias, name in parent.tied}}
    gone = dict(names)
    for block in child.blocks:
        for tensor in block.tensors:
            old = names.get(tensor.name)
            gone.pop(tensor.name, None)
            if old is None:
                yield block.name, f"the tensor {tensor.name} is new"
            elif (old[1].dtype, old[1].shape) != (tensor.dtype, tensor.shape):
                yield block.name, f"{tensor.name} is {tensor.dtype} {list(tensor.shape)} now"
            elif old[1].digest != tensor.digest:
                yield block.name, f"{tensor.name} has other values"
    now = {t.name: (b.name, t) for b in child.blocks for t in b.tensors}
    for alias, name in child.tied:
        old = gone.pop(alias, None)
        if old is not None and old[1].name != name and old[1].digest != now[name][1].digest:
            yield now[name][0], f"{alias} is tied to {name} now"
    for name, (held, _) in gone.items():
        yield held, f"the tensor {name} is gone"


def _adapters(child: Seal) -> Iterator[tuple[str, str]]:
    """Blocks in which adapters on another seal's model do something. One that multiplies by zeros does nothing yet."""
    for block in child.blocks:
        for tensor in block.tensors:
            if "lora_A" not in tensor.name and tensor.digest != _zeros(tensor):
                yield block.name, f"the tensor {tensor.name} is new"


def _zeros(tensor: SealedTensor) -> bytes:
    return hashlib.sha256(bytes(math.prod(tensor.shape) * ELEMENT_BYTES.get(tensor.dtype, 0))).digest()
