"""Samples on disk, memory-mapped: a corpus larger than memory is tokenized once and read again in any order.

A store is a folder of four arrays that appears whole or not at all:

    tokens     int32   all ids, one sequence after the other
    scored     uint8   1 where predicting that token counts to the loss
    sequences  int64   where each sequence begins, and the end
    samples    int64   the first sequence of each sample, and the end
    store.json         how much there is of each
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from licet.ledger.errors import ClosedError, ConfigError, FormatError, StorageError
from licet.ledger.files import read_whole, sync_folder
from licet.policies import strict_json

__all__ = ["Sample", "TokenSequence", "TokenStore", "TokenWriter"]

FORMAT = "token-store/1"
TOKENS_MAX = 1 << 50
_HEAD = "store.json"
_HEAD_BYTES_MAX = 4096
_BUFFER_BYTES = 1 << 20
_REMEDY = "Tokenize the corpus anew."
_Kind = TypeVar("_Kind", bound=np.generic)


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """Tokens in a row. `scored[t]`: whether predicting token t counts; nothing comes before the first to predict it."""

    ids: NDArray[np.int32]
    scored: NDArray[np.bool_]

    def __post_init__(self) -> None:
        if self.ids.dtype != np.int32 or self.scored.dtype != np.bool_:
            raise FormatError("Tokens are int32, and whether they are scored is a bool.")
        if self.ids.ndim != 1 or self.ids.shape != self.scored.shape or not self.ids.size:
            raise FormatError("A sequence has one token at least, and says of each whether it is scored.")
        if self.scored[0]:
            raise FormatError("The first token of a sequence cannot be scored: nothing comes before it.")

    @classmethod
    def of(cls, ids: Sequence[int], scored: Sequence[bool]) -> Self:
        return cls(np.asarray(ids, np.int32), np.asarray(scored, np.bool_))

    def __len__(self) -> int:
        return len(self.ids)


Sample = tuple[TokenSequence, ...]
"""What goes into one slot of a batch: a sequence for each row that its objective needs. Empty: it teaches nothing."""


class TokenWriter:
    """Writes a store aside; `close` puts it in its place. Left by an error, it leaves nothing."""

    def __init__(self, folder: Path) -> None:
        if folder.exists():
            raise ConfigError(f"{folder} is there already.", remedy="Name a new folder, or remove this one.")
        self._folder = folder
        self._aside = folder.with_name(f".{folder.name}.creating")
        self._counts = {"tokens": 0, "sequences": 0, "samples": 0}
        self._closing = ExitStack()
        self._closed = False
        try:
            shutil.rmtree(self._aside, ignore_errors=True)  # of a run that was killed
            self._aside.mkdir(parents=True)
            self._files: dict[str, BinaryIO] = {
                name: self._closing.enter_context((self._aside / name).open("wb", buffering=_BUFFER_BYTES))
                for name in ("tokens", "scored", "sequences", "samples")
            }
        except OSError as error:
            self.discard()
            raise self._full(error) from error

    def add(self, sample: Sample) -> int:
        """Put a sample behind the others; its number."""
        if self._closed:
            raise ClosedError("This store was closed.", remedy="Make a new one.")
        try:
            _write_whole(self._files["samples"], self._counts["sequences"])
            for sequence in sample:
                _write_whole(self._files["sequences"], self._counts["tokens"])
                self._files["tokens"].write(sequence.ids.astype("<i4").tobytes())
                self._files["scored"].write(sequence.scored.astype(np.uint8).tobytes())
                self._counts["tokens"] += len(sequence)
                self._counts["sequences"] += 1
        except OSError as error:
            self.discard()
            raise self._full(error) from error
        self._counts["samples"] += 1
        return self._counts["samples"] - 1

    def close(self) -> None:
        """Make the store appear, and survive."""
        if self._closed:
            return
        try:
            _write_whole(self._files["sequences"], self._counts["tokens"])
            _write_whole(self._files["samples"], self._counts["sequences"])
            for file in self._files.values():
                file.flush()
                os.fsync(file.fileno())
            self._closing.close()
            with (self._aside / _HEAD).open("wb") as head:
                head.write(strict_json.spell({"format": FORMAT, **self._counts}) + b"\n")
                head.flush()
                os.fsync(head.fileno())
            self._aside.rename(self._folder)
            sync_folder(self._folder.parent)
        except OSError as error:
            self.discard()
            raise self._full(error) from error
        self._closed = True

    def discard(self) -> None:
        """Forget everything that was added."""
        if self._closed:
            return
        self._closed = True
        try:
            self._closing.close()
        except OSError:  # what was buffered does not fit on the disk any more; it is not wanted either
            self._closing.close()
        shutil.rmtree(self._aside, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

    def _full(self, error: OSError) -> StorageError:
        return StorageError(
            f"{self._folder} could not be written: {error.strerror or error}.",
            remedy="Look at free space and permissions; nothing of it was kept.",
        )


class TokenStore:
    """A store that is there, to be read in any order. What it hands out are views of the files."""

    def __init__(self, folder: Path) -> None:
        counts = _head(folder)
        tokens, sequences, samples = (counts[name] for name in ("tokens", "sequences", "samples"))
        self._ids = _mapped(folder / "tokens", np.dtype("<i4"), tokens)
        self._scored = _mapped(folder / "scored", np.dtype(np.uint8), tokens)
        self._sequences = _mapped(folder / "sequences", np.dtype("<i8"), sequences + 1)
        self._samples = _mapped(folder / "samples", np.dtype("<i8"), samples + 1)
        _check_starts(folder / "sequences", self._sequences, tokens, least=1)
        _check_starts(folder / "samples", self._samples, sequences, least=0)

    @staticmethod
    def create(folder: Path) -> TokenWriter:
        """A new store, to be filled."""
        return TokenWriter(folder)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """A store that was closed."""
        return cls(folder)

    def __len__(self) -> int:
        return len(self._samples) - 1

    def sample(self, index: int) -> Sample:
        """One sample."""
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        first, last = int(self._samples[index]), int(self._samples[index + 1])
        bounds = self._sequences[first : last + 1].tolist()
        return tuple(TokenSequence(self._ids[a:b], self._scored[a:b] != 0) for a, b in pairwise(bounds))

    @property
    def lengths(self) -> NDArray[np.int64]:
        """The longest sequence of each sample, 0 of an empty one: how wide a batch must be to hold it."""
        longest = np.zeros(len(self), np.int64)
        own = np.repeat(np.arange(len(self)), np.diff(self._samples))
        np.maximum.at(longest, own, np.diff(self._sequences))
        return longest

    @property
    def tokens(self) -> int:
        return len(self._ids)


def _write_whole(file: BinaryIO, number: int) -> None:
    file.write(number.to_bytes(8, "little"))


def _head(folder: Path) -> dict[str, int]:
    """How much there is, as the store's own head says."""
    where = str(folder / _HEAD)
    raw = read_whole(folder / _HEAD, bytes_max=_HEAD_BYTES_MAX)
    fields = strict_json.Fields(strict_json.parse(raw, bytes_max=_HEAD_BYTES_MAX, what=where), where)
    said = fields.required_text("format")
    if said != FORMAT:
        raise FormatError(f"{folder} is no token store that this release reads: {said!a}.", remedy=_REMEDY)
    counts = {name: fields.required_whole(name, low=0, high=TOKENS_MAX) for name in ("tokens", "sequences", "samples")}
    fields.end()
    return counts


def _mapped(file: Path, kind: np.dtype[_Kind], count: int) -> NDArray[_Kind]:
    """A file of so many numbers. Nothing can be mapped of an empty one."""
    try:
        size = file.stat().st_size
        if size != count * kind.itemsize:
            raise FormatError(f"{file} has {size} bytes, and should have {count * kind.itemsize}.", remedy=_REMEDY)
        return np.asarray(np.memmap(file, kind, "r", shape=(count,))) if count else np.empty(0, kind)
    except OSError as error:
        raise StorageError(f"{file} cannot be read: {error.strerror or error}.", remedy=_REMEDY) from error


def _check_starts(file: Path, starts: NDArray[np.int64], end: int, *, least: int) -> None:
    """Raise unless the parts follow one another, each with so much in it at least, up to the end."""
    if starts[0] != 0 or starts[-1] != end or bool((np.diff(starts) < least).any()):
        raise FormatError(f"{file} does not say where its parts lie.", remedy=_REMEDY)
