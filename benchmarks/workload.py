"""A made-up training run of any length: sources, examples, events. The same for Licet and for every peer.

Norms are drawn from a log-normal spread over examples and blocks, as gradient norms have; drawing is done ahead and
reused in turn, so that it is not what is measured.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_POOL = 64


@dataclass(frozen=True, slots=True)
class Shape:
    """How large the run is."""

    events: int
    sources: int = 10_000
    examples: int = 1_000_000
    blocks: int = 32
    batch: int = 256


@dataclass(frozen=True, slots=True)
class Step:
    """The events of one commit: which examples (by number), and their norms [batch, blocks]."""

    step: int
    examples: NDArray[np.int64]
    norms: NDArray[np.float32]


def digest(kind: str, number: int) -> bytes:
    return hashlib.sha256(f"{kind} {number}".encode()).digest()


def source_of(shape: Shape, examples: NDArray[np.int64]) -> NDArray[np.int64]:
    """Each example's source: large and small ones, as corpora have."""
    return (examples * 2_654_435_761 % (1 << 32)) * shape.sources >> 32


def steps(shape: Shape, seed: int = 0) -> Iterator[Step]:
    """Every example once an epoch, in an order of its own."""
    rng = np.random.default_rng(seed)
    block_scale = np.exp(rng.normal(0, 1, shape.blocks))
    pool = [
        (
            np.exp(rng.normal(-1, 0.7, (shape.batch, 1)))
            * block_scale
            * np.exp(rng.normal(0, 0.3, (shape.batch, shape.blocks)))
        ).astype(np.float32)
        for _ in range(_POOL)
    ]
    order = rng.permutation(shape.examples)
    for number in range(shape.events // shape.batch):
        at = number * shape.batch % shape.examples
        chosen = np.take(order, range(at, at + shape.batch), mode="wrap")
        yield Step(number, chosen, pool[number % _POOL])
