"""A small real training run, so that the ledger has something true to say.

A byte-level language model of six residual blocks, in NumPy, is trained on the descriptions of the Python
distributions installed here: each is a source under its own licence. Gradients are computed for every example, norms
are exact, and a profile decides how much of each reaches which block. Sources under a licence that the rule does not
know to be permissive are confined to the top block and the head. (A policy will decide that; this is a stand-in.)
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

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
    ProfileDeclared,
    Ref,
    RunStarted,
    Signed,
    Stage,
    StepTaken,
    Technique,
)

LAYERS = 6
BLOCKS = ("embedding", *(f"layer.{i}" for i in range(LAYERS)), "head")
SURFACE = frozenset({f"layer.{LAYERS - 1}", "head"})
PERMISSIVE = ("mit", "bsd", "apache", "isc", "psf", "unlicense", "0bsd", "zlib", "python software foundation")
_WINDOW = 32
_CONTEXT = 4
_WIDTH = 16
_EXAMPLES_PER_SOURCE = 24
_LEARNING_RATE = 0.5

Floats = NDArray[np.float64]
Bytes = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Source:
    """An installed distribution, its licence as it states it, and examples cut from its description."""

    name: str
    licence: str
    examples: tuple[bytes, ...]

    @property
    def is_permissive(self) -> bool:
        words = self.licence.lower()
        return "gpl" not in words and any(word in words for word in PERMISSIVE)


def installed_sources(count_max: int = 24) -> list[Source]:
    """The distributions whose descriptions are long enough to learn from."""
    found: dict[str, Source] = {}
    for distribution in importlib.metadata.distributions():
        meta: Any = distribution.metadata
        text = (meta.get("Description") or meta.get_payload() or "").encode("ascii", "ignore")
        pieces = [text[i : i + _WINDOW + _CONTEXT] for i in range(0, len(text), _WINDOW)]
        whole = tuple(p for p in pieces if len(p) == _WINDOW + _CONTEXT)[:_EXAMPLES_PER_SOURCE]
        name = (meta.get("Name") or "").lower()
        if name and len(whole) >= 8:
            licence = meta.get("License-Expression") or meta.get("License") or _classified(meta) or "not stated"
            found[name] = Source(name, licence.strip().splitlines()[0][:60], whole)
    by_licence = sorted(found.values(), key=lambda s: (s.is_permissive, s.name))  # the confined ones first: they matter
    confined = [s for s in by_licence if not s.is_permissive][: count_max // 3]
    return confined + [s for s in by_licence if s.is_permissive][: count_max - len(confined)]


def _classified(meta: Any) -> str | None:
    licences = [c.rpartition("::")[2].strip() for c in meta.get_all("Classifier") or [] if c.startswith("License ::")]
    return licences[0] if licences else None


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


def train(
    ledger: Ledger, content: ContentStore, sources: list[Source], *, steps: int, checkpoint_s: float, batch: int = 16
) -> Iterator[StepResult]:
    """Train, recording off this thread what every step did."""
    rng = np.random.default_rng(7)
    model = Model(rng)
    profiles, rows = _admit(ledger, content, sources, model)
    run = ledger.exposure.lineage()[0].run
    windows = np.array([list(text) for _, _, _, text in rows], np.int64)
    refs = np.array([row[:3] for row in rows], np.int64)
    with BackgroundWriter(ledger, checkpoint_s=checkpoint_s) as writer:
        recorded = []
        for step in range(steps):
            chosen = rng.choice(len(rows), batch, replace=len(rows) < batch)
            loss, gradients = model.gradients(windows[chosen])
            weights = np.array([profiles[profile] for profile in refs[chosen, 2].tolist()]) / LEVELS
            norms = np.stack([np.sqrt((g**2).sum(axis=(1, 2))) for g in gradients], axis=1)
            deltas = model.update(weights, gradients)
            events = Events.of(
                example=refs[chosen, 0],
                attestation=refs[chosen, 1],
                profile=refs[chosen, 2],
                step=step,
                slot=np.arange(batch),
                norms_raw=np.where(weights == 0, np.nan, norms),
            )
            taken = StepTaken(Ref(run), step, _LEARNING_RATE, loss, batch, tuple(deltas), now_ms())
            recorded.append(writer.submit([events, taken]))
            yield StepResult(step, loss, batch)
        for result in recorded:
            result.result()  # raises what went wrong with any of them


def _admit(
    ledger: Ledger, content: ContentStore, sources: list[Source], model: Model
) -> tuple[dict[int, list[int]], list[tuple[int, int, int, bytes]]]:
    """Record the run, its profiles and every example.

    Gives the levels of each profile, and for each example its entry, its attestation, its profile and its text.
    """
    blocks = tuple(
        Block(name, ("surface",) if name in SURFACE else ("foundational",), parameter.size)
        for name, parameter in zip(BLOCKS, model.parameters, strict=True)
    )
    started = RunStarted("demo", "demo-bytes", blocks, Technique.SCALE, Stage.ENFORCE, None, None, None, now_ms())
    run = Ref(ledger.append(started))
    full = [LEVELS] * len(BLOCKS)
    confined = [LEVELS if name in SURFACE else 0 for name in BLOCKS]
    profiles = {}
    for levels, rule in ((full, "permissive licence"), (confined, "licence not known to be permissive")):
        declared = ProfileDeclared(run, tuple(Signed(level) for level in levels), (rule,) * len(BLOCKS))
        profiles[ledger.append(declared)] = levels
    free, narrow = profiles
    rows = []
    for source in sources:
        statement = hashlib.sha256(f"{source.name} {source.licence}".encode()).digest()
        attestation = ledger.append(AttestationMentioned(Digest(statement), source.name))
        profile = free if source.is_permissive else narrow
        for text in source.examples:
            commitment = content.put(text)
            example = ExampleAdmitted(
                Digest(hashlib.sha256(commitment + statement).digest()),
                commitment,
                Ref(attestation),
                None,
                Ref(profile),
                Determination.ADMITTED if profile == free else Determination.MODIFIED,
                (),
                None,
                None,
                0,
                (),
                None,
            )
            rows.append((ledger.append(example), attestation, profile, text))
    ledger.commit()
    return profiles, rows
