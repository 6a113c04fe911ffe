"""Corpora of studies: one source that is protected, others that are open, and text of each that nobody is taught.

A folder of text files, or the Python sources of the installed distributions. Every split is by position, so the same
texts give the same study. Nothing is downloaded.
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from licet.ledger.errors import ConfigError, LimitError, MissingFileError
from licet.policies.cli.distributions import installed_distributions

FILE_BYTES_MAX = 64 << 20
SOURCE_CHARS_MIN = 150_000
TEXT_CHARS_MAX = 400_000
OTHERS_MAX = 7
_SKIPPED = 0.02
"""Of the protected source's beginning: title pages and the like."""


class CorpusError(ConfigError):
    """Texts that no study can be made of."""


@dataclass(frozen=True, slots=True)
class Text:
    """One source's text, whole."""

    name: str
    content: str


@dataclass(frozen=True, slots=True)
class Corpus:
    """Token sequences. `protected` and `rest` are the source's text that may be taught.

    `neighbours` is text of it that nobody is taught and that training may look at; at `unseen` only measures look."""

    name: str
    source: str
    tokenizer: Tokenizer
    protected: list[int]
    rest: list[int]
    neighbours: list[int]
    unseen: list[int]
    others: list[int]
    others_unseen: list[int]


def read_folder(folder: Path) -> list[Text]:
    """The .txt files of a folder, by name."""
    if not folder.is_dir():
        raise MissingFileError(f"There is no folder {folder}.", remedy="Name a folder of .txt files, or `installed`.")
    return [Text(path.stem, _read(path)) for path in sorted(folder.glob("*.txt"))]


def read_installed(source: str | None = None) -> list[Text]:
    """The Python sources of installed distributions that are large enough: the named one, then the smallest."""
    found = []
    for one in installed_distributions():
        content = "".join(_sources(one.name))
        if len(content) >= SOURCE_CHARS_MIN * 3:
            found.append(Text(one.name, content))
    found.sort(key=lambda text: (source is None or source not in text.name, len(text.content), text.name))
    return found[: OTHERS_MAX + 1]


def choose(texts: Sequence[Text], source: str | None) -> tuple[Text, list[Text]]:
    """The protected source and the others: the named one, or else the first."""
    large = [text for text in texts if len(text.content) >= SOURCE_CHARS_MIN]
    if len(large) < 2:
        raise CorpusError(
            f"A study needs two texts of {SOURCE_CHARS_MIN:,} characters or more, and there are {len(large)}.",
            remedy="Add longer texts.",
        )
    chosen = next((text for text in large if source is None or source in text.name), None)
    if chosen is None:
        raise CorpusError(f"No text's name contains {source!r}.", remedy=f"One of: {', '.join(t.name for t in large)}.")
    return chosen, [text for text in large if text is not chosen][:OTHERS_MAX]


def build(name: str, texts: Sequence[Text], source: str | None, *, protected: int, vocabulary: int) -> Corpus:
    """Split, train the tokenizer on what is taught, and encode. `protected` is a number of tokens."""
    chosen, others = choose(texts, source)
    content = chosen.content[:TEXT_CHARS_MAX]
    first, neighbours, unseen = (int(len(content) * share) for share in (_SKIPPED, 0.6, 0.75))
    taught = content[first:neighbours]
    pairs = [_cut(text.content[:TEXT_CHARS_MAX]) for text in others]
    tokenizer = _train_tokenizer([taught, *(low for low, _ in pairs)], vocabulary)
    tokens = tokenizer.encode(taught).ids
    if len(tokens) < 2 * protected:
        raise CorpusError(
            f"{chosen.name} has {len(tokens)} tokens to teach, not {2 * protected}.", remedy="Use a longer one."
        )
    return Corpus(
        name,
        chosen.name,
        tokenizer,
        tokens[:protected],
        tokens[protected:],
        tokenizer.encode(content[neighbours:unseen]).ids,
        tokenizer.encode(content[unseen:]).ids,
        [token for low, _ in pairs for token in tokenizer.encode(low).ids],
        [token for _, high in pairs for token in tokenizer.encode(high).ids],
    )


def chunks(tokens: Sequence[int], length: int, count: int | None = None) -> list[list[int]]:
    """Whole pieces of this length; with a count, that many at most, evenly over the text."""
    starts = range(0, len(tokens) - length + 1, length)
    if count is not None and len(starts) > count:
        starts = [starts[i * len(starts) // count] for i in range(count)]  # type: ignore[assignment]
    return [list(tokens[start : start + length]) for start in starts]


def _cut(content: str) -> tuple[str, str]:
    edge = len(content) * 9 // 10
    return content[:edge], content[edge:]


def _train_tokenizer(texts: Sequence[str], vocabulary: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _read(path: Path) -> str:
    if path.stat().st_size > FILE_BYTES_MAX:
        raise LimitError(f"{path.name} is larger than {FILE_BYTES_MAX >> 20} MiB.", remedy="Split it.")
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(
            f"{path.name} cannot be read as UTF-8 text: {error}", remedy="Convert or remove it."
        ) from None


def _sources(distribution: str) -> Iterator[str]:
    """Each file without its leading comments: a licence header that every file repeats teaches nothing else."""
    size = 0
    for file in sorted(importlib.metadata.files(distribution) or (), key=str):
        if file.suffix != ".py" or size > TEXT_CHARS_MAX * 2:
            continue
        try:
            text = Path(str(file.locate())).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):  # a file that was recorded and is gone, or is no text
            continue
        size += len(text)
        yield re.sub(r"\A(?:[ \t]*#[^\n]*\n|[ \t]*\n)+", "", text) + "\n"
