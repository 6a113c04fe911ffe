"""What tests of policies need signed: sources, statements, envelopes, examples. Keys follow from names."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import cache
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from licet.ledger.note import SigningKey
from licet.ledger.records import ClaimedMs, Digest, Licence, LicenceKind, Recall, SourceState
from licet.policies.attestation import (
    Attestation,
    Generator,
    Statement,
    Subject,
    open_envelope,
    sign_statement,
)
from licet.policies.example import Example, Registration, Standing
from licet.policies.provenance import Custody, Labels, Provenance
from licet.policies.rights import Revocation

SOURCE = "ada"
AUTHORITY = "publisher"
REGISTRY = "example.org/registry"
CONTENT = b"The text of an example.\n"
NOW_MS = 1_800_000_000_000
"""2027-01-15T08:00:00Z"""
DAY_MS = 86_400_000
PROVENANCE = Provenance((Custody("ada", "written", NOW_MS - 9 * DAY_MS),), Labels("ada", 1.0, 0.95))


def digest(content: bytes | str) -> Digest:
    return Digest(hashlib.sha256(content.encode() if isinstance(content, str) else content).digest())


@cache
def key(name: str = SOURCE) -> SigningKey:
    """The key of a source; another name gives another key under that name."""
    seed = hashlib.sha256(b"licet/tests/" + name.encode()).digest()
    return SigningKey(name, Ed25519PrivateKey.from_private_bytes(seed))


def registration(
    source: str = SOURCE,
    *,
    keys: tuple[SigningKey, ...] | None = None,
    authority: str = AUTHORITY,
    state: SourceState = SourceState.ACTIVE,
) -> Registration:
    return Registration(source, tuple(str(one.verifier) for one in keys or (key(source),)), authority, state)


def standing(
    *sources: Registration | str,
    at_ms: int = NOW_MS,
    revocations: tuple[Revocation, ...] = (),
    upstream: tuple[bytes, ...] = (),
    registry: str = REGISTRY,
    size: int = 7,
) -> Standing:
    """What the registry said; without sources, that the default source is registered and active."""
    known = tuple(registration(one) if isinstance(one, str) else one for one in sources or (SOURCE,))
    return Standing(registry, size, at_ms, known, revocations, upstream)


def revocation(envelope: bytes, effective_ms: int = NOW_MS - DAY_MS, reason: str = "withdrawn") -> Revocation:
    return Revocation(Digest(hashlib.sha256(envelope).digest()), effective_ms, reason)


def licence(kind: LicenceKind | str = LicenceKind.OPEN, **changes: Any) -> Licence:
    """Terms of a kind; by default an open licence, Apache-2.0, that may be said back, without an end.

    A time-limited licence ends in 30 days. A change is any field of `Licence`.
    """
    kind = LicenceKind(kind)
    ends = ClaimedMs(NOW_MS + 30 * DAY_MS) if kind is LicenceKind.TIME_LIMITED else None
    spdx = "Apache-2.0" if kind is LicenceKind.OPEN else None
    return replace(Licence(kind, spdx, None, None, ends, (), (), Recall.VERBATIM, ()), **changes)


def statement(source: str = SOURCE, content: bytes | str = CONTENT, **changes: Any) -> Statement:
    """A source's statement about some content. A change is any field of `Statement`, or of `Licence`, or `kind`."""
    terms = {name: changes.pop(name) for name in list(changes) if name in Licence.__dataclass_fields__}
    terms_given = changes.pop("licence", None)
    stated = replace(terms_given, **terms) if terms_given is not None else licence(**terms)
    changes.setdefault("subjects", (Subject("text", digest(content)),) if changes.get("manifest") is None else ())
    if stated.kind is LicenceKind.SYNTHETIC:
        changes.setdefault("generator", Generator("example-generator", "1.0"))
    return Statement(source, stated, **{"provenance": PROVENANCE, "issued_ms": NOW_MS - 8 * DAY_MS, **changes})


def envelope(said: Statement | None = None, *, by: SigningKey | None = None, **changes: Any) -> bytes:
    """A statement (or one with these changes) signed by its source, or by another key."""
    said = said if said is not None else statement(**changes)
    return sign_statement(said, by or key(said.source))


def attestation(said: Statement | None = None, **changes: Any) -> Attestation:
    """The same, verified."""
    said = said if said is not None else statement(**changes)
    return open_envelope(envelope(said), [registration(said.source)])


def example(**changes: Any) -> Example:
    """An example with all that it needs, about `CONTENT`, first-hand. A change is any field of `Example`.

    Its entropy band, scope and authority class (`ENTROPY_BAND`, `SCOPE`, `AUTHORITY`) are those of `policy_text`.
    """
    changes.setdefault("envelope", _default_envelope())
    defaults: dict[str, Any] = {
        "content": digest(CONTENT),
        "content_bytes": len(CONTENT),
        "membership": None,
        "standing": standing(),
        "entropy_band": ENTROPY_BAND,
        "bits_per_byte": BITS_PER_BYTE,
        "slope": 0,
        "scope": (SCOPE,),
        "provenance": PROVENANCE,
        "skills": (),
        "fields": (),
    }
    return Example(**{**defaults, **changes})


@cache
def _default_envelope() -> bytes:
    return envelope()


ENTROPY_BAND = "medium"
BITS_PER_BYTE = 1.5
SCOPE = "general"


def policy_text(name: str = "tests", *, tail: str = "") -> str:
    """A policy that admits `example()` fully at its entropy band; `tail` is more TOML."""
    kinds = "\n".join(f'[licence.{kind.value}]\nceiling = {{ "*" = 1.0 }}' for kind in LicenceKind)
    return _POLICY.format(name=name, kinds=kinds) + tail


_POLICY = """
licet = 1
name = "{name}"
version = "1"
scopes = ["general"]

[[band]]
name = "surface"
share = [0.85, 1.0]

[[band]]
name = "behavioral"
share = [0.2, 0.85]

[[band]]
name = "foundational"
share = [0.0, 0.2]

[[entropy]]
name = "low"
below = 1.0
ceiling = {{ "*" = 1.0 }}

[[entropy]]
name = "medium"
below = 3.0
ceiling = {{ "*" = 1.0 }}

[[entropy]]
name = "high"
ceiling = {{ surface = 1.0, "*" = 0.0 }}

[slope]
ceilings = [{{ "*" = 1.0 }}, {{ "*" = 0.6 }}, {{ surface = 0.4, "*" = 0.0 }}]

[authority.publisher]
ceiling = {{ "*" = 1.0 }}
rights = []
skills = ["*"]

{kinds}
"""
