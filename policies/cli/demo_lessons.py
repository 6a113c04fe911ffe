"""What the demo teaches from: the installed distributions, attested, and judged by a policy that comes with Licet."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace

from licet.ledger.demo import LAYERS, TEXT_BYTES_MIN, Lesson, parameters_of_blocks
from licet.ledger.home import Home
from licet.ledger.log import now_ms
from licet.ledger.norms import LEVELS
from licet.ledger.records import Determination, Digest, PolicyAdopted
from licet.policies import acts, wire
from licet.policies.bands import Architecture, Layout
from licet.policies.cli.distributions import Distribution, installed_distributions
from licet.policies.cli.from_distributions import SOURCE_PREFIX, attest_distributions
from licet.policies.cli.recording import reading, recording
from licet.policies.evaluate import Admission, Gate, evaluate
from licet.policies.example import Example
from licet.policies.policy import Policy
from licet.policies.provenance import Custody, Provenance
from licet.policies.reasons import Reason
from licet.policies.registry import Registry

POLICY = "open-source-code"
_LESSONS_MAX = 24
_MODEL = Architecture.uniform(LAYERS, **dict(zip(("embedding", "layer", "head"), parameters_of_blocks(), strict=True)))


@dataclass(frozen=True, slots=True)
class Judged:
    """A distribution, the example that it makes, and the gate's answer."""

    distribution: Distribution
    example: Example
    admission: Admission
    lesson: Lesson


@dataclass(frozen=True, slots=True)
class Lessons:
    """All that the demo has to train on, and by which policy."""

    policy: Policy
    gate: Gate
    judged: tuple[Judged, ...]
    attested: int

    @property
    def layout(self) -> Layout:
        return self.gate.layouts[0]

    @property
    def blocks(self) -> tuple[str, ...]:
        return self.gate.blocks

    @property
    def examples(self) -> list[Example]:
        return [one.example for one in self.judged]

    @property
    def taught(self) -> list[Lesson]:
        return [one.lesson for one in self.judged]

    def table(self) -> list[tuple[str, ...]]:
        """Who may teach what how deep: one row for each source, the most confined first."""
        return [
            (
                f"   {one.distribution.name}",
                (one.distribution.spdx or "not stated")[:32],
                *(f"{self._weight(one.admission, band):.2f}" for band in range(len(self.policy.bands))),
                _decided_by(one.admission),
            )
            for one in self.judged
        ]

    def _weight(self, admission: Admission, band: int) -> float:
        """The most that reaches a block of a band."""
        inside = (level for level, own in zip(admission.levels, self.layout.own, strict=True) if band in own)
        return max(inside, default=0) / LEVELS

    # -- what is claimed of them

    def agree(self) -> bool:
        sent = [wire.parse(wire.to_json(example)) for example in self.examples]
        answers = [evaluate(example, [self.policy], _MODEL).to_json() for example in sent]
        return answers == [one.admission.to_json() for one in self.judged]

    def refuses_other_content(self) -> bool:
        one, other = self.examples[0], self.examples[-1]
        admission = self.gate.admit(replace(one, content=other.content))
        return Reason.CONTENT_OUT_OF_SCOPE in admission.reasons and not any(admission.levels)

    def refuses_revoked(self, home: Home) -> bool:
        """Revoke the licence of the last example in the registry, and ask again."""
        judged = self.judged[-1]
        assert judged.admission.attestation is not None
        with recording(home) as recorder:
            at_ms, registry, key = now_ms(), recorder.registry, recorder.log.key
            assert key is not None
            record = acts.revoke(
                registry.origin,
                judged.admission.attestation,
                effective_ms=at_ms,
                reason="shown in the demo",
                by=registry.origin,
                key=key,
                at_ms=at_ms,
            )
            recorder.add(record)
        with reading(home) as registry:
            standing = registry.standing(judged.admission.attestation, at_ms)
        admission = self.gate.admit(replace(judged.example, standing=standing))
        return admission.reasons == (Reason.ATTESTATION_REVOKED,)


def prepare(home: Home, report: Callable[[int, int], None]) -> Lessons:
    """Adopt the policy, attest every installed distribution, and put those to the gate that have enough to say."""
    policy = Policy.read_default(POLICY)
    with recording(home) as recorder:
        recorder.add(PolicyAdopted(policy.digest, policy.text, recorder.registry.origin, now_ms()))
    done = attest_distributions(home, "community", report)
    attested = {one.source: one.attestation for one in done.attested}
    gate = Gate([policy], _MODEL)
    at_ms = now_ms()
    judged = []
    with reading(home) as registry:
        for distribution in installed_distributions():
            attestation = attested.get(SOURCE_PREFIX + distribution.name)
            if attestation is not None and sum(b < 128 for b in distribution.description) >= TEXT_BYTES_MIN:
                judged.append(_judge(registry, gate, distribution, attestation, at_ms))
    return Lessons(policy, gate, tuple(_some(judged)), len(attested))


def _judge(registry: Registry, gate: Gate, distribution: Distribution, attestation: Digest, at_ms: int) -> Judged:
    """One description as an example. Before there is a model, a compression program says how much is in it."""
    text = distribution.description
    bits_per_byte = 8 * len(zlib.compress(text, 9)) / len(text)
    recorded = registry.attestation(attestation).attestation
    (subject,) = recorded.statement.subjects
    entropy_band = gate.policies[0].entropy_band(bits_per_byte).name
    example = Example(
        subject.digest,
        len(text),
        recorded.envelope,
        None,
        registry.standing(attestation, at_ms),
        entropy_band,
        bits_per_byte,
        0,
        ("documentation",),
        Provenance((Custody(distribution.name, "published as part of its metadata"),)),
        (),
        (("repository", distribution.name), ("revision", distribution.version)),
    )
    admission = gate.admit(example)
    provenance = example.provenance
    assert provenance is not None
    lesson = Lesson(
        gate.id_of(example, admission),
        recorded.statement.source,
        attestation,
        text,
        admission.determination,
        tuple(reason.value for reason in admission.reasons),
        admission.levels,
        admission.rules,
        entropy_band,
        bits_per_byte,
        wire.digest_of(provenance),
    )
    return Judged(distribution, example, admission, lesson)


def _some(judged: list[Judged]) -> list[Judged]:
    """A few of each depth, the most confined first, so that a small table shows all there is."""
    by_levels: dict[tuple[int, ...], list[Judged]] = {}
    for one in judged:
        by_levels.setdefault(one.admission.levels, []).append(one)
    groups = [by_levels[levels] for levels in sorted(by_levels, key=sum)]
    share = max(2, _LESSONS_MAX // (2 * max(len(groups), 1)))
    shallow = [one for group in groups[:-1] for one in group[:share]]
    return [*shallow, *groups[-1][: max(_LESSONS_MAX - len(shallow), 1)]] if groups else []


def _decided_by(admission: Admission) -> str:
    """Why not more: the reason of a rejection, else what decided the deepest block."""
    if admission.determination is Determination.REJECTED:
        return ", ".join(reason.value for reason in admission.reasons)
    return admission.rules[0].partition("/")[2]
