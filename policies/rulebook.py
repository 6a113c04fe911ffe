"""What a policy says of verdicts, for one tenant, laid out so that nothing has to be looked up while text waits."""

from __future__ import annotations

from dataclasses import dataclass, replace

from licet.ledger.records import Mode
from licet.policies.policy import Policy
from licet.policies.schema import Band, Limits


@dataclass(frozen=True, slots=True)
class Rulebook:
    """Made once for each policy and tenant; `decide` takes it."""

    mode: Mode
    attribute: bool
    user_text_exempt: bool
    common_sources_min: int
    """0: no text is common."""
    limits: Limits
    heightened: Limits
    tainted_heighten: float
    tainted_refuse: float
    surface: str
    """The name of the band at the top."""

    @classmethod
    def of(cls, policy: Policy, tenant: str | None = None) -> Rulebook:
        """The rules for a tenant; one that the policy does not list is under its general rules.

        Whether such a tenant is served at all is `contract.py`'s to say.
        """
        inference = policy.document.inference
        own = inference.tenant.get(tenant) if tenant is not None else None
        return cls(
            own.mode if own is not None and own.mode is not None else inference.mode,
            inference.attribute,
            inference.user_text_exempt,
            inference.common_sources_min,
            inference.limits,
            inference.heightened,
            inference.tainted_heighten,
            inference.tainted_refuse,
            _surface_of(policy),
        )

    def in_mode(self, mode: Mode) -> Rulebook:
        """The same rules, enforced as far as another mode does."""
        return replace(self, mode=mode)


def _surface_of(policy: Policy) -> str:
    """The band whose share of the depth reaches highest; without shares, the one that the document names first."""

    def top(band: Band) -> float:
        return band.share[1] if band.share is not None else 0.0

    return max(policy.document.band, key=top).name
