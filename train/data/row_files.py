"""Reading rows to train on: JSON lines, Parquet, or a dataset saved to a folder, one row at a time.

A row's column `licet` (an object, or its JSON as text) says what the row claims, in the words of an example on the
wire: `attestation` (an id in hexadecimal, or an envelope in base64), `membership`, `slope`, `scope`, `provenance`,
`skills`, `fields`, `entropyBand`, `bitsPerByte`. What it does not say is taken from the defaults of its file. To say
nothing is no error: the gate rejects such a row, and that is recorded. What cannot be read stops the reading, with its
line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from licet.ledger.errors import ConfigError, FormatError, LicetError, NotFoundError
from licet.ledger.records import Digest
from licet.policies import strict_json, wire
from licet.policies.cli.file_rows import (
    JSON_LINES,
    PARQUET,
    FileRow,
    attested_bytes,
    bad_row,
    has_rows,
    read_columns,
    row_name,
    without_nulls,
)
from licet.policies.example import Example
from licet.train.data.rows import Chat, Claims, Message, Pair, Parts, Row, Text

__all__ = ["RowShape", "claims_of", "read_rows"]

MESSAGES_MAX = 4096
ROLE_CHARS_MAX = 64
METADATA = "licet"
_OUTSIDE = ("attestation", "membership")
_INSIDE = ("entropyBand", "bitsPerByte", "slope", "scope", "provenance", "skills", "fields")
_ID = re.compile(r"[0-9a-fA-F]{64}")
_NOWHERE: Mapping[str, Any] = {"registry": "", "size": 0, "atMs": 0}


@dataclass(frozen=True, slots=True)
class RowShape:
    """What rows hold, and in which columns."""

    kind: Literal["text", "chat", "preference"] = "text"
    text: str = "text"
    messages: str = "messages"
    prompt: str = "prompt"
    chosen: str = "chosen"
    rejected: str = "rejected"
    metadata: str = METADATA

    def __post_init__(self) -> None:
        if self.metadata in self.columns or len(set(self.columns)) < len(self.columns):
            raise ConfigError("Two things are to be read from one column.", remedy="Name a column for each.")

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are attested: the same that `licet attest --column` is given."""
        match self.kind:
            case "text":
                return (self.text,)
            case "chat":
                return (self.messages,)
            case "preference":
                return (self.prompt, self.chosen, self.rejected)


class _Wrong(FormatError):
    """What is wrong with a row; where it stands is not known yet."""


def read_rows(
    path: Path, shape: RowShape, defaults: Claims, report: Callable[[int, int], None] | None = None
) -> Iterator[Row]:
    """The rows of a file or folder, in their order. At least one, or it is an error."""
    if not has_rows(path):
        raise ConfigError(
            f"{path} holds no rows: it is neither {', '.join((*JSON_LINES, PARQUET))} nor a saved dataset.",
            remedy="Name such a file, or a folder that datasets' save_to_disk wrote.",
        )
    count = 0
    for found in read_columns(path, shape.columns, (shape.metadata,), report or _silent):
        count += 1
        try:
            yield _row(path, found, shape, defaults)
        except LicetError as error:
            raise bad_row(
                path, found.number, error.message, remedy=error.remedy or "Mend it, or take it out."
            ) from error
    if not count:
        raise NotFoundError(f"There are no rows in {path}.", remedy="Name a file that has some.")


def claims_of(said: Mapping[str, Any], defaults: Claims | None = None) -> Claims:
    """What an object of metadata claims; what it does not say is taken from the defaults.

    `fields` are taken one by one. A membership goes with its attestation, so whoever names another attestation does not
    get the default's membership.
    """
    said, defaults = without_nulls(said), defaults or Claims()
    unknown = [name for name in said if name not in (*_OUTSIDE, *_INSIDE)]
    if unknown:
        raise _Wrong(f"{unknown[0]!a} is nothing that a row can say.", remedy=f"It says {', '.join(_known())}.")
    if "fields" in said:
        said = {**said, "fields": {**dict(defaults.fields), **_object_of(said["fields"])}}
    example = _example(strict_json.spell({k: v for k, v in said.items() if not _is_id(k, v)}))
    own = {name for name in said if name != "attestation"}
    identified = _is_id("attestation", said.get("attestation"))
    named = Digest(bytes.fromhex(said["attestation"])) if identified else example.envelope
    return Claims(
        attestation=named if "attestation" in said else defaults.attestation,
        membership=example.membership if "attestation" in said or "membership" in own else defaults.membership,
        slope=example.slope if "slope" in own else defaults.slope,
        scope=example.scope if "scope" in own else defaults.scope,
        provenance=example.provenance if "provenance" in own else defaults.provenance,
        skills=example.skills if "skills" in own else defaults.skills,
        fields=example.fields if "fields" in own else defaults.fields,
        entropy_band=example.entropy_band if "entropyBand" in own else defaults.entropy_band,
        bits_per_byte=example.bits_per_byte if "bitsPerByte" in own else defaults.bits_per_byte,
    )


def _silent(_done: int, _total: int) -> None:
    pass


def _row(path: Path, found: FileRow, shape: RowShape, defaults: Claims) -> Row:
    own = {name: found.values[name] for name in shape.columns}
    claims = defaults
    if shape.metadata in found.values:
        try:
            claims = claims_of(_metadata(found.values[shape.metadata]), defaults)
        except (LicetError, RecursionError) as error:
            why = error.message if isinstance(error, LicetError) else "it is nested too deeply"
            remedy = error.remedy if isinstance(error, LicetError) else ""
            raise _Wrong(f"its {shape.metadata!a} cannot be taken: {why}", remedy=remedy) from error
    parts = _parts(shape, own)  # before the bytes: what has another shape is told by its shape
    return Row(f"{path.absolute().name} {row_name(path, found.number).lower()}", attested_bytes(own), parts, claims)


# -- what is trained on


def _parts(shape: RowShape, values: Mapping[str, Any]) -> Parts:
    if shape.kind == "text":
        return Text(_text(values[shape.text], repr(shape.text)))
    if shape.kind == "chat":
        return Chat(_messages(values[shape.messages], repr(shape.messages)))
    prompt = values[shape.prompt]
    return Pair(
        prompt if isinstance(prompt, str) else _messages(prompt, repr(shape.prompt)),
        _answer(values[shape.chosen], repr(shape.chosen)),
        _answer(values[shape.rejected], repr(shape.rejected)),
    )


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise _Wrong(f"its {where} is no text")
    return value


def _messages(value: Any, where: str) -> tuple[Message, ...]:
    if not isinstance(value, list):
        raise _Wrong(f"its {where} is no list of messages")
    if not 0 < len(value) <= MESSAGES_MAX:
        raise _Wrong(f"its {where} has {len(value)} messages, and may have 1 to {MESSAGES_MAX}")
    return tuple(_message(one, f"message {i} of its {where}") for i, one in enumerate(value, start=1))


def _message(value: Any, where: str) -> Message:
    said = {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else {}
    if not isinstance(said.get("role"), str) or not isinstance(said.get("content"), str):
        raise _Wrong(f"{where} is not an object with the texts role and content")
    if len(said) > 2:
        odd = min(said.keys() - {"role", "content"})
        raise _Wrong(f"{where} has {odd!a}, which would not be trained on", remedy="Leave it out, or write it as text.")
    role = said["role"]
    if not 0 < len(role) <= ROLE_CHARS_MAX or not strict_json.is_plain(role):
        raise _Wrong(f"{where} has no usable role")
    return Message(role, said["content"])


def _answer(value: Any, where: str) -> str:
    """An answer is a text, or a list of one message of the assistant's."""
    if isinstance(value, str):
        return value
    messages = _messages(value, where)
    if len(messages) != 1 or messages[0].role != "assistant":
        raise _Wrong(f"its {where} is not one answer: a text, or one message of the assistant")
    return messages[0].content


# -- what a row says of itself


def _metadata(value: Any) -> Mapping[str, Any]:
    if isinstance(value, str):
        value = strict_json.parse(value.encode(), bytes_max=wire.EXAMPLE_BYTES_MAX, what="it")
    if not isinstance(value, dict):
        raise _Wrong("it is no object")
    return value


def _known() -> Sequence[str]:
    return (*_OUTSIDE, *_INSIDE)


def _is_id(name: str, value: Any) -> bool:
    return name == "attestation" and isinstance(value, str) and _ID.fullmatch(value) is not None


def _object_of(value: Any) -> dict[str, Any]:
    """An object, also if a table has it as a list of pairs."""
    if isinstance(value, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        if len({str(key) for key, _ in value}) < len(value):
            raise _Wrong("a key of its fields comes twice")
        value = {str(key): part for key, part in value if part is not None}
    if not isinstance(value, dict):
        raise _Wrong("its fields are no object")
    return value


@lru_cache(maxsize=1024)
def _example(spelled: bytes) -> Example:
    """What metadata says, read by the one reader of examples: as an example of no content, put to no gate."""
    said = strict_json.parse(spelled, bytes_max=wire.EXAMPLE_BYTES_MAX, what="it")
    whole = {
        "licet": wire.FORMAT,
        "content": {"sha256": "0" * 64, "bytes": 0},
        "standing": _NOWHERE,
        **{name: said[name] for name in _OUTSIDE if name in said},
        "metadata": {name: said[name] for name in _INSIDE if name in said},
    }
    try:
        return wire.parse(strict_json.spell(whole))
    except LicetError as error:
        raise _Wrong(error.message.partition(": ")[2] or error.message, remedy=error.remedy) from error
