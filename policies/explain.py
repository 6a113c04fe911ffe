"""Which rule decided the weight of each block, in words: what a person gets who asks why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from licet.ledger.norms import LEVELS
from licet.policies.bands import Architecture
from licet.policies.evaluate import Admission, Gate
from licet.policies.example import Example
from licet.policies.policy import Policy
from licet.policies.profile import Factor, Profile
from licet.policies.reasons import Reason

_SENTENCES = {
    "entropy": "examples of the entropy band {name} may go this deep",
    "licence": "this is what a licence of the kind {name} allows",
    "authority": "sources of the class {name} may teach this deep",
    "skill": "the skill {name} is taught this deep",
    "slope": "content {name} steps from first hand may go this deep",
    "rule": "the rule {name} applies",
}
_SPECIAL = {
    "licence.bands": "the licence itself names the bands that it is for",
    "licence.time-limited.surface": "what may have to go again is not taught below the surface",
}


@dataclass(frozen=True, slots=True)
class BlockExplanation:
    """One block: its level, the rule that decided it, and the rule in words."""

    block: str
    bands: tuple[str, ...]
    level: int
    rule: str
    because: str

    @property
    def weight(self) -> float:
        return self.level / LEVELS


@dataclass(frozen=True, slots=True)
class Limit:
    """One factor under one policy: the most that it leaves to each depth band."""

    policy: str
    name: str
    weights: dict[str, float]
    because: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """An admission in words."""

    admission: Admission
    reasons: tuple[tuple[str, str], ...]
    """Each reason's code and meaning; for rules of a policy, their own words."""
    blocks: tuple[BlockExplanation, ...]
    limits: tuple[Limit, ...]


def explain(example: Example, policies: Sequence[Policy], model: Architecture) -> Explanation:
    """The admission of an example, and why it is what it is."""
    gate = Gate(policies, model)
    admission = gate.admit(example)
    profiles = gate.profiles(example)
    layout = gate.layouts[0]
    blocks = []
    for i, block in enumerate(layout.blocks):
        rule = admission.rules[i]
        blocks.append(BlockExplanation(block.name, layout.bands_of(i), admission.levels[i], rule, _why(rule, profiles)))
    limits = tuple(
        Limit(
            one.policy.document.name,
            factor.name,
            dict(zip(one.policy.bands, factor.weights, strict=True)),
            _said(factor),
        )
        for one in profiles
        for factor in one.factors
    )
    return Explanation(admission, tuple(_reasons(admission, profiles)), tuple(blocks), limits)


def _reasons(admission: Admission, profiles: Sequence[Profile]) -> list[tuple[str, str]]:
    found = []
    for reason in admission.reasons:
        found.append((reason.value, reason.meaning))
        if reason is Reason.RULE_REJECTS:
            for one in profiles:
                known = {rule.id: rule.because for rule in one.policy.document.rule}
                found += [(f"{one.policy.document.name}/rule.{name}", known[name]) for name in one.rejecting]
    return found


def _why(rule: str, profiles: Sequence[Profile]) -> str:
    """The words for what an admission names as the rule of a block."""
    if rule in Reason._value2member_map_:
        return Reason(rule).meaning
    name, _, factor_name = rule.partition("/")
    factor_name = factor_name.removesuffix(".falloff")
    if factor_name.startswith("reserved."):
        return f"the blocks of {factor_name.removeprefix('reserved.')} are reserved to sources with another right"
    for one in profiles:
        for factor in one.factors:
            if one.policy.document.name == name and factor.name == factor_name:
                near = " (near the edge of the band that this limits)" if rule.endswith(".falloff") else ""
                return _said(factor) + near
    return factor_name


def _said(factor: Factor) -> str:
    kind, _, name = factor.name.partition(".")
    said = _SPECIAL.get(factor.name) or _SENTENCES[kind].format(name=name)
    return f"{said}: {factor.because}" if factor.because and factor.name not in _SPECIAL else said
