"""Admission: may this example teach, and how deep? A pure function of example, policies and model.

    1. the attestation is there, signed, by a registered source, about this content, and holds now
    2. the metadata is complete and agrees with itself
    3. each policy gives a weight for each band, and a name to the rule that decided it
    4. weights are spread over blocks, the most restrictive policy wins in each, and levels are rounded down

What is not expressly admitted is rejected, and a rejection is a result like any other. Nothing here reads a clock, a
file or a registry: the example brings what the registry said.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from licet.ledger.errors import FormatError
from licet.ledger.norms import LEVELS
from licet.ledger.records import Determination, Digest
from licet.policies import prerequisites, strict_json
from licet.policies.attestation import Attestation, open_envelope
from licet.policies.bands import Architecture, quantised, resolve
from licet.policies.example import BITS_PER_BYTE_MAX, Example, Standing, example_id
from licet.policies.policy import Policy
from licet.policies.prerequisites import ExampleClass
from licet.policies.profile import Profile, Terms, profile, terms_of
from licet.policies.reasons import Reason, Refused

CACHE_BYTES_MAX = 256 << 20
"""What a gate may remember of each kind, by the size of the envelopes: about 100,000 usual attestations."""
_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class Admission:
    """The gate's answer. `levels` has one of 0 to 15 for each block, and `rules` what decided it."""

    determination: Determination
    reasons: tuple[Reason, ...]
    levels: tuple[int, ...]
    rules: tuple[str, ...]
    policies: tuple[Digest, ...]
    attestation: Digest | None = None
    source: str | None = None

    @property
    def weights(self) -> tuple[float, ...]:
        return tuple(level / LEVELS for level in self.levels)

    def to_json(self) -> bytes:
        """The one spelling of this answer: whoever evaluates the same gets the same bytes."""
        plain = {
            "attestation": self.attestation.hex() if self.attestation else None,
            "determination": self.determination.value,
            "levels": self.levels,
            "policies": [digest.hex() for digest in self.policies],
            "reasons": [reason.value for reason in self.reasons],
            "rules": self.rules,
            "source": self.source,
        }
        return strict_json.spell(plain)


def evaluate(example: Example, policies: Sequence[Policy], model: Architecture) -> Admission:
    """The admission of one example."""
    return Gate(policies, model).admit(example)


class _Known(NamedTuple):
    """What is remembered of a class: its admission, and what is still to be compared for each example."""

    admission: Admission
    attestation: Attestation | None
    subjects: frozenset[bytes]


class _Shape(NamedTuple):
    """The part of an admission that is the same under all attestations that say the same."""

    determination: Determination
    reasons: tuple[Reason, ...]
    levels: tuple[int, ...]
    rules: tuple[str, ...]


class _Cache(Generic[_Key, _Value]):
    """Answers by question, the oldest forgotten once their envelopes take too much memory."""

    def __init__(self) -> None:
        self._kept: OrderedDict[_Key, tuple[_Value, int]] = OrderedDict()
        self._bytes = 0

    def get(self, key: _Key) -> _Value | None:
        found = self._kept.get(key)
        return found[0] if found is not None else None

    def put(self, key: _Key, value: _Value, cost: int) -> _Value:
        self._kept[key] = (value, cost)
        self._bytes += cost
        while self._bytes > CACHE_BYTES_MAX:
            self._bytes -= self._kept.popitem(last=False)[1][1]
        return value


class Gate:
    """Policies on a model, ready to judge examples by the million. Judgements of a class are kept and used again."""

    def __init__(self, policies: Sequence[Policy], model: Architecture) -> None:
        if not policies:
            raise FormatError("A gate needs a policy.", remedy="Without one, nothing is admissible.")
        self.policies = tuple(sorted(set(policies), key=lambda policy: policy.digest))  # whatever order they came in
        self.layouts = tuple(resolve(policy, model) for policy in self.policies)
        self.digests = tuple(policy.digest for policy in self.policies)
        self._entropy = tuple((policy.entropy_edges, policy.entropy_names) for policy in self.policies)
        self._excluded = frozenset(
            bytes.fromhex(digest) for policy in self.policies for digest in policy.document.exclusion.content
        )
        self._opened: _Cache[tuple[bytes, Standing], Attestation | Refused] = _Cache()
        self._known: _Cache[tuple[Any, ...], _Known] = _Cache()
        self._shapes: _Cache[Terms, _Shape] = _Cache()
        self._rejections: _Cache[tuple[Attestation | None, tuple[Reason, ...]], Admission] = _Cache()

    @property
    def blocks(self) -> tuple[str, ...]:
        return tuple(block.name for block in self.layouts[0].blocks)

    def id_of(self, example: Example, admission: Admission) -> Digest:
        return example_id(example.content, admission.attestation, self.digests)

    def admit(self, example: Example) -> Admission:
        """The admission of one example."""
        known = self._judged(example)
        admission, attestation, subjects = known
        if attestation is None:
            return admission
        content = example.content
        reasons = []
        if content not in subjects:
            reasons += prerequisites.of_content(example, attestation)
        if content in self._excluded:
            reasons.append(Reason.CONTENT_EXCLUDED)
        return self._rejected(attestation, [*reasons, *_rejecting(admission)]) if reasons else admission

    # -- the class of an example

    def _judged(self, example: Example) -> _Known:
        key = self._class_of(example)
        known = self._known.get(key)
        return known if known is not None else self._known.put(key, self._judge(ExampleClass(*key)), _cost(key[0]))

    def _judge(self, key: ExampleClass) -> _Known:
        opened = self._open(key)
        if isinstance(opened, Refused):
            reasons = [opened.reason, *prerequisites.of_metadata(key, self.policies)]
            return _Known(self._rejected(None, reasons), None, frozenset())
        reasons = [
            *prerequisites.of_standing(key.standing, opened, self.policies),
            *prerequisites.of_metadata(key, self.policies),
            *prerequisites.of_slope(key, opened, self.policies),
        ]
        subjects = frozenset(subject.digest for subject in opened.statement.subjects)
        shape = None if reasons else self._shape_of(terms_of(key, opened))
        if shape is None or shape.determination is Determination.REJECTED:
            return _Known(self._rejected(opened, reasons if shape is None else shape.reasons), opened, subjects)
        return _Known(Admission(*shape, self.digests, opened.id, opened.statement.source), opened, subjects)

    def _class_of(self, example: Example) -> tuple[Any, ...]:
        """The fields of its `ExampleClass`, which is made only where it is needed: this runs for each example."""
        provenance, measured = example.provenance, example.bits_per_byte
        labels = provenance.labels if provenance is not None else None
        bands: tuple[str, ...] = ()
        if measured is not None and 0 <= measured <= BITS_PER_BYTE_MAX:
            bands = tuple([names[bisect_right(edges, measured)] for edges, names in self._entropy])
        return (
            example.envelope,
            example.standing,
            example.entropy_band,
            bands,
            example.slope,
            example.scope,
            provenance is not None,
            labels.quality if labels is not None else None,
            example.skills,
            example.fields,
        )

    def profiles(self, example: Example) -> list[Profile]:
        """What each policy says of an example whose attestation can be read; nothing of another."""
        key = ExampleClass(*self._class_of(example))
        opened = self._open(key)
        return [] if isinstance(opened, Refused) else self._weighed(terms_of(key, opened))

    def _weighed(self, terms: Terms) -> list[Profile]:
        found = []
        for policy, layout, name in zip(self.policies, self.layouts, terms.measured_bands, strict=False):
            entropy = next(band for band in policy.document.entropy if band.name == name)
            found.append(profile(terms, policy, layout, entropy))
        return found

    def _open(self, key: ExampleClass) -> Attestation | Refused:
        """The attestation; signatures are verified once for each envelope and state of the registry."""
        if key.envelope is None:
            return Refused(Reason.ATTESTATION_MISSING)
        place = (key.envelope, key.standing)
        opened = self._opened.get(place)
        if opened is None:
            try:
                opened = open_envelope(key.envelope, key.standing.sources)
            except Refused as refused:
                opened = Refused(refused.reason)  # without its traceback, which would hold on to much
            self._opened.put(place, opened, _cost(key.envelope))
        return opened

    def _shape_of(self, terms: Terms) -> _Shape:
        """The most restrictive of several policies in each block."""
        known = self._shapes.get(terms)
        if known is not None:
            return known
        found = self._weighed(terms)
        reasons = tuple(sorted({reason for one in found for reason in one.reasons}))
        if reasons:
            return self._shapes.put(terms, _Shape(Determination.REJECTED, reasons, (), ()), _cost(None))
        levels, rules = [], []
        for i in range(len(self.blocks)):
            weight, policy = min((one.spread.weights[i], p) for p, one in enumerate(found))
            levels.append(quantised(weight))
            rules.append(f"{self.policies[policy].document.name}/{found[policy].rule_of(i)}")
        unrestricted = [min(quantised(one.unrestricted.weights[i]) for one in found) for i in range(len(levels))]
        if not any(levels):
            reasons = (Reason.PROFILE_EMPTY,)
        elif levels != unrestricted:
            reasons = (Reason.PROFILE_RESTRICTED,)
        determination = Determination.MODIFIED if reasons else Determination.ADMITTED
        return self._shapes.put(terms, _Shape(determination, reasons, tuple(levels), tuple(rules)), _cost(None))

    def _rejected(self, attestation: Attestation | None, reasons: Sequence[Reason]) -> Admission:
        """A rejection, with all its reasons; equal ones are one object."""
        key = (attestation, tuple(sorted(set(reasons))))
        known = self._rejections.get(key)
        if known is not None:
            return known
        zeros = (0,) * len(self.blocks)
        rules = (key[1][0].value,) * len(zeros)
        of, source = (attestation.id, attestation.statement.source) if attestation is not None else (None, None)
        rejection = Admission(Determination.REJECTED, key[1], zeros, rules, self.digests, of, source)
        return self._rejections.put(key, rejection, _cost(attestation.envelope if attestation else None))


def _cost(envelope: bytes | None) -> int:
    """What remembering an answer takes, about: most of it is the statement, read."""
    return 2000 + (2 * len(envelope) if envelope is not None else 0)


def _rejecting(admission: Admission) -> tuple[Reason, ...]:
    return admission.reasons if admission.determination is Determination.REJECTED else ()
