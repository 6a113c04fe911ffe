"""The one canonical binary encoding of records: same record, same bytes, forever.

An entry is `kind (1 byte) ‖ version (1 byte) ‖ fields in the order they are declared`. Each type has exactly one
spelling, and reading refuses every other, so that whoever decodes and re-encodes an entry gets its bytes back.
A kind or version this release does not know is read as `Opaque`: its meaning is lost on us, its proof is not.

| type | bytes |
| --- | --- |
| `int` | unsigned LEB128, shortest form, below 2⁶³ |
| `Signed` | zigzag, then as `int` |
| `U8` … `U40` | fixed width, little endian |
| `Norms` | two bytes each, little endian, to the end of the entry |
| `bool` | 0 or 1 |
| `float` | IEEE 754 double, big endian; no NaN, no negative zero |
| `str`, `bytes` | length as `int`, then UTF-8 or the bytes |
| `Digest` | 32 bytes |
| a string enumeration | as `str` |
| `X \\| None` | 0, or 1 and X |
| `tuple[X, ...]` | count as `int`, then each X |
| a record inside a record | its fields |
"""

from __future__ import annotations

import dataclasses
import math
import struct
import types
from collections.abc import Callable
from enum import StrEnum
from typing import Any, NamedTuple, Union, get_args, get_origin, get_type_hints

from licet.ledger import records
from licet.ledger.errors import FormatError, LimitError
from licet.ledger.records import Opaque, Record

ENTRY_BYTES_MAX = 65_535
"""An entry bundle of a tile gives each entry's length in two bytes."""

_INT_LIMIT = 2**63
_DOUBLE = struct.Struct(">d")
_KNOWN: dict[Any, _Coder] = {}
_FIXED_BYTES = {records.U8: 1, records.U16: 2, records.U32: 4, records.U40: 5, records.Ref: 5}


class _Coder(NamedTuple):
    """How one type is written at the end of a buffer and read at an offset."""

    write: Callable[[bytearray, Any], None]
    read: Callable[[bytes, int], tuple[Any, int]]


def encode(record: Record | Opaque) -> bytes:
    """The entry of a record."""
    try:
        if isinstance(record, Opaque):
            if (record.kind, record.version) in records.BY_TAG:
                raise FormatError("An opaque record cannot stand for one that this release knows.")
            entry = bytes([record.kind, record.version]) + record.body
        else:
            out = bytearray([record.KIND, record.VERSION])
            _coder(type(record)).write(out, record)
            entry = bytes(out)
    except (AttributeError, TypeError, ValueError, OverflowError, struct.error) as error:
        raise FormatError(f"A field of this {type(record).__name__} has a wrong type or range: {error}.") from error
    if len(entry) > ENTRY_BYTES_MAX:
        raise LimitError(
            f"A {type(record).__name__} of {len(entry)} bytes is too large for the log.",
            remedy=f"An entry may have {ENTRY_BYTES_MAX} bytes: store the rest as content and refer to its digest.",
        )
    return entry


def decode(entry: bytes) -> Record | Opaque:
    """The record of an entry; `Opaque` if its kind or version is unknown here."""
    if not 2 <= len(entry) <= ENTRY_BYTES_MAX:
        raise FormatError(f"An entry has 2 to {ENTRY_BYTES_MAX} bytes, not {len(entry)}.")
    cls = records.BY_TAG.get((entry[0], entry[1]))
    if cls is None:
        return Opaque(entry[0], entry[1], entry[2:])
    try:
        record, end = _coder(cls).read(entry, 2)
    except (IndexError, struct.error) as error:
        raise _cut_short() from error
    except UnicodeDecodeError as error:
        raise FormatError("A text in this entry is not UTF-8.") from error
    if end != len(entry):
        raise FormatError(f"This {cls.__name__} has {len(entry) - end} bytes too many.")
    assert isinstance(record, Record)
    return record


def _coder(kind: Any) -> _Coder:
    known = _KNOWN.get(kind)
    if known is None:
        known = _KNOWN[kind] = _new_coder(kind)
    return known


def _new_coder(kind: Any) -> _Coder:
    for matches, make in _CODERS:
        if matches(kind):
            return make(kind)
    raise TypeError(f"no encoding for {kind}")


def _struct_coder(cls: type) -> _Coder:
    hints = get_type_hints(cls)
    fields = [(f.name, _coder(hints[f.name])) for f in dataclasses.fields(cls)]

    def write(out: bytearray, value: Any) -> None:
        for name, coder in fields:
            coder.write(out, getattr(value, name))

    return _Coder(write, _struct_reader(cls, [hints[name] for name, _ in fields]))


def _struct_reader(cls: type, kinds: list[Any]) -> Callable[[bytes, int], tuple[Any, int]]:
    """A function that reads all fields of a record in a row.

    It is put together as source text, because a log is read record by record by the million, and a call for each
    field would take three times as long. Only types that are frequent are spelled out; the others are called. The
    slots are set one by one, which takes a third of the time that the constructor of a frozen class needs.
    """
    names: dict[str, Any] = {
        "cls": cls,
        "new": object.__new__,
        "cut_short": _cut_short,
        "bad_flag": _bad_flag,
        "whole": int.from_bytes,
        "double": _DOUBLE.unpack_from,
    }
    lines = ["def read(raw, at):"]
    for i, kind in enumerate(kinds):
        lines += ["    " + line for line in _read_statements(kind, f"v{i}", names)]
    # A slice beyond the end is short, not an error, so the end is looked at once, after all of them.
    lines += ["    if at > len(raw): raise cut_short()"]
    lines += ["    made = new(cls)"]
    for i, field in enumerate(dataclasses.fields(cls)):
        names[f"set_{i}"] = vars(cls)[field.name].__set__
        lines += [f"    set_{i}(made, v{i})"]
    lines += ["    return made, at"]
    exec("\n".join(lines), names)  # noqa: S102  of nothing but the lines above
    reader: Callable[[bytes, int], tuple[Any, int]] = names["read"]
    return reader


def _read_statements(kind: Any, name: str, names: dict[str, Any]) -> list[str]:
    """Statements that read one field into a variable."""
    width = 32 if kind is records.Digest else _FIXED_BYTES.get(kind)
    if kind is records.Digest:
        return [f"{name} = raw[at : at + 32]; at += 32"]
    if width is not None:
        return [f"{name} = whole(raw[at : at + {width}], 'little'); at += {width}"]
    if get_origin(kind) in (Union, types.UnionType):
        (inner,) = (arg for arg in get_args(kind) if arg is not types.NoneType)
        present = ["    " + line for line in _read_statements(inner, name, names)]
        return [
            "flag = raw[at]; at += 1",
            "if flag == 1:",
            *present,
            f"elif flag == 0: {name} = None",
            "else: raise bad_flag()",
        ]
    names[f"read_{name}"] = _coder(kind).read
    called = f"{name}, at = read_{name}(raw, at)"
    if kind in (int, records.ClaimedMs):
        return [f"if raw[at] < 0x80: {name} = raw[at]; at += 1", f"else: {called}"]
    if kind is float:
        # Neither NaN nor a zero passes here: what may be wrong with them is looked at by the function.
        return [f"{name} = double(raw, at)[0]", f"if {name} > 0 or {name} < 0: at += 8", f"else: {called}"]
    if kind is str:
        short = f"{name} = str(raw[at + 1 : at + 1 + raw[at]], 'utf-8'); at += 1 + raw[at]"
        return ["if raw[at] < 0x80: " + short, f"else: {called}"]
    if get_origin(kind) is tuple:
        return [f"if raw[at] == 0: {name} = (); at += 1", f"else: {called}"]
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        names[f"known_{name}"] = {_spelled(member): member for member in kind}
        found = f"{name} = known_{name}.get(raw[at : at + 1 + raw[at]])"
        return [found, f"if {name} is None: {called}", "else: at += 1 + raw[at]"]
    return [called]


def _spelled(member: StrEnum) -> bytes:
    out = bytearray()
    _write_str(out, member.value)
    return bytes(out)


def _fixed_coder(kind: Any) -> _Coder:
    width = _FIXED_BYTES[kind]

    def write(out: bytearray, value: int) -> None:
        if not isinstance(value, int) or not 0 <= value < 1 << 8 * width:
            raise FormatError(f"{value!r} does not fit into {width} bytes.")
        out += value.to_bytes(width, "little")

    def read(raw: bytes, at: int) -> tuple[int, int]:
        end = at + width
        if end > len(raw):
            raise _cut_short()
        return int.from_bytes(raw[at:end], "little"), end

    return _Coder(write, read)


def _write_int(out: bytearray, value: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < _INT_LIMIT:
        raise FormatError(f"{value!r} is not a whole number from 0 to 2^63 - 1.")
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def _read_int(raw: bytes, at: int) -> tuple[int, int]:
    if at < len(raw) and raw[at] < 0x80:  # nearly always
        return raw[at], at + 1
    value = shift = 0
    while True:
        (byte,), at = _take(raw, at, 1)
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
        if shift >= 63:
            raise FormatError("A number in this entry is too large.")
    if (byte == 0 and shift > 7) or value >= _INT_LIMIT:
        raise FormatError("A number in this entry is not written in its shortest form.")
    return value, at


def _write_signed(out: bytearray, value: int) -> None:
    _write_int(out, value << 1 if value >= 0 else (-value << 1) - 1)


def _read_signed(raw: bytes, at: int) -> tuple[int, int]:
    value, at = _read_int(raw, at)
    return (value >> 1) ^ -(value & 1), at


def _write_bool(out: bytearray, value: bool) -> None:
    if not isinstance(value, bool):
        raise FormatError(f"{value!r} is not a truth value.")
    out.append(value)


def _read_flag(raw: bytes, at: int) -> tuple[bool, int]:
    if raw[at] > 1:
        raise _bad_flag()
    return raw[at] == 1, at + 1


def _write_float(out: bytearray, value: float) -> None:
    if math.isnan(value):
        raise FormatError("NaN cannot be recorded: leave the field empty instead.")
    out += struct.pack(">d", value + 0.0)  # adding 0.0 turns -0.0 into 0.0


def _read_float(raw: bytes, at: int) -> tuple[float, int]:
    if at + 8 > len(raw):
        raise _cut_short()
    (value,) = _DOUBLE.unpack_from(raw, at)
    if math.isnan(value) or (value == 0 and raw[at] == 0x80):
        raise FormatError("A number in this entry is NaN or negative zero.")
    return value, at + 8


def _write_bytes(out: bytearray, value: bytes) -> None:
    if not isinstance(value, bytes):
        raise FormatError(f"{value!r} is not bytes.")
    _write_int(out, len(value))
    out += value


def _read_bytes(raw: bytes, at: int) -> tuple[bytes, int]:
    count, at = _read_int(raw, at)
    return _take(raw, at, count)


def _write_str(out: bytearray, value: str) -> None:
    _write_bytes(out, value.encode())


def _read_str(raw: bytes, at: int) -> tuple[str, int]:
    part, at = _read_bytes(raw, at)
    try:
        return part.decode(), at
    except UnicodeDecodeError as error:
        raise FormatError("A text in this entry is not UTF-8.") from error


def _write_digest(out: bytearray, value: bytes) -> None:
    if not isinstance(value, bytes) or len(value) != 32:
        raise FormatError(f"{value!r} is not a digest of 32 bytes.")
    out += value


def _read_digest(raw: bytes, at: int) -> tuple[bytes, int]:
    return _take(raw, at, 32)


def _write_norms(out: bytearray, value: tuple[int, ...]) -> None:
    out += struct.pack(f"<{len(value)}H", *value)


def _read_norms(raw: bytes, at: int) -> tuple[tuple[int, ...], int]:
    if at > len(raw) or (len(raw) - at) % 2:
        raise FormatError("The norms of this event are cut in the middle.")
    return struct.unpack(f"<{(len(raw) - at) // 2}H", raw[at:]), len(raw)


def _enum_coder(cls: type[StrEnum]) -> _Coder:
    def write(out: bytearray, value: StrEnum) -> None:
        _write_str(out, cls(value).value)

    members = {member.value: member for member in cls}

    def read(raw: bytes, at: int) -> tuple[StrEnum, int]:
        text, at = _read_str(raw, at)
        member = members.get(text)
        if member is None:
            raise FormatError(f"{text!r} is no {cls.__name__}.")
        return member, at

    return _Coder(write, read)


def _optional_coder(kind: Any) -> _Coder:
    (inner,) = (_coder(arg) for arg in get_args(kind) if arg is not types.NoneType)

    def write(out: bytearray, value: Any) -> None:
        out.append(value is not None)
        if value is not None:
            inner.write(out, value)

    def read(raw: bytes, at: int) -> tuple[Any, int]:
        present, at = _read_flag(raw, at)
        return inner.read(raw, at) if present else (None, at)

    return _Coder(write, read)


def _tuple_coder(kind: Any) -> _Coder:
    item = _coder(get_args(kind)[0])

    def write(out: bytearray, value: tuple[Any, ...]) -> None:
        _write_int(out, len(value))
        for element in value:
            item.write(out, element)

    def read(raw: bytes, at: int) -> tuple[tuple[Any, ...], int]:
        count, at = _read_int(raw, at)
        if count > len(raw) - at:  # every element takes a byte at least
            raise FormatError("A list in this entry is longer than the entry.")
        values = []
        for _ in range(count):
            value, at = item.read(raw, at)
            values.append(value)
        return tuple(values), at

    return _Coder(write, read)


def _take(raw: bytes, at: int, count: int) -> tuple[bytes, int]:
    end = at + count
    if end > len(raw):
        raise _cut_short()
    return raw[at:end], end


def _bad_flag() -> FormatError:
    return FormatError("A yes or no in this entry is neither.")


def _cut_short() -> FormatError:
    return FormatError("This entry ends in the middle of a field.")


_CODERS: list[tuple[Callable[[Any], bool], Callable[[Any], _Coder]]] = [
    (lambda t: t in _FIXED_BYTES, _fixed_coder),
    (lambda t: t is records.Norms, lambda t: _Coder(_write_norms, _read_norms)),
    (lambda t: t is records.Digest, lambda t: _Coder(_write_digest, _read_digest)),
    (lambda t: t is records.Signed, lambda t: _Coder(_write_signed, _read_signed)),
    (lambda t: t in (int, records.ClaimedMs), lambda t: _Coder(_write_int, _read_int)),
    (lambda t: t is bool, lambda t: _Coder(_write_bool, _read_flag)),
    (lambda t: t is float, lambda t: _Coder(_write_float, _read_float)),
    (lambda t: t is str, lambda t: _Coder(_write_str, _read_str)),
    (lambda t: t is bytes, lambda t: _Coder(_write_bytes, _read_bytes)),
    (lambda t: isinstance(t, type) and issubclass(t, StrEnum), _enum_coder),
    (lambda t: get_origin(t) is tuple, _tuple_coder),
    (lambda t: get_origin(t) in (Union, types.UnionType), _optional_coder),
    (dataclasses.is_dataclass, _struct_coder),
]
