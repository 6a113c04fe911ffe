"""How well a model does on texts that it is never taught: bits per byte, measured at each checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from torch import nn

from licet.ledger.errors import ConfigError, NotFoundError
from licet.ledger.files import read_whole
from licet.policies.cli.file_rows import has_rows
from licet.train.data.entropy import Reading, under_model
from licet.train.data.row_files import RowShape, read_rows
from licet.train.data.rows import Claims
from licet.train.run.file import Run

TEXT_BYTES_MAX = 16 << 20


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Some texts, read once."""

    texts: tuple[str, ...]
    context: int

    @classmethod
    def of(cls, run: Run) -> HeldOut | None:
        part = run.file.held_out
        if part is None:
            return None
        return cls(texts_in(run.path(part.path), part.column, part.texts_max), run.file.objective.context)

    def measure(self, model: nn.Module, tokenizer: Any) -> float:
        """Bits per byte over all texts together."""
        reading = Reading(self.context, max(self.context // 2, 1))
        measured = under_model(model, tokenizer, self.texts, reading)
        return sum(one.bits for one in measured) / sum(one.bytes for one in measured)


def texts_in(path: Path, column: str, texts_max: int) -> tuple[str, ...]:
    """The texts of a folder of .txt files, of such a file, or of rows. At least one, or it is an error."""
    is_folder = path.is_dir() and not has_rows(path)
    found = _text_files(path) if is_folder else _rows(path, column)
    texts = tuple(islice((text for text in found if text), texts_max))
    if not texts:
        raise NotFoundError(f"There is no held-out text in {path}.", remedy="Name a file that has some.")
    return texts


def _text_files(folder: Path) -> Iterator[str]:
    for path in sorted(folder.rglob("*.txt")):
        yield _decoded(path)


def _rows(path: Path, column: str) -> Iterator[str]:
    if path.suffix == ".txt":
        yield _decoded(path)
        return
    for row in read_rows(path, RowShape(text=column), Claims()):
        yield row.words


def _decoded(path: Path) -> str:
    try:
        return read_whole(path, bytes_max=TEXT_BYTES_MAX).decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is no text in UTF-8.", remedy="Convert it, or leave it out.") from error
