"""How much information a text holds: bits per byte, under a causal language model or, before there is one, deflate.

Under a model: every token of the text is paid for exactly once. A text longer than the model's window is read in
overlapping windows, and each window is charged only for the tokens that no earlier one was charged for. The first
token is predicted from the tokenizer's begin-of-text token; a tokenizer without one pays log2(vocabulary) for it.
Divided is by the UTF-8 bytes of the text as it stands, so tokenizers can be compared. What a tokenizer drops (spaces,
accents) costs nothing here: measure with one that loses nothing.

Under compression: raw deflate at level 9, less the 10 bits that an empty stream takes, and never more than the text
itself. It knows no language, so short texts come out high: for English prose of 200
bytes 5.4 bits per byte, of 32 kB 3.1.

The same model, texts and batch size give the same bits. Another batch size changes only the rounding of the model's own
arithmetic, in the sixth digit for float32.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from licet.ledger.errors import ConfigError, FormatError
from licet.policies.example import BITS_PER_BYTE_MAX
from licet.policies.policy import Policy
from licet.policies.schema import EntropyBand

_EMPTY_STREAM_BITS = 10
"""Three bits for the last block's head, seven for its end."""
_TOKENIZE_AT_ONCE = 256


class EntropyError(ConfigError):
    """A text, model or setting with which nothing can be measured."""


@dataclass(frozen=True, slots=True)
class Measured:
    """The information in one text. An empty text has none."""

    bits: float
    bytes: int

    @property
    def bits_per_byte(self) -> float:
        """Never negative, never more than an example may state."""
        return min(self.bits / self.bytes, BITS_PER_BYTE_MAX) if self.bytes else 0.0


@dataclass(frozen=True, slots=True)
class Reading:
    """How a model reads texts: windows of `window` tokens, each moved on by `stride`, `batch_tokens_max` at once."""

    window: int = 1024
    stride: int = 512
    batch_tokens_max: int = 8192

    def __post_init__(self) -> None:
        if self.window < 2 or not 1 <= self.stride < self.window or self.batch_tokens_max < 1:
            raise EntropyError(
                f"A window of {self.window} tokens cannot be moved on by {self.stride}.",
                remedy="A window has two tokens at least, and the stride is from 1 to one less than the window.",
            )


@dataclass(frozen=True, slots=True)
class _Window:
    """Tokens [start, end) of one text; those from `scored` on are charged to it."""

    text: int
    start: int
    scored: int
    end: int

    def __len__(self) -> int:
        return self.end - self.start


def under_model(
    model: nn.Module, tokenizer: Any, texts: Sequence[str], reading: Reading | None = None
) -> tuple[Measured, ...]:
    """The information in each text under a causal language model and its tokenizer, in the order of the texts."""
    reading = _fitted(model, reading or Reading())
    sizes = [_size(text, i) for i, text in enumerate(texts)]
    tokens = _tokenized(tokenizer, texts)
    opening = _opening(tokenizer)
    if opening is not None:
        tokens = [[opening, *ids] if ids else [] for ids in tokens]
    windows = [w for i, ids in enumerate(tokens) for w in _windows(i, len(ids), reading)]
    parts: list[list[float]] = [[] for _ in texts]
    if opening is None:
        parts = [[math.log2(_vocabulary(model))] if ids else [] for ids in tokens]
    with _evaluating(model):
        for batch in _batches(windows, reading.batch_tokens_max):
            for window, bits in zip(batch, _bits(model, tokens, batch), strict=True):
                parts[window.text].append(_checked(bits, window.text))
    return tuple(Measured(math.fsum(part), size) for part, size in zip(parts, sizes, strict=True))


def under_compression(text: str) -> Measured:
    """The information in a text under raw deflate: what can be said before there is a model."""
    raw = _encoded(text, 0)
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS, 9)
    compressed = deflate.compress(raw) + deflate.flush()
    return Measured(float(min(max(8 * len(compressed) - _EMPTY_STREAM_BITS, 0), 8 * len(raw))), len(raw))


def entropy_band(policy: Policy, bits_per_byte: float) -> EntropyBand:
    """The policy's entropy band for a measurement."""
    if not 0 <= bits_per_byte < math.inf:
        raise EntropyError(f"{bits_per_byte} is no number of bits per byte.", remedy="Measure the text again.")
    return policy.entropy_band(bits_per_byte)


def _fitted(model: nn.Module, reading: Reading) -> Reading:
    """The reading, within the positions that the model knows."""
    positions = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    if not isinstance(positions, int) or positions >= reading.window:
        return reading
    return Reading(positions, min(reading.stride, max(positions // 2, 1)), reading.batch_tokens_max)


def _tokenized(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    found: list[list[int]] = []
    for start in range(0, len(texts), _TOKENIZE_AT_ONCE):
        part = list(texts[start : start + _TOKENIZE_AT_ONCE])
        found += tokenizer(part, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
    return found


def _opening(tokenizer: Any) -> int | None:
    """The token that stands before a text: begin-of-text, else what separates texts."""
    for name in ("bos_token_id", "eos_token_id"):
        token = getattr(tokenizer, name, None)
        if token is not None:
            return int(token)
    return None


def _vocabulary(model: nn.Module) -> int:
    size = getattr(getattr(model, "config", None), "vocab_size", None)
    if not isinstance(size, int) or size < 1:
        raise EntropyError(
            "The tokenizer has no begin-of-text token, and the model does not say how many tokens there are.",
            remedy="Give the tokenizer a bos_token, or the model a config with vocab_size.",
        )
    return size


def _windows(text: int, length: int, reading: Reading) -> Iterator[_Window]:
    """Windows in which each token but the first is charged for once."""
    scored, end = 1, min(reading.window, length)
    while scored < end:
        yield _Window(text, max(end - reading.window, 0), scored, end)
        scored, end = end, min(end + reading.stride, length)


def _batches(windows: Sequence[_Window], tokens_max: int) -> Iterator[list[_Window]]:
    """Windows of about the same length together, so that little is padded."""
    batch: list[_Window] = []
    for window in sorted(windows, key=len, reverse=True):
        if batch and len(batch[0]) * (len(batch) + 1) > tokens_max:
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch


def _bits(model: nn.Module, tokens: Sequence[Sequence[int]], batch: Sequence[_Window]) -> list[float]:
    """What each window of a batch is charged."""
    device = next(model.parameters()).device
    ids_BT = torch.zeros(len(batch), len(batch[0]), dtype=torch.long)
    mask_BT = torch.zeros_like(ids_BT)
    for row, window in enumerate(batch):
        ids_BT[row, : len(window)] = torch.tensor(tokens[window.text][window.start : window.end])
        mask_BT[row, : len(window)] = 1
    ids_BT = ids_BT.to(device)
    logits_BTV = model(input_ids=ids_BT, attention_mask=mask_BT.to(device), use_cache=False).logits
    return [_charge(logits_BTV[row], ids_BT[row], window) for row, window in enumerate(batch)]


def _charge(logits_TV: Tensor, ids_T: Tensor, window: _Window) -> float:
    first, last = window.scored - window.start, len(window)
    nats_T = cross_entropy(logits_TV[first - 1 : last - 1].float(), ids_T[first:last], reduction="none")
    return float(nats_T.sum(dtype=torch.float64)) / math.log(2)


def _checked(bits: float, text: int) -> float:
    if not math.isfinite(bits):
        raise EntropyError(
            f"The model gives text {text} no finite probability.",
            remedy="Its weights are damaged or overflow: load them again, or measure in float32.",
        )
    return max(bits, 0.0)


def _size(text: str, number: int) -> int:
    return len(_encoded(text, number))


def _encoded(text: str, number: int) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise FormatError(
            f"Text {number} holds half a character and is no Unicode.", remedy="Mend its source."
        ) from error


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Without dropout and without gradients; each module's own mode comes back after."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, training in modes:
            module.training = training
