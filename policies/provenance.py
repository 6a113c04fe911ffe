"""Where content came from and how it was labelled: the chain of custody, and what is said of the labels."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Custody:
    """One step in the chain: who held the content and what was done to it."""

    holder: str
    action: str
    claimed_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Labels:
    """Who labelled the content, how far several annotators agreed, and how good the labels were found to be."""

    annotator: str
    consensus: float | None = None
    quality: float | None = None


@dataclass(frozen=True, slots=True)
class Provenance:
    """The record that an attestation or an example carries."""

    custody: tuple[Custody, ...] = ()
    labels: Labels | None = None
