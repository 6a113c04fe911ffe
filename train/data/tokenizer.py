"""The tokenizer of a run: one that lies in a folder, or one trained on the corpus. Nothing is fetched, no code is run.

A tokenizer trained here works on bytes, so it loses nothing of a text, and it comes out the same for the same texts. A
text in it begins with `<|begin|>`; so does each turn of a conversation, and `<|end|>` ends both.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from licet.ledger.errors import ConfigError, FormatError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

__all__ = ["TokenizerError", "closing", "load", "opening", "padding", "tokenize", "train"]

PAD, BEGIN, END = "<|pad|>", "<|begin|>", "<|end|>"
VOCABULARY_MIN = 256 + 3
VOCABULARY_MAX = 1_000_000
TOKEN_CHARS_MAX = 64
"""A text that repeats one letter a million times would otherwise make tokens as long as itself."""
PIECE_CHARS = 1 << 20
"""A tokenizer takes about a hundred bytes for each character: longer texts go through it in pieces."""
TRAINED_CHARS = 1 << 12
"""Training takes time with the square of the longest word: one of 300,000 letters would keep it busy for an hour."""
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ bos_token + message['role'] + '\\n' + message['content'] + eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}{{ bos_token + 'assistant\\n' }}{% endif %}"
)


class TokenizerError(ConfigError):
    """A tokenizer that cannot be loaded, trained or used."""


def load(path: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in a folder, as save_pretrained wrote it."""
    from transformers import AutoTokenizer  # noqa: PLC0415  slow to import, and reading rows does without

    remedy = "Name a folder that save_pretrained wrote: with tokenizer.json and tokenizer_config.json."
    if not path.is_dir():
        raise TokenizerError(f"{path} is no folder with a tokenizer.", remedy=remedy)
    try:
        found: Any = AutoTokenizer.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)
        found("a", add_special_tokens=False)
    except Exception as error:  # its readers raise KeyError, plain Exception, whatever there is
        logging.getLogger(__name__).debug("loading %s", path, exc_info=error)
        raise TokenizerError(f"{path} holds no tokenizer: {_first_line(error)}.", remedy=remedy) from error
    return found  # type: ignore[no-any-return]


def train(texts: Iterator[str], vocabulary: int, kind: Literal["bpe", "bytes"]) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer: `bpe` with as many as `vocabulary` tokens, or `bytes`, a token for each byte."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers  # noqa: PLC0415
    from transformers import PreTrainedTokenizerFast  # noqa: PLC0415

    if not VOCABULARY_MIN <= vocabulary <= VOCABULARY_MAX:
        raise TokenizerError(
            f"A vocabulary of {vocabulary} tokens cannot be made.",
            remedy=f"It has {VOCABULARY_MIN} (all bytes, and begin, end and pad) to {VOCABULARY_MAX}.",
        )
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary if kind == "bpe" else VOCABULARY_MIN,
        special_tokens=[PAD, BEGIN, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=TOKEN_CHARS_MAX,
        show_progress=False,
    )
    made.train_from_iterator(_checked(texts) if kind == "bpe" else iter(()), trainer)
    made.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", pair=f"{BEGIN} $A {BEGIN} $B", special_tokens=[(BEGIN, made.token_to_id(BEGIN))]
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=made,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PAD,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def tokenize(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The tokens of a text, and nothing else: what looks like a control token in it is only text."""
    ids: list[int] = []
    for piece in _pieces(text, PIECE_CHARS):
        try:
            found: Any = tokenizer(piece, add_special_tokens=False, split_special_tokens=True, verbose=False)
        except (TypeError, UnicodeError) as error:
            raise FormatError("A text holds half a character and is no Unicode.", remedy="Mend its source.") from error
        ids += found["input_ids"]
    return ids


def opening(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token that stands before a text: begin-of-text, else what separates texts."""
    return _token(tokenizer, "bos_token_id", "eos_token_id")


def closing(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that ends a text."""
    token = _token(tokenizer, "eos_token_id")
    if token is None:
        raise TokenizerError("The tokenizer has no end-of-text token.", remedy="Give it an eos_token.")
    return token


def padding(tokenizer: PreTrainedTokenizerBase) -> int:
    """A token to fill rows with. Nobody looks at it, so any will do."""
    token = _token(tokenizer, "pad_token_id", "eos_token_id")
    return 0 if token is None else token


def _token(tokenizer: PreTrainedTokenizerBase, *names: str) -> int | None:
    found = (getattr(tokenizer, name, None) for name in names)
    return next((int(token) for token in found if token is not None), None)


def _pieces(text: str, chars_max: int) -> Iterator[str]:
    """A text in pieces, cut behind a line end, else before a space, else anywhere."""
    start = 0
    while len(text) - start > chars_max:
        last = start + chars_max
        end = text.rfind("\n", start, last) + 1 or max(text.rfind(" ", start, last), start)
        end = end if end > start else last
        yield text[start:end]
        start = end
    yield text[start:]


def _checked(texts: Iterator[str]) -> Iterator[str]:
    """The texts, in pieces; there must be something in them."""
    empty = True
    for number, text in enumerate(texts):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise FormatError(
                f"Text {number} holds half a character and is no Unicode.", remedy="Mend its source."
            ) from error
        empty = empty and not text
        yield from _pieces(text, TRAINED_CHARS)
    if empty:
        raise TokenizerError(
            "There is no text to train a tokenizer on.", remedy="Name data that is admitted, or take kind 'bytes'."
        )


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]
