"""Putting rows to the gate: each is measured and judged. Nothing is written here; a dry run goes no further."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Self

from torch import nn

from licet.ledger.home import Home
from licet.ledger.log import now_ms
from licet.ledger.records import Licence
from licet.policies.attestation import open_envelope
from licet.policies.bands import Architecture, Layout
from licet.policies.evaluate import Admission, Gate
from licet.policies.example import Example
from licet.policies.policy import Policy
from licet.policies.registry import Registry
from licet.train.data.entropy import Reading, under_compression, under_model
from licet.train.data.examples import Examples
from licet.train.data.rows import Row
from licet.train.watch.memorization import permitted_bands

AT_ONCE = 64

Measure = Callable[[Sequence[str]], Sequence[float]]
"""Bits per byte of each of some texts."""


def by_compression(texts: Sequence[str]) -> list[float]:
    """What can be measured before there is a model."""
    return [under_compression(text).bits_per_byte for text in texts]


def by_model(model: nn.Module, tokenizer: Any, context: int) -> Measure:
    """Under a model that is there."""
    reading = Reading(context, max(context // 2, 1))
    return lambda texts: [one.bits_per_byte for one in under_model(model, tokenizer, texts, reading)]


@dataclass(frozen=True, slots=True)
class Judged:
    """A row, the example that it makes, and the gate's answer."""

    row: Row
    example: Example
    admission: Admission


@dataclass(frozen=True, slots=True)
class Judge:
    """The policies' gate, and what it needs to know of a row that the row does not say itself."""

    gate: Gate
    examples: Examples
    measure: Measure
    policy: Policy
    """The home's own, which says what licences leave open, on its layout of the model."""
    layout: Layout

    @classmethod
    def over(
        cls, home: Home, registry: Registry, model: Architecture, others: Sequence[Policy], measure: Measure
    ) -> Self:
        """The judge of a model's rows: the home's policy, and others beside it, over the registry as it is now."""
        policy = registry.policy()
        gate = Gate([policy, *others], model)
        examples = Examples(registry, home.path / "manifests", now_ms())
        return cls(gate, examples, measure, policy, gate.layouts[gate.digests.index(policy.digest)])

    def judge(self, rows: Iterable[Row]) -> Iterator[Judged]:
        """The gate's answers, in the order of the rows."""
        waiting = iter(rows)
        while some := list(islice(waiting, AT_ONCE)):
            measured = self.measure([row.words for row in some])
            for row, bits_per_byte in zip(some, measured, strict=True):
                band = self.policy.entropy_band(bits_per_byte).name
                example = self.examples.example(row, bits_per_byte, band)
                yield Judged(row, example, self.gate.admit(example))

    def rights(self, judged: Judged) -> frozenset[str]:
        """The rights that stand behind an example under every policy."""
        source = judged.admission.source
        known = judged.example.standing.registration(source) if source is not None else None
        if known is None:
            return frozenset()
        held = [policy.document.authority.get(known.authority) for policy in self.gate.policies]
        return frozenset.intersection(*(frozenset(a.rights) if a is not None else frozenset() for a in held))

    def licence(self, judged: Judged) -> Licence | None:
        """The terms under which an example is taught, if they can be read."""
        envelope = judged.example.envelope
        if envelope is None or judged.admission.attestation is None:
            return None
        return open_envelope(envelope, judged.example.standing.sources).statement.licence

    def permitted(self, licence: Licence | None) -> frozenset[str]:
        """The bands that a licence itself leaves open."""
        return frozenset() if licence is None else permitted_bands(self.policy, licence, self.layout)
