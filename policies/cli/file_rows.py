"""The rows of a file as attestations are about them: JSON lines, Parquet, or a dataset saved to a folder.

Whoever attests and whoever trains read rows here, and so come to the same digests. One row at a time is in memory, or
some hundred of a table. A row that cannot be read stops the reading, with its number.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from licet.ledger.errors import ConfigError, FormatError, LicetError, LimitError, MissingFileError, StorageError
from licet.ledger.files import read_whole
from licet.policies import strict_json
from licet.policies.manifest import check_name

ROW_BYTES_MAX = 64 << 20
_ROWS_AT_ONCE = 256
_STATE_BYTES_MAX = 16 << 20
JSON_LINES = (".jsonl", ".ndjson")
PARQUET = ".parquet"
_STATE, _INFO, _SPLITS = "state.json", "dataset_info.json", "dataset_dict.json"
_END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"

Report = Callable[[int, int], None]
"""How far the reading is: done, and of how much."""


@dataclass(frozen=True, slots=True)
class FileRow:
    """A row of a file: its number, as manifests and messages have it, and its values of the columns asked for."""

    number: int
    values: Mapping[str, Any]


def has_rows(path: Path) -> bool:
    """Whether a path is read row by row: a file of JSON lines or Parquet, or a folder with a saved dataset."""
    kind = _kind_of(path)
    if stat.S_ISDIR(kind):
        return _is_dataset(path)
    if not stat.S_ISREG(kind):  # a pipe would keep us waiting for ever
        raise StorageError(f"{path} is no regular file.", remedy="Name a file or a folder.")
    return path.suffix.lower() in (*JSON_LINES, PARQUET)


def read_columns(path: Path, columns: Sequence[str], optional: Sequence[str], report: Report) -> Iterator[FileRow]:
    """The rows of a path that `has_rows`, each with its values of `columns`, and of `optional` what it has of them.

    The former are texts, lists or objects; of the latter, what is null counts as not there.
    """
    if len(set(columns)) < len(columns) or not columns:
        raise ConfigError("Columns are named once each.", remedy="Name each column one time.")
    if path.is_dir():
        return _dataset(path, columns, optional, report)
    if path.suffix.lower() == PARQUET:
        return _parquet(path, columns, optional, report)
    return _json_lines(path, columns, optional, report)


def attested_bytes(values: Mapping[str, Any]) -> bytes:
    """What an attestation of a row is about: its text in UTF-8; the one JSON spelling of what is no text; for several
    columns, that of the object that they make.

    Fields that are null are left out, because a table has them in every row, and JSON lines where they are needed.
    """
    try:
        value: Any = next(iter(values.values())) if len(values) == 1 else values
        raw = value.encode() if isinstance(value, str) else strict_json.spell(without_nulls(value))
    except UnicodeEncodeError as error:
        raise FormatError("its text is not Unicode: it holds half of a surrogate pair") from error
    except RecursionError as error:
        raise FormatError("it is nested too deeply") from error
    if len(raw) > ROW_BYTES_MAX:
        raise LimitError(f"it has more than {ROW_BYTES_MAX >> 20} MiB")
    return raw


def without_nulls(value: Any) -> Any:
    """The same JSON, less the fields of objects that are null."""
    if isinstance(value, Mapping):
        return {key: without_nulls(part) for key, part in value.items() if part is not None}
    if isinstance(value, list | tuple):
        return [without_nulls(part) for part in value]
    return value


def bad_row(path: Path, number: int, why: str, *, remedy: str = "Mend it, or take it out.") -> FormatError:
    """A row that stops the reading."""
    return FormatError(f"{row_name(path, number)} of {path} cannot be read: {why.rstrip('.')}.", remedy=remedy)


def row_name(path: Path, number: int) -> str:
    """What a row is called where people look for it: lines are counted with the empty ones."""
    return f"{'Line' if path.suffix.lower() in JSON_LINES else 'Row'} {number}"


def unreadable(path: Path, error: Exception) -> StorageError:
    if isinstance(error, FileNotFoundError):
        return MissingFileError(f"There is no {path}.", remedy="Check the path.")
    why = error.strerror if isinstance(error, OSError) else error
    return StorageError(f"{path} cannot be read: {why}.", remedy="Look at its permissions.")


def _kind_of(path: Path) -> int:
    try:
        return path.stat().st_mode
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error


# -- JSON lines and Parquet


def _json_lines(path: Path, columns: Sequence[str], optional: Sequence[str], report: Report) -> Iterator[FileRow]:
    done = 0
    try:
        with path.open("rb") as file:
            total = os.fstat(file.fileno()).st_size
            number = 0
            while line := file.readline(ROW_BYTES_MAX + 1):
                number += 1
                if len(line) > ROW_BYTES_MAX:
                    raise bad_row(path, number, f"it has more than {ROW_BYTES_MAX >> 20} MiB")
                if line.strip():
                    yield FileRow(number, _values_of(path, number, line, columns, optional))
                done += len(line)
                if number % _ROWS_AT_ONCE == 0 or done == total:
                    report(done, total)
    except OSError as error:
        raise unreadable(path, error) from error


def _values_of(
    path: Path, number: int, line: bytes, columns: Sequence[str], optional: Sequence[str]
) -> Mapping[str, Any]:
    try:
        row: Any = strict_json.parse(line, bytes_max=ROW_BYTES_MAX, what="it")
    except LicetError as error:
        raise bad_row(path, number, error.message) from error
    if not isinstance(row, dict):
        raise bad_row(path, number, "it is no object")
    for name in columns:
        if not isinstance(row.get(name), str | list | dict):
            raise bad_row(path, number, f"it has no text, list or object {name!a}")
    return {name: row[name] for name in (*columns, *optional) if row.get(name) is not None}


def _parquet(path: Path, columns: Sequence[str], optional: Sequence[str], report: Report) -> Iterator[FileRow]:
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    try:
        with pq.ParquetFile(path) as file:
            wanted = _wanted(path, file.schema_arrow, columns, optional)
            total, number = file.metadata.num_rows, 0
            for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=wanted):
                yield from _cells(path, number, batch, wanted, columns)
                number += batch.num_rows
                report(number, total)
    except (pa.ArrowException, OSError, UnicodeError) as error:
        raise FormatError(
            f"{path} cannot be read as Parquet: {str(error)[:300]}.", remedy="Write it anew: it may have been cut off."
        ) from error


def _wanted(path: Path, schema: Any, columns: Sequence[str], optional: Sequence[str]) -> list[str]:
    """The columns to read of a table, which has all that are not optional, each once and of a type that will do."""
    for name in (*columns, *optional):
        if len(schema.get_all_field_indices(name)) > 1:
            raise ConfigError(f"{path} has several columns {name!a}.", remedy="Rename all but one.")
    for name in columns:
        if name not in schema.names:
            raise ConfigError(
                f"{path} has no column {name!a}.",
                remedy=f"Name another; it has {', '.join(map(ascii, schema.names[:20])) or 'none'}.",
            )
        if not _attestable(schema.field(name).type):
            raise ConfigError(
                f"The column {name!a} of {path} holds {schema.field(name).type}, and not text, lists or objects.",
                remedy="Name another column.",
            )
    return [*columns, *(name for name in optional if name in schema.names)]


def _attestable(kind: Any) -> bool:
    from pyarrow import types  # noqa: PLC0415

    kind = kind.value_type if types.is_dictionary(kind) else kind
    tests = (types.is_string, types.is_large_string, types.is_list, types.is_large_list, types.is_struct)
    return any(test(kind) for test in tests)


def _cells(path: Path, before: int, batch: Any, wanted: Sequence[str], needed: Sequence[str]) -> Iterator[FileRow]:
    """The rows of a part of a table, which stands behind `before` others."""
    found = [(name, batch.column(batch.schema.get_field_index(name)), name in needed) for name in wanted]
    for i in range(batch.num_rows):
        number, values = before + i + 1, {}
        for name, column, is_needed in found:
            try:
                value = column[i].as_py()
            except (UnicodeDecodeError, ValueError, TypeError) as error:
                raise bad_row(path, number, f"its {name!a} cannot be decoded: {str(error)[:200]}") from error
            if value is not None:
                values[name] = value
            elif is_needed:
                raise bad_row(path, number, f"its {name!a} is null")
        yield FileRow(number, values)


# -- a dataset, as the library of that name saves it: Arrow streams, and a file that names them


def _is_dataset(folder: Path) -> bool:
    if (folder / _SPLITS).is_file():
        raise ConfigError(
            f"{folder} holds several splits of a dataset.", remedy=f"Name the folder of one of them: {folder}/NAME."
        )
    return (folder / _STATE).is_file() and (folder / _INFO).is_file()


def _dataset_files(folder: Path) -> list[Path]:
    """The streams of a dataset, in the order of its rows."""
    where = folder / _STATE
    state: Any = strict_json.parse(
        read_whole(where, bytes_max=_STATE_BYTES_MAX), bytes_max=_STATE_BYTES_MAX, what=str(where)
    )
    files = state.get("_data_files") if isinstance(state, dict) else None
    names = [one.get("filename") if isinstance(one, dict) else None for one in files] if isinstance(files, list) else []
    for name in names:
        if not isinstance(name, str) or "/" in check_name(name):
            raise FormatError(f"{where} names a file outside of its folder.", remedy="Save the dataset anew.")
    if not names or state.get("_indices_data_files"):
        raise FormatError(
            f"{where} names no data, or rows in another order than they lie.",
            remedy="Save the dataset anew, with save_to_disk of a current release.",
        )
    return [folder / str(name) for name in names]


def _dataset(folder: Path, columns: Sequence[str], optional: Sequence[str], report: Report) -> Iterator[FileRow]:
    import pyarrow as pa  # noqa: PLC0415

    files = _dataset_files(folder)
    total, done, number = sum(_whole_size(file) for file in files), 0, 0
    for file in files:
        try:
            with pa.memory_map(str(file)) as mapped, pa.ipc.open_stream(mapped) as stream:
                wanted = _wanted(file, stream.schema, columns, optional)
                for batch in stream:
                    part = batch.select(wanted)
                    part.validate(full=True)  # what lies in a mapped file is not looked at before
                    yield from _cells(folder, number, part, wanted, columns)
                    number += part.num_rows
                    report(done + mapped.tell(), total)
                done += mapped.size()
        except (pa.ArrowException, OSError, UnicodeError) as error:
            raise FormatError(
                f"{file} cannot be read as Arrow: {str(error)[:300]}.", remedy="Save it anew: it may have been cut off."
            ) from error


def _whole_size(file: Path) -> int:
    """The size of a stream that is whole: one that was cut off between two batches would read without a word."""
    try:
        with file.open("rb") as opened:
            size = opened.seek(0, os.SEEK_END)
            opened.seek(max(size - len(_END_OF_STREAM), 0))
            if opened.read() == _END_OF_STREAM:
                return size
    except OSError as error:
        raise unreadable(file, error) from error
    raise FormatError(f"{file} has no end.", remedy="Save it anew: it was cut off.")


def beside(folder: Path) -> list[str]:
    """What lies in the folder of a dataset and is no part of it."""
    own = {_STATE, _INFO, *(file.name for file in _dataset_files(folder))}
    return [ascii(name)[1:-1] for name in sorted(os.listdir(folder)) if name not in own]
