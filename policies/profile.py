"""The depth profile that one policy gives: every factor that limits an example, and which of them decided.

    weight of a band = entropy band × rights × authority and skills × slope

*Rights* is the smallest of what the licence's kind, its own bands and every rule that applies leave; *authority and
skills* the smallest of what the source's class and each declared skill leave. A further restriction therefore never
raises a weight, and the order of rules never matters.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from licet.ledger.records import Licence, LicenceKind
from licet.policies.attestation import Attestation
from licet.policies.bands import Layout, Spread, spread
from licet.policies.policy import Policy
from licet.policies.prerequisites import ExampleClass
from licet.policies.reasons import Reason
from licet.policies.rights import UNKNOWN_CLASS, classes_of, covers, is_spdx
from licet.policies.schema import ALL_OTHERS, Authority, Condition, EntropyBand, Rule


class Terms(NamedTuple):
    """All that a profile depends on: it is the same for every attestation that says the same."""

    source: str
    authority: str
    licence: Licence
    held: frozenset[str]
    """Which terms the statement has, in the words of a policy's `require`."""
    quality: float | None
    """Of the labels: the worse of what the example and the attestation say."""
    measured_bands: tuple[str, ...]
    slope: int
    scope: tuple[str, ...]
    skills: tuple[str, ...]
    fields: tuple[tuple[str, str], ...]


def terms_of(example: ExampleClass, attestation: Attestation) -> Terms:
    """What a profile depends on, of an example that meets all prerequisites but perhaps the policies' own."""
    statement = attestation.statement
    registration = example.standing.registration(statement.source)
    labels = statement.provenance.labels
    return Terms(
        statement.source,
        registration.authority if registration is not None else "",
        statement.licence,
        _held(attestation),
        min((q for q in (example.quality, labels.quality if labels else None) if q is not None), default=None),
        example.measured_bands,
        example.slope if example.slope is not None else 0,
        example.scope,
        example.skills,
        example.fields,
    )


@dataclass(frozen=True, slots=True)
class Factor:
    """One thing that limits an example: its name, the most that it leaves to each depth band, and why."""

    name: str
    weights: tuple[float, ...]
    because: str = ""


@dataclass(frozen=True, slots=True)
class Profile:
    """What one policy says of a class of examples."""

    policy: Policy
    layout: Layout
    factors: tuple[Factor, ...]
    """The entropy band first."""
    reasons: tuple[Reason, ...]
    """Why it rejects them; empty if it does not."""
    rejecting: tuple[str, ...]
    """The rules of the document that reject them."""
    spread: Spread
    unrestricted: Spread
    """What the entropy band alone would give."""
    forbidden: tuple[str | None, ...]
    """Of each block, the reserved band that the source has no right to."""

    def rule_of(self, block: int) -> str:
        """What decided the weight of a block."""
        reserved = self.forbidden[block]
        if reserved is not None:
            return f"reserved.{reserved}"
        band = self.spread.bands[block]
        decided = min(
            self.factors, key=lambda factor: (factor.weights[band], factor is not self.factors[0], factor.name)
        )
        return decided.name if band in self.layout.own[block] else f"{decided.name}.falloff"


def profile(terms: Terms, policy: Policy, layout: Layout, entropy: EntropyBand) -> Profile:
    """The weights of a class of examples under one policy, in one of its entropy bands."""
    document = policy.document
    subject = _Subject(terms, policy, entropy)
    rejecting = tuple(rule.id for rule in document.rule if rule.reject and subject.is_under(rule))
    reasons = sorted({*subject.problems(), *([Reason.RULE_REJECTS] if rejecting else [])})
    base = policy.weights(entropy.ceiling)
    groups = [] if reasons else subject.groups(layout)
    weights = [0.0 if reasons else weight for weight in base]
    for group in groups:
        weights = [w * min(factor.weights[b] for factor in group) for b, w in enumerate(weights)]
    rights = subject.authority.rights if subject.authority is not None else frozenset()
    forbidden = tuple(
        next((layout.reserved_names[r] for r in held if document.reserved[r].right not in rights), None)
        for held in layout.reserved
    )
    found = spread(weights, layout, document.falloff, entropy.falloff)
    allowed = tuple(0.0 if gone else weight for weight, gone in zip(found.weights, forbidden, strict=True))
    return Profile(
        policy,
        layout,
        (Factor(f"entropy.{entropy.name}", base), *(factor for group in groups for factor in group)),
        tuple(reasons),
        rejecting,
        Spread(allowed, found.bands),
        spread(base, layout, document.falloff, entropy.falloff),
        forbidden,
    )


@dataclass(frozen=True, slots=True)
class _Subject:
    """Terms as the parts of one policy look at them."""

    terms: Terms
    policy: Policy
    entropy: EntropyBand

    @property
    def authority(self) -> Authority | None:
        return self.policy.document.authority.get(self.terms.authority)

    def spdx_classes(self) -> frozenset[str]:
        spdx = self.terms.licence.spdx
        if spdx is None:
            return frozenset({"none"})
        return classes_of(spdx, self.policy.document.spdx) if is_spdx(spdx) else frozenset({UNKNOWN_CLASS})

    # -- why a policy rejects

    def problems(self) -> Iterator[Reason]:
        document, licence = self.policy.document, self.terms.licence
        if self.authority is None:
            yield Reason.SOURCE_AUTHORITY_UNKNOWN
        if not document.scopes & set(self.terms.scope):
            yield Reason.SCOPE_NOT_COVERED
        kind = document.licence.get(licence.kind)
        if kind is None:
            yield Reason.LICENCE_KIND_NOT_ADMITTED
        elif not kind.require <= self.terms.held:
            yield Reason.LICENCE_TERM_MISSING
        if licence.spdx is not None and not is_spdx(licence.spdx):
            yield Reason.LICENCE_SPDX_UNKNOWN
        if not all(covers(licence.jurisdictions, place) for place in document.jurisdictions):
            yield Reason.JURISDICTION_NOT_COVERED
        if self.terms.slope >= len(document.slope.ceilings):
            yield Reason.SLOPE_TOO_LONG
        yield from self._skill_problems()

    def _skill_problems(self) -> Iterator[Reason]:
        for name in self.terms.skills:
            skill = self.policy.document.skill.get(name)
            if skill is None:
                yield Reason.SKILL_UNKNOWN
            elif not (
                self.authority is not None
                and name in self.terms.licence.skills
                and self.authority.skills & {name, ALL_OTHERS}
                and (not skill.authorities or self.terms.authority in skill.authorities)
            ):
                yield Reason.SKILL_NOT_CREDENTIALED

    # -- what limits the weights

    def groups(self, layout: Layout) -> list[list[Factor]]:
        """Factors of one group do not multiply: the smallest of them counts."""
        assert self.authority is not None
        document, weights = self.policy.document, self.policy.weights
        slope = weights(document.slope.ceilings[self.terms.slope])
        teaching = [Factor(f"authority.{self.terms.authority}", weights(self.authority.ceiling), self.authority.title)]
        for name in self.terms.skills:
            skill = document.skill[name]
            teaching.append(Factor(f"skill.{name}", weights(skill.ceiling), skill.title))
        return [self._rights(layout), teaching, [Factor(f"slope.{self.terms.slope}", slope)]]

    def _rights(self, layout: Layout) -> list[Factor]:
        document, weights, licence = self.policy.document, self.policy.weights, self.terms.licence
        factors = [Factor(f"licence.{licence.kind.value}", weights(document.licence[licence.kind].ceiling))]
        if licence.bands:
            granted = tuple(float(band in licence.bands) for band in self.policy.bands)
            factors.append(Factor("licence.bands", granted, "The licence itself names the bands that it is for."))
        if licence.kind is LicenceKind.TIME_LIMITED:
            shallow = tuple(float(band == layout.surface) for band in range(len(self.policy.bands)))
            factors.append(Factor("licence.time-limited.surface", shallow, "What may have to go is not taught deep."))
        for rule in document.rule:
            if rule.ceiling is not None and self.is_under(rule):
                factors.append(Factor(f"rule.{rule.id}", weights(rule.ceiling), rule.because))
        return factors

    def is_under(self, rule: Rule) -> bool:
        """Whether a rule applies."""
        return self._meets(rule.when) and (rule.unless is None or not self._meets(rule.unless))

    def _meets(self, when: Condition) -> bool:
        """Whether all that a condition asks for holds."""
        terms, licence, held = self.terms, self.terms.licence, dict(self.terms.fields)
        return (
            (when.kind is None or licence.kind in when.kind)
            and (when.spdx is None or bool(when.spdx & self.spdx_classes()))
            and (when.recall is None or licence.recall is when.recall)
            and (when.source is None or terms.source in when.source)
            and (when.authority is None or terms.authority in when.authority)
            and (when.scope is None or bool(when.scope & set(terms.scope)))
            and (when.skill is None or bool(when.skill & set(terms.skills)))
            and (when.entropy is None or self.entropy.name in when.entropy)
            and (when.slope_above is None or terms.slope > when.slope_above)
            and (when.quality_below is None or terms.quality is None or terms.quality < when.quality_below)
            and all(held.get(name) in wanted for name, wanted in when.fields.items())
            and (not when.lacks or any(name not in held for name in when.lacks))
        )


def _held(attestation: Attestation) -> frozenset[str]:
    statement = attestation.statement
    licence, provenance = statement.licence, statement.provenance
    held = {
        "spdx": licence.spdx is not None,
        "terms-uri": licence.terms_uri is not None,
        "valid-from": licence.valid_from_ms is not None,
        "valid-until": licence.valid_until_ms is not None,
        "jurisdictions": bool(licence.jurisdictions),
        "bands": bool(licence.bands),
        "skills": bool(licence.skills),
        "custody": bool(provenance.custody),
        "labels": provenance.labels is not None,
        "generator": statement.generator is not None,
        "upstream": bool(statement.upstream),
    }
    return frozenset(name for name, there in held.items() if there)
