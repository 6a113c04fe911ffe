"""The invocation contract: may this request be put to this model at all?

A request says who asks, from where, for what class of query, and which skills it needs. The policy says what each of
these may be, and the model's skill certificates say what it can be trusted with. What is not known is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from licet.ledger.errors import FormatError
from licet.ledger.records import Digest
from licet.policies.certificate import SkillCertificate
from licet.policies.policy import Policy
from licet.policies.reasons import Reason
from licet.policies.rights import check_jurisdiction, covers
from licet.policies.schema import Tenant
from licet.policies.skills import share_min_ppm

SKILLS_MAX = 64
"""That one request may need."""


class Outcome(StrEnum):
    """What becomes of a request."""

    ADMIT = "admit"
    RESTRICT = "restrict"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class Context:
    """What is known of a request. None is what it does not say."""

    tenant: str
    jurisdiction: str | None = None
    query_class: str | None = None
    skills: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Invocation:
    """The answer. A restricted request is served by `fallback`, and only by that."""

    outcome: Outcome
    reasons: tuple[Reason, ...]
    fallback: str | None = None
    uncertified: tuple[str, ...] = ()
    """The skills for which no certificate holds."""


def invoke(context: Context, policy: Policy, seal: Digest, certificates: Mapping[str, SkillCertificate]) -> Invocation:
    """Admit, restrict or refuse a request to the model of a seal; `certificates` are by skill.

    A request that names no query class is one without a class of its own: it passes unless its tenant is limited to
    some. One that names a class that the policy does not know is refused.
    """
    inference = policy.document.inference
    tenant = inference.tenant.get(context.tenant)
    barred = sorted(set(_bars(context, policy, tenant)))
    if barred:
        return Invocation(Outcome.REFUSE, tuple(barred))
    query = inference.query_class[context.query_class] if context.query_class is not None else None
    needed = context.skills | (query.skills if query is not None else frozenset())
    if len(needed) > SKILLS_MAX:
        return Invocation(Outcome.REFUSE, (Reason.CONTEXT_CERTIFICATE_MISSING,))
    faults = {name: fault for name in sorted(needed) if (fault := _fault(name, policy, seal, certificates)) is not None}
    if not faults:
        return Invocation(Outcome.ADMIT, (Reason.CONTEXT_ADMITTED,))
    restricts = query is not None and query.otherwise == "restrict" and inference.fallback is not None
    return Invocation(
        Outcome.RESTRICT if restricts else Outcome.REFUSE,
        tuple(sorted(set(faults.values()))),
        inference.fallback if restricts else None,
        tuple(faults),
    )


def _bars(context: Context, policy: Policy, tenant: Tenant | None) -> Iterator[Reason]:
    """Why a request is refused whatever the model can do."""
    document = policy.document
    if tenant is None and not document.inference.tenants_open:
        yield Reason.CONTEXT_TENANT_UNKNOWN
    if not _is_served(context.jurisdiction, document.jurisdictions or None):
        yield Reason.CONTEXT_JURISDICTION
    if tenant is not None and not _is_served(context.jurisdiction, tenant.jurisdictions):
        yield Reason.CONTEXT_JURISDICTION
    if context.query_class is not None and context.query_class not in document.inference.query_class:
        yield Reason.CONTEXT_QUERY_CLASS
    if tenant is not None and tenant.query_classes is not None and context.query_class not in tenant.query_classes:
        yield Reason.CONTEXT_QUERY_CLASS


def _is_served(place: str | None, served: Iterable[str] | None) -> bool:
    """Whether a place lies in those that are served; None: everywhere. An unknown place lies in none of some."""
    if served is None:
        return True
    places = sorted(served)
    if place is None or not places:  # to `covers`, no place at all would mean no restriction
        return False
    try:
        return covers(places, check_jurisdiction(place))
    except FormatError:
        return False


def _fault(name: str, policy: Policy, seal: Digest, certificates: Mapping[str, SkillCertificate]) -> Reason | None:
    """What is wrong with the certificate of a skill, measured by what the policy asks now."""
    certificate, skill = certificates.get(name), policy.document.skill.get(name)
    if certificate is None or skill is None:
        return Reason.CONTEXT_CERTIFICATE_MISSING
    if (certificate.skill, certificate.seal, certificate.policy) != (name, seal, policy.digest):
        return Reason.CONTEXT_CERTIFICATE_STALE
    enough = certificate.satisfied and certificate.share_ppm >= share_min_ppm(skill)
    return None if enough else Reason.CONTEXT_CERTIFICATE_INSUFFICIENT
