"""The golden entries: one fixed example of every record, and the bytes that it must have forever.

`python -m tests.ledger.golden` compares; `--write` writes the file anew. Only a new record class may add a line:
a line that changes means that logs written before can no longer be read.
"""

from __future__ import annotations

import dataclasses
import hashlib
import sys
import types
from enum import StrEnum
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from licet.ledger import codec, records
from licet.ledger.records import Record

GOLDEN = Path(__file__).parent / "data" / "golden_entries.txt"
_WIDTHS = {records.U8: 1, records.U16: 2, records.U32: 4, records.U40: 5, records.Ref: 5}


def name_of(cls: type[Record]) -> str:
    return f"{cls.__name__}.v{cls.VERSION}"


def example_of(cls: type) -> Any:
    """A record whose fields differ from each other and depend on nothing but their place and type."""
    hints = get_type_hints(cls)
    return cls(*(_value(hints[field.name], at) for at, field in enumerate(dataclasses.fields(cls), start=1)))


def _value(kind: Any, at: int) -> Any:
    if kind in _WIDTHS:
        return (1 << 8 * _WIDTHS[kind]) - at
    if kind is records.Norms:
        return (0, at, 1023, 1024, 65_535)
    if kind is records.Digest:
        return hashlib.sha256(b"%d" % at).digest()
    if kind is records.Signed:
        return -at if at % 2 else at
    if kind in (int, records.ClaimedMs):
        return 1_700_000_000_000 + at
    if kind is bool:
        return bool(at % 2)
    if kind is float:
        return at / 8 - 1
    if kind is str:
        return f"tèxt {at}"
    if kind is bytes:
        return bytes(range(at))
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return list(kind)[at % len(kind)]
    if get_origin(kind) is tuple:
        return tuple(_value(get_args(kind)[0], at + i) for i in range(at % 4))
    if get_origin(kind) in (Union, types.UnionType):
        (inner,) = (arg for arg in get_args(kind) if arg is not types.NoneType)
        return None if at % 3 == 0 else _value(inner, at)
    return example_of(kind)


def lines() -> list[str]:
    classes = sorted(records.BY_TAG.values(), key=lambda cls: (cls.KIND, cls.VERSION))
    return [f"{name_of(cls)} {codec.encode(example_of(cls)).hex()}" for cls in classes]


def main(arguments: list[str]) -> int:
    if arguments == ["--write"]:
        GOLDEN.write_text("\n".join(lines()) + "\n")
        return 0
    same = GOLDEN.exists() and GOLDEN.read_text().splitlines() == lines()
    print(f"{GOLDEN.name} is {'as it should be' if same else 'different; --write writes it anew'}")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
