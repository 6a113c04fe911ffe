"""Unlearning orders: a signed wish that what was taught under a revoked attestation be unlearned, and how far.

    1. the envelope is signed with the key of whom it names: the attestation's own source, the operator, or an active
       source whose class has the right to revoke or to review under the active policy
    2. what was signed is an order in its one spelling, made for this registry and valid now
    3. its attestation is recorded here, and revoked now

An order says at most how strongly: negative weights for bands or for blocks. Which blocks the attestation really
reached, and so may be unlearned in, is for the trainer to find in the ledger. It also says how much the loss on
held-out text may rise before unlearning is given up.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from licet.ledger.errors import Finding, FormatError, LicetError
from licet.ledger.note import SigningKey
from licet.ledger.records import ClaimedMs, Digest
from licet.policies import dsse, strict_json
from licet.policies.acts import NotEntitledError, check_reason, source_key
from licet.policies.registry import Registry
from licet.policies.rights import LicenceState
from licet.policies.strict_json import Fields, check_text, sha256_of
from licet.policies.times import from_rfc3339, to_rfc3339

PAYLOAD_TYPE = "application/vnd.licet.unlearning-order.v1+json"
VERSION = 1
ORDER_BYTES_MAX = 1 << 20
WEIGHTS_MAX = 4096
NAME_CHARS_MAX = 256
RIGHTS = frozenset({"revoke", "review"})
"""Either lets a class of sources order that somebody else's attestation be unlearned."""
_HOW = "Sign a new one with `sign_order`."


class UnlearningRefused(Finding):
    """An order that does not hold."""


class Scope(StrEnum):
    """What the names in an order's weights are."""

    BANDS = "bands"
    BLOCKS = "blocks"


@dataclass(frozen=True, slots=True)
class OrderTerms:
    """What is signed. `weights` are from -1 to 0, sorted by name; of bands, `*` stands for those not named."""

    registry: str
    attestation: Digest
    by: str
    scope: Scope
    weights: tuple[tuple[str, float], ...]
    damage_max: float
    """How much the held-out loss may rise, as a part of what it was."""
    reason: str
    valid_from_ms: ClaimedMs
    valid_until_ms: ClaimedMs

    def __post_init__(self) -> None:
        if len(self.attestation) != 32:
            raise FormatError("An order names its attestation by a SHA-256 digest.", remedy=_HOW)
        _check_weights(self.weights)
        if not _within(self.damage_max, 0, 1):
            raise FormatError("The bound on the damage is no number from 0 to 1.", remedy="0.02 allows a rise of 2 %.")
        check_reason(self.reason)
        if not self.valid_from_ms < self.valid_until_ms:
            raise FormatError("The order ends before it begins.", remedy="Put validFrom before validUntil.")

    @property
    def statement(self) -> bytes:
        """The one spelling."""
        return strict_json.spell(
            {
                "attestation": self.attestation.hex(),
                "by": self.by,
                "damageMax": float(self.damage_max),
                "order": VERSION,
                "reason": self.reason,
                "registry": self.registry,
                "scope": self.scope.value,
                "validFrom": to_rfc3339(self.valid_from_ms),
                "validUntil": to_rfc3339(self.valid_until_ms),
                "weights": {name: float(weight) for name, weight in self.weights},
            }
        )


@dataclass(frozen=True, slots=True)
class Order:
    """An order that holds, as of one size of the registry and one moment."""

    id: Digest
    terms: OrderTerms
    rights: frozenset[str]
    """Those of whoever gave it, under the active policy: what a reserved block asks for must be among them."""
    registry_size: int
    at_ms: int

    @property
    def rule(self) -> str:
        """What a profile says decided its blocks, so that each event leads back to the order."""
        return f"unlearning.{self.id.hex()}"


def sign_order(terms: OrderTerms, key: SigningKey) -> bytes:
    """The envelope of an order. One that could not be read again is refused."""
    if _parse(terms.statement) != terms:
        raise FormatError("The order would not be read back as it is.", remedy="Sort its weights by name.")
    return dsse.sign(terms.statement, PAYLOAD_TYPE, key)


def open_order(envelope: bytes, registry: Registry, *, at_ms: int, attestation: Digest | None = None) -> Order:
    """The order in an envelope, if it holds now; with `attestation`, only one that is about this one."""
    read = dsse.read(envelope, bytes_max=ORDER_BYTES_MAX)
    if read.payload_type != PAYLOAD_TYPE:
        raise FormatError("This is no unlearning order: its envelope holds something else.", remedy=_HOW)
    by = _claimed_giver(read.payload)
    _check_signature(read, by, registry)
    terms = _parse(read.payload)
    if terms.registry != registry.origin:
        raise UnlearningRefused(
            f"The order was given for the registry {terms.registry!a}, not {registry.origin}.",
            remedy="Let it be signed for this one.",
        )
    if attestation is not None and terms.attestation != attestation:
        raise UnlearningRefused(
            f"The order is about the attestation {terms.attestation.hex()}, not {attestation.hex()}.",
            remedy="Use the order that was given for it.",
        )
    _check_validity(terms, at_ms)
    rights = _rights_of(by, terms.attestation, registry)
    _check_revoked(terms.attestation, registry, at_ms)
    return Order(order_id(read.payload), terms, rights, registry.size, at_ms)


def order_id(statement: bytes) -> Digest:
    """What an order is called, whoever signed it and however its envelope is spelled."""
    return Digest(hashlib.sha256(statement).digest())


# -- who gave it, and whether it counts


def _claimed_giver(payload: bytes) -> str:
    """Whom an order claims to be from. Nothing is verified: only to know with which key to do so."""
    return Fields(_json(payload), "order").required_text("by", chars_max=NAME_CHARS_MAX)


def _check_signature(envelope: dsse.Envelope, by: str, registry: Registry) -> None:
    """Only with the key of now: nobody can tell whether an order under an older one was signed before it was lost."""
    key = registry.operator_key if by == registry.origin else source_key(registry.source(by).key)
    if not any(envelope.is_signed_by(key, signature) for signature in envelope.signatures):
        raise UnlearningRefused(
            f"The order speaks for {by}, and is not signed with its key.",
            remedy=f"Let {by} sign it with the key that is registered now.",
        )


def _rights_of(by: str, attestation: Digest, registry: Registry) -> frozenset[str]:
    """The rights of whoever gave an order; `NotEntitledError` if it was not theirs to give."""
    owner = registry.attestation(attestation).attestation.statement.source
    if by == registry.origin:
        return frozenset()
    source = registry.source(by)
    if not source.is_active:
        raise NotEntitledError(f"{by} is suspended, and gives no orders.", remedy="Let the operator give it.")
    known = registry.adopted is not None
    authority = registry.policy().document.authority.get(source.registration.authority) if known else None
    rights: frozenset[str] = frozenset(authority.rights) if authority is not None else frozenset()
    if by != owner and not rights & RIGHTS:
        raise NotEntitledError(
            f"{by} may not order that an attestation of {owner} be unlearned.",
            remedy="Let its source or the operator do it, or give the authority class the right to revoke or review.",
        )
    return rights


def _check_revoked(attestation: Digest, registry: Registry, at_ms: int) -> None:
    state = registry.licence_state(attestation, at_ms)
    if state is not LicenceState.REVOKED:
        raise UnlearningRefused(
            f"The licence of {attestation.hex()} is {state.value}, and only what is revoked is unlearned.",
            remedy="Revoke it first: `licet revoke`; if that takes effect later, wait until then.",
        )


def _check_validity(terms: OrderTerms, at_ms: int) -> None:
    if not terms.valid_from_ms <= at_ms < terms.valid_until_ms:
        start, end = to_rfc3339(terms.valid_from_ms), to_rfc3339(terms.valid_until_ms)
        raise UnlearningRefused(f"The order holds from {start} until {end}, and not now.", remedy="Get a new one.")


# -- reading


def _parse(payload: bytes) -> OrderTerms:
    fields = Fields(_json(payload), "order")
    fields.required_whole("order", low=VERSION, high=VERSION)
    terms = OrderTerms(
        registry=fields.required_text("registry"),
        attestation=sha256_of(fields.required_text("attestation", chars_max=64), "order.attestation"),
        by=fields.required_text("by", chars_max=NAME_CHARS_MAX),
        scope=_scope(fields.required_text("scope")),
        weights=_weights(fields.any("weights", required=True)),
        damage_max=_number(fields.any("damageMax", required=True), "order.damageMax"),
        reason=_reason(fields.any("reason", required=True)),
        valid_from_ms=ClaimedMs(from_rfc3339(fields.required_text("validFrom"))),
        valid_until_ms=ClaimedMs(from_rfc3339(fields.required_text("validUntil"))),
    )
    fields.end()
    if terms.statement != payload:
        raise FormatError("The order is not in the one spelling in which it counts.", remedy=_HOW)
    return terms


def _json(payload: bytes) -> Any:
    return strict_json.parse(payload, bytes_max=ORDER_BYTES_MAX, what="The order")


def _scope(text: str) -> Scope:
    if text not in tuple(Scope):
        raise FormatError(f"order.scope is none of {', '.join(Scope)}.", remedy=_HOW)
    return Scope(text)


def _reason(value: Any) -> str:
    if not isinstance(value, str):
        raise FormatError("order.reason is not a text.", remedy=_HOW)
    return check_reason(value)


def _weights(value: Any) -> tuple[tuple[str, float], ...]:
    if not isinstance(value, dict):
        raise FormatError("order.weights is not an object.", remedy=_HOW)
    return tuple(sorted((name, _number(weight, "A weight of the order")) for name, weight in value.items()))


def _number(value: Any, what: str) -> float:
    if type(value) not in (int, float) or not _within(value, -1, 1):
        raise FormatError(f"{what} is no number from -1 to 1.", remedy=_HOW)
    return float(value)


def _check_weights(weights: tuple[tuple[str, float], ...]) -> None:
    names = [name for name, _ in weights]
    if not 0 < len(weights) <= WEIGHTS_MAX or len(set(names)) < len(names):
        raise FormatError(f"An order has weights for 1 to {WEIGHTS_MAX} bands or blocks, one each.", remedy=_HOW)
    for name, weight in weights:
        try:
            check_text(name, "The name of a band or block", chars_max=NAME_CHARS_MAX)
        except LicetError as error:
            raise FormatError(error.message, remedy=_HOW) from error
        if not _within(weight, -1, 0):
            raise FormatError(
                f"The weight of {name} is no number from -1 to 0.", remedy="Unlearning has negative weights only."
            )
    if not any(weight for _, weight in weights):
        raise FormatError("All weights of the order are zero.", remedy="Give one that is negative.")


def _within(value: float, low: float, high: float) -> bool:
    return type(value) in (int, float) and low <= value <= high  # NaN lies within nothing
