"""A seal's statement as bytes, read strictly: nothing is taken that the writer would not have written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from licet.ledger.errors import FormatError, LicetError
from licet.ledger.records import ClaimedMs, Digest, Ref
from licet.policies import strict_json
from licet.policies.bands import BLOCKS_MAX
from licet.policies.strict_json import Fields, sha256_of
from licet.train.seals.statement import (
    VERSION,
    Claims,
    History,
    LedgerPoint,
    Role,
    RunPlace,
    Seal,
    SealedBlock,
    SealedFile,
    SealedTensor,
)
from licet.train.seals.tensor_file import DIMENSIONS_MAX, ELEMENT_BYTES

STATEMENT_BYTES_MAX = 48 << 20
TENSORS_MAX = 200_000
FILES_MAX = 4096
_WHOLE_MAX = 2**63 - 1
FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")
"""A file lies in the checkpoint's own folder: its name has no separators and does not begin with a dot."""


def parse_statement(raw: bytes) -> Seal:
    """The seal that some bytes state."""
    fields = Fields(strict_json.parse(raw, bytes_max=STATEMENT_BYTES_MAX, what="The seal"), "seal")
    if fields.any("version", required=True) != VERSION:
        raise FormatError("This seal is of another version.", remedy="Use a newer release to read it.")
    claims = _claims(fields)
    blocks = tuple(
        _block(value, f"seal.blocks[{i}]")
        for i, value in enumerate(fields.list("blocks", required=True, count_max=BLOCKS_MAX + 1))
    )
    files = tuple(
        _file(value, f"seal.files[{i}]")
        for i, value in enumerate(fields.list("files", required=True, count_max=FILES_MAX))
    )
    tied = _tied(fields.any("tied", required=True))
    fields.end()
    _check_names(blocks, tied, files)
    return Seal(claims, blocks, tuple(sorted(tied.items())), files)


def _claims(fields: Fields) -> Claims:
    history = _member(History, fields, "history")
    note = fields.any("ledger")
    run = fields.object("run")
    place = None
    if run is not None:
        place = RunPlace(run.required_text("name"), Ref(run.required_whole("entry", low=0, high=2**40 - 1)))
        run.end()
    policy, parent = fields.text("policy"), fields.text("parent")
    return Claims(
        model=fields.required_text("model"),
        label=fields.required_text("label"),
        step=fields.required_whole("step", low=0, high=_WHOLE_MAX),
        claimed_ms=ClaimedMs(fields.required_whole("claimedMs", low=0, high=_WHOLE_MAX)),
        history=history,
        ledger=_point(note) if note is not None else None,
        run=place,
        policy=sha256_of(policy, "seal.policy") if policy is not None else None,
        parent=sha256_of(parent, "seal.parent") if parent is not None else None,
        proposals=tuple(sha256_of(text, "seal.proposals") for text in fields.texts("proposals")),
    )


def _point(note: Any) -> LedgerPoint:
    try:
        return LedgerPoint.of(note.encode())
    except (AttributeError, UnicodeEncodeError, LicetError) as error:
        raise FormatError(f"seal.ledger is not a signed checkpoint: {error}") from error


def _block(value: Any, where: str) -> SealedBlock:
    fields = Fields(value, where)
    name = fields.required_text("name")
    tensors = tuple(
        _tensor(one, f"{where}.tensors[{i}]")
        for i, one in enumerate(fields.list("tensors", required=True, count_max=TENSORS_MAX))
    )
    block = SealedBlock(name, tensors)
    said = _digest(fields)
    fields.end()
    if [t.name for t in tensors] != sorted(t.name for t in tensors) or block.digest != said:
        raise FormatError(f"{where} does not have the digest of its tensors.")
    return block


def _tensor(value: Any, where: str) -> SealedTensor:
    fields = Fields(value, where)
    name, dtype = fields.required_text("name"), fields.required_text("dtype")
    shape = fields.list("shape", required=True, count_max=DIMENSIONS_MAX)
    if dtype not in ELEMENT_BYTES or not all(type(size) is int and 0 <= size < 2**63 for size in shape):
        raise FormatError(f"{where} has a type or a shape that no tensor has.")
    tensor = SealedTensor(name, dtype, tuple(shape), _digest(fields))
    fields.end()
    return tensor


def _file(value: Any, where: str) -> SealedFile:
    fields = Fields(value, where)
    name = fields.required_text("name")
    if not FILE_NAME.fullmatch(name):
        raise FormatError(f"{where}.name is not the plain name of a file beside the seal.")
    size = fields.required_whole("bytes", low=0, high=_WHOLE_MAX)
    file = SealedFile(name, _member(Role, fields, "role"), size, _digest(fields))
    fields.end()
    return file


def _tied(value: Any) -> Mapping[str, str]:
    if not isinstance(value, dict) or len(value) > TENSORS_MAX:
        raise FormatError("seal.tied is not an object of names.")
    return {
        strict_json.check_text(other, "A name in seal.tied"): strict_json.check_text(name, f"seal.tied.{other}")
        for other, name in value.items()
    }


def _check_names(blocks: tuple[SealedBlock, ...], tied: Mapping[str, str], files: tuple[SealedFile, ...]) -> None:
    tensors = [tensor.name for block in blocks for tensor in block.tensors]
    if len(tensors) > TENSORS_MAX:
        raise FormatError(f"seal.blocks name {len(tensors)} tensors, and {TENSORS_MAX} is the most.")
    for what, names in (
        ("block", [block.name for block in blocks]),
        ("tensor", [*tensors, *tied]),
        ("file", [file.name.lower() for file in files]),  # on some disks, names that differ in case are one file
    ):
        if len(set(names)) < len(names):
            raise FormatError(f"The seal names a {what} twice.")
    if not set(tied.values()) <= set(tensors):
        raise FormatError("seal.tied names a tensor that is in no block.")


def _member(kind: Any, fields: Fields, name: str) -> Any:
    text = fields.required_text(name)
    try:
        return kind(text)
    except ValueError as error:
        raise FormatError(f"{fields.named(name)} is none of {', '.join(kind)}.") from error


def _digest(fields: Fields) -> Digest:
    return sha256_of(fields.required_text("sha256"), fields.named("sha256"))
