"""What must hold before any policy is asked how deep: each function gives the reasons why an example is rejected."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from licet.ledger.records import SourceState
from licet.policies import slope
from licet.policies.attestation import Attestation
from licet.policies.example import Example, Standing
from licet.policies.manifest import holds
from licet.policies.policy import Policy
from licet.policies.reasons import Reason, Refused
from licet.policies.rights import LicenceState, revoked_from, state_of


class ExampleClass(NamedTuple):
    """All of an example that its admission depends on, but for the content: what is the same for thousands of them."""

    envelope: bytes | None
    standing: Standing
    entropy_band: str | None
    """The one that it claims."""
    measured_bands: tuple[str, ...]
    """Those that its measurement gives, one for each policy; none without a measurement."""
    slope: int | None
    scope: tuple[str, ...]
    has_provenance: bool
    quality: float | None
    skills: tuple[str, ...]
    fields: tuple[tuple[str, str], ...]


def of_content(example: Example, attestation: Attestation) -> list[Reason]:
    """Whether the attestation speaks of this content."""
    manifest, membership = attestation.statement.manifest, example.membership
    if manifest is None or membership is None:
        return [Reason.CONTENT_OUT_OF_SCOPE]
    return [] if holds(membership, manifest, example.content, example.content_bytes) else [Reason.CONTENT_PROOF_INVALID]


def of_standing(standing: Standing, attestation: Attestation, policies: Sequence[Policy]) -> list[Reason]:
    """The source and the licence as the registry has them, now."""
    found = []
    registration = standing.registration(attestation.statement.source)
    if registration is None:
        return [Reason.SOURCE_UNREGISTERED]
    if registration.state is not SourceState.ACTIVE:
        found.append(Reason.SOURCE_SUSPENDED)
    found += _state_problems(attestation, standing)
    for policy in policies:
        exclusion = policy.document.exclusion
        if registration.source in exclusion.sources or attestation.id.hex() in exclusion.attestations:
            found.append(Reason.CONTENT_EXCLUDED)
    return found


_STATE_REASONS = {
    LicenceState.PENDING: Reason.ATTESTATION_NOT_YET_VALID,
    LicenceState.EXPIRED: Reason.ATTESTATION_EXPIRED,
    LicenceState.REVOKED: Reason.ATTESTATION_REVOKED,
    LicenceState.EXCLUDED: Reason.ATTESTATION_EXCLUDES,
}


def _state_problems(attestation: Attestation, standing: Standing) -> list[Reason]:
    revoked = revoked_from(standing.revocations, attestation.id)
    state = state_of(attestation.statement.licence, revoked, standing.at_ms)
    return [_STATE_REASONS[state]] if state in _STATE_REASONS else []


def of_metadata(key: ExampleClass, policies: Sequence[Policy]) -> list[Reason]:
    """What every example must say of itself."""
    found = []
    if key.entropy_band is None:
        found.append(Reason.METADATA_ENTROPY_BAND_MISSING)
    if not key.measured_bands:
        found.append(Reason.METADATA_ENTROPY_MISSING)
    elif key.entropy_band is not None and key.entropy_band not in key.measured_bands:
        found.append(Reason.METADATA_ENTROPY_CONTRADICTS)
    if key.slope is None:
        found.append(Reason.METADATA_SLOPE_MISSING)
    if not key.has_provenance:
        found.append(Reason.METADATA_PROVENANCE_MISSING)
    if not key.scope:
        found.append(Reason.METADATA_SCOPE_MISSING)
    held = {name for name, _ in key.fields}
    if any(not policy.document.require <= held for policy in policies):
        found.append(Reason.METADATA_FIELD_MISSING)
    return found


def of_slope(key: ExampleClass, attestation: Attestation, policies: Sequence[Policy]) -> list[Reason]:
    """The slope that is claimed is at least the one that the chain of attestations gives."""
    chain_max = min(policy.document.slope.chain_max for policy in policies)
    try:
        computed = slope.of_chain(attestation, key.standing, chain_max=chain_max)
    except Refused as refused:
        return [refused.reason]
    return [Reason.SLOPE_CONTRADICTS] if key.slope is not None and key.slope < computed else []
