"""A small real training run, so that the ledger has something true to say.

A byte-level language model of six residual blocks, in NumPy. Gradients are computed for every example, norms are
exact, and each lesson's profile decides how much of its gradient reaches which block. Who may teach how deep was
decided before: nothing here knows a rule.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from licet.ledger.background import BackgroundWriter
from licet.ledger.content import ContentStore
from licet.ledger.events import Events
from licet.ledger.log import Ledger, now_ms
from licet.ledger.norms import LEVELS
from licet.ledger.records import (
    AttestationMentioned,
    Block,
    Determination,
    Digest,
    ExampleAdmitted,
    PolicyMentioned,
    ProfileDeclared,
    Ref,
    RunStarted,
    Signed,
    Stage,
    StepTaken,
    Technique,
)

LAYERS = 6
_WINDOW = 32
_CONTEXT = 4
_WIDTH = 16
_BYTES = 128
TEXT_BYTES_MIN = 8 * (_WINDOW + _CONTEXT)
"""Plain ASCII bytes that a text needs to be learned from; others are passed over."""
_LEARNING_RATE = 0.5

Floats = NDArray[np.float64]
Bytes = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Lesson:
    """One example as the gate answered on it: its text, and how much of its gradient may reach each block."""

    example: Digest
    source: str
    attestation: Digest
    text: bytes
    determination: Determination
    reasons: tuple[str, ...]
    levels: tuple[int, ...]
    rules: tuple[str, ...]
    entropy_band: str
    bits_per_byte: float
    provenance: Digest


class Model:
    """Predicts the next byte from the four before it. `gradients` gives one gradient per example and block."""

    def __init__(self, rng: np.random.Generator) -> None:
        wide = _CONTEXT * _WIDTH
        shapes = [(128, _WIDTH), *[(wide, wide)] * LAYERS, (wide, 128)]
        self.parameters: list[Floats] = [rng.normal(0, 0.6 / np.sqrt(shape[0]), shape) for shape in shapes]
        self.parameters[0] = rng.normal(0, 0.5, shapes[0])

    def gradients(self, windows: Bytes) -> tuple[float, list[Floats]]:
        """The mean loss of some windows [n, context + window], and for each block gradients [n, …]."""
        embedding, *layers, head = self.parameters
        n = len(windows)
        contexts = np.stack([windows[:, i : i + _WINDOW] for i in range(_CONTEXT)], axis=2)
        states = [embedding[contexts].reshape(n, _WINDOW, -1)]
        inner = []
        for layer in layers:
            inner.append(np.tanh(states[-1] @ layer))
            states.append(states[-1] + inner[-1])
        logits = states[-1] @ head
        logits -= logits.max(axis=2, keepdims=True)
        chances = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
        targets = windows[:, _CONTEXT:]
        picked = np.take_along_axis(chances, targets[:, :, None], axis=2)
        error = (chances - np.eye(128)[targets]) / _WINDOW
        reversed_gradients = [np.swapaxes(states[-1], 1, 2) @ error]
        flow = error @ head.T
        for layer, state, out in zip(layers[::-1], states[-2::-1], inner[::-1], strict=True):
            local = flow * (1 - out**2)
            reversed_gradients.append(np.swapaxes(state, 1, 2) @ local)
            flow = flow + local @ layer.T
        embedded = np.zeros((n, 128, _WIDTH))
        pieces = flow.reshape(n, _WINDOW, _CONTEXT, _WIDTH)
        np.add.at(embedded, (np.arange(n)[:, None, None], contexts), pieces)
        return float(-np.log(picked + 1e-12).mean()), [embedded, *reversed_gradients[::-1]]

    def update(self, weights: Floats, gradients: list[Floats]) -> list[float]:
        """Apply each example's gradient with its weight in each block; how far each block moved."""
        moved = []
        for b, gradient in enumerate(gradients):
            change = -_LEARNING_RATE * np.tensordot(weights[:, b], gradient, axes=1) / len(gradient)
            self.parameters[b] += change
            moved.append(float(np.sqrt((change**2).sum())))
        return moved


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one step of the run did."""

    step: int
    loss: float
    events: int


def parameters_of_blocks() -> tuple[int, int, int]:
    """How many parameters the embedding, each layer and the head have."""
    wide = _CONTEXT * _WIDTH
    return 128 * _WIDTH, wide * wide, wide * 128


def train(
    ledger: Ledger,
    content: ContentStore,
    lessons: Sequence[Lesson],
    blocks: tuple[Block, ...],
    policy: Digest,
    *,
    steps: int,
    checkpoint_s: float,
    batch: int = 16,
) -> Iterator[StepResult]:
    """Train, recording off this thread what every step did."""
    rng = np.random.default_rng(7)
    model = Model(rng)
    run, rows = _admit(ledger, content, lessons, blocks, policy)
    taught = [lesson for lesson in lessons if lesson.determination is not Determination.REJECTED]
    texts = [np.array([byte for byte in lesson.text if byte < _BYTES], np.int64) for lesson in taught]
    levels = np.array([lesson.levels for lesson in taught], np.float64)
    with BackgroundWriter(ledger, checkpoint_s=checkpoint_s) as writer:
        recorded = []
        for step in range(steps):
            chosen = rng.integers(len(taught), size=batch)
            loss, gradients = model.gradients(np.stack([_window(texts[i], rng) for i in chosen]))
            weights = levels[chosen] / LEVELS
            norms = np.stack([np.sqrt((g**2).sum(axis=(1, 2))) for g in gradients], axis=1)
            deltas = model.update(weights, gradients)
            events = Events.of(
                example=rows[chosen, 0],
                attestation=rows[chosen, 1],
                profile=rows[chosen, 2],
                step=step,
                slot=np.arange(batch),
                norms_raw=np.where(weights == 0, np.nan, norms),
            )
            taken = StepTaken(Ref(run), step, _LEARNING_RATE, loss, batch, tuple(deltas), now_ms())
            recorded.append(writer.submit([events, taken]))
            yield StepResult(step, loss, batch)
        for result in recorded:
            result.result()  # raises what went wrong with any of them


def _window(text: Bytes, rng: np.random.Generator) -> Bytes:
    start = rng.integers(len(text) - _WINDOW - _CONTEXT + 1)
    return text[start : start + _WINDOW + _CONTEXT]


def _admit(
    ledger: Ledger, content: ContentStore, lessons: Sequence[Lesson], blocks: tuple[Block, ...], policy: Digest
) -> tuple[int, Bytes]:
    """Record the run, its profiles and every admission, rejections too.

    Gives the run, and for each lesson that may teach its entry, its attestation's and its profile's.
    """
    mentioned = Ref(ledger.append(PolicyMentioned(policy)))
    started = RunStarted("demo", "demo-bytes", blocks, Technique.SCALE, Stage.ENFORCE, mentioned, None, None, now_ms())
    run = Ref(ledger.append(started))
    profiles: dict[tuple[tuple[int, ...], tuple[str, ...]], Ref] = {}
    attestations: dict[bytes, Ref] = {}
    rows = []
    for lesson in lessons:
        if lesson.attestation not in attestations:
            mention = AttestationMentioned(lesson.attestation, lesson.source)
            attestations[lesson.attestation] = Ref(ledger.append(mention))
        may_teach = lesson.determination is not Determination.REJECTED
        shape = (lesson.levels, lesson.rules)
        if may_teach and shape not in profiles:
            declared = ProfileDeclared(run, tuple(Signed(level) for level in lesson.levels), lesson.rules)
            profiles[shape] = Ref(ledger.append(declared))
        admitted = ExampleAdmitted(
            lesson.example,
            content.put(lesson.text),
            attestations[lesson.attestation],
            mentioned,
            profiles.get(shape) if may_teach else None,
            lesson.determination,
            lesson.reasons,
            lesson.entropy_band,
            lesson.bits_per_byte,
            0,
            ("pretraining",),
            lesson.provenance,
        )
        index = ledger.append(admitted)
        if may_teach:
            rows.append((index, attestations[lesson.attestation], profiles[shape]))
    ledger.commit()
    return run, np.array(rows, np.int64)
