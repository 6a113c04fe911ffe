"""Safetensors files as stretches of bytes: what a header says, and the digest of a tensor, without loading any.

The data of a safetensors file are little-endian, in row order, without holes; so the digest of a stretch of the file
is the digest of the tensor, in constant memory and for element types that this machine cannot compute with.
"""

from __future__ import annotations

import hashlib
import math
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

from licet.ledger.errors import FormatError, LimitError, MissingFileError, StorageError
from licet.ledger.records import Digest
from licet.policies import strict_json

HEADER_BYTES_MAX = 64 << 20
DIMENSIONS_MAX = 16
_PIECE_BYTES = 4 << 20
_LENGTH = struct.Struct("<Q")
ELEMENT_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 8),
}


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor lies in its file: bytes [start, end)."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of itself; its digest fixes names, types, shapes, order and metadata at once."""

    digest: Digest
    tensors: tuple[StoredTensor, ...]


@contextmanager
def opened(path: Path) -> Iterator[FileIO]:
    """A plain file for reading: no link, no device, nothing that could wait for ever."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise MissingFileError(f"There is no file {path}.", remedy="Check the path.") from error
    except OSError as error:
        raise StorageError(f"{path} could not be read: {error.strerror or error}.") from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise StorageError(f"{path} is not a plain file.", remedy="Put the file itself there.")
        with os.fdopen(descriptor, "rb", buffering=0, closefd=False) as file:
            yield file
    except OSError as error:
        raise StorageError(f"{path} could not be read: {error.strerror or error}.") from error
    finally:
        os.close(descriptor)


def read_header(path: Path) -> Header:
    """The header of a file; one whose tensors overlap, leave holes or do not fit their type is refused."""
    with opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        prefix = file.read(_LENGTH.size)
        length = _LENGTH.unpack(prefix)[0] if len(prefix) == _LENGTH.size else size
        if length > HEADER_BYTES_MAX < size:
            raise LimitError(f"The header of {path.name} has more than {HEADER_BYTES_MAX} bytes.")
        if _LENGTH.size + length > size:
            raise FormatError(f"{path.name} is cut short.", remedy="Copy the checkpoint again.")
        raw = _read_exactly(file, length)
    values = strict_json.parse(raw, bytes_max=HEADER_BYTES_MAX, what=f"The header of {path.name}")
    if not isinstance(values, dict):
        raise FormatError(f"The header of {path.name} is not an object.")
    first = _LENGTH.size + length
    tensors = [_stored(name, value, first, path.name) for name, value in values.items() if name != "__metadata__"]
    tensors.sort(key=lambda tensor: (tensor.start, tensor.end))
    position = first
    for tensor in tensors:
        if tensor.start != position:
            raise FormatError(f"{path.name} has a hole or an overlap before {tensor.name}.")
        position = tensor.end
    if position != size:
        raise FormatError(f"{path.name} has {size} bytes, and its tensors end at {position}.")
    return Header(Digest(hashlib.sha256(prefix + raw).digest()), tuple(tensors))


def digest_of(path: Path, start: int = 0, end: int | None = None) -> Digest:
    """The digest of a stretch of a file, of the whole if none is named."""
    found = hashlib.sha256()
    with opened(path) as file:
        file.seek(start)
        left = (os.fstat(file.fileno()).st_size if end is None else end) - start
        piece = memoryview(bytearray(max(min(left, _PIECE_BYTES), 1)))
        while left > 0:
            count = file.readinto(piece[: min(left, len(piece))])
            if not count:
                raise FormatError(f"{path.name} became shorter while it was read.")
            found.update(piece[:count])
            left -= count
    return Digest(found.digest())


def _stored(name: str, value: Any, first: int, file: str) -> StoredTensor:
    strict_json.check_text(name, f"A name in {file}")
    fields = strict_json.Fields(value, f"{file}: {name}")
    dtype = fields.required_text("dtype", chars_max=16)
    shape = _numbers(fields.list("shape", required=True, count_max=DIMENSIONS_MAX), fields.named("shape"))
    offsets = _numbers(fields.list("data_offsets", required=True, count_max=2), fields.named("data_offsets"))
    fields.end()
    if dtype not in ELEMENT_BYTES:
        raise FormatError(f"{file}: {name} is of type {dtype}, which this release does not know.")
    if len(offsets) != 2 or offsets[1] - offsets[0] != math.prod(shape) * ELEMENT_BYTES[dtype]:
        raise FormatError(f"{file}: {name} does not have the bytes that its shape and type ask for.")
    return StoredTensor(name, dtype, shape, first + offsets[0], first + offsets[1])


def _numbers(values: Any, where: str) -> tuple[int, ...]:
    if not all(type(value) is int and 0 <= value < 2**63 for value in values):
        raise FormatError(f"{where} holds something other than sizes.")
    return tuple(values)


def _read_exactly(file: FileIO, length: int) -> bytes:
    parts = []
    while length:
        part = file.read(length)
        if not part:
            raise FormatError("A file became shorter while it was read.")
        parts.append(part)
        length -= len(part)
    return b"".join(parts)
