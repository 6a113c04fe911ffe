"""A row of a table: an example by what is changed in the table's ordinary one, and the admission that it must get."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from licet.ledger.records import ClaimedMs, Determination, Licence, Recall, SourceState
from licet.policies.example import Example
from licet.policies.policy import Policy
from licet.policies.provenance import Labels, Provenance
from tests.policies import signed

LATER = ClaimedMs(signed.NOW_MS + 365 * signed.DAY_MS)
EARLIER = ClaimedMs(signed.NOW_MS - 365 * signed.DAY_MS)
TERMS = frozenset(Licence.__dataclass_fields__) - {"skills"}

Levels = tuple[int, ...]
"""Of the surface, behavioral and foundational band and, where there is one, of the reserved band."""


@dataclass(frozen=True)
class Row:
    """One line of a table."""

    id: str
    determination: Determination
    reasons: tuple[str, ...]
    levels: Levels
    changes: Mapping[str, Any] = field(default_factory=dict)


def full(name: str, levels: Levels, **changes: Any) -> Row:
    """Admitted as deep as the entropy band alone allows."""
    return Row(name, Determination.ADMITTED, (), levels, changes)


def less(name: str, levels: Levels, **changes: Any) -> Row:
    """Admitted, and restricted by something else than the entropy band."""
    return Row(name, Determination.MODIFIED, ("profile.restricted",), levels, changes)


def empty(name: str, **changes: Any) -> Row:
    """Recorded, and taught nowhere."""
    return Row(name, Determination.MODIFIED, ("profile.empty",), (0, 0, 0, 0), changes)


def no(name: str, *reasons: str, **changes: Any) -> Row:
    """Rejected."""
    return Row(name, Determination.REJECTED, tuple(sorted(reasons)), (0, 0, 0, 0), changes)


def common(ordinary: Mapping[str, Any], skill: str) -> list[Row]:
    """What every policy rejects, whatever else it says."""
    fields = ordinary["fields"]
    return [
        no("no-attestation", "attestation.missing", envelope=None),
        no("wrong-key", "attestation.wrong-key", by="mallory"),
        no("unregistered", "source.unregistered", registered=False),
        no("suspended", "source.suspended", state=SourceState.SUSPENDED),
        no("expired", "attestation.expired", valid_from_ms=EARLIER, valid_until_ms=ClaimedMs(signed.NOW_MS)),
        no("not-yet-valid", "attestation.not-yet-valid", valid_from_ms=ClaimedMs(signed.NOW_MS + 1)),
        no("revoked", "attestation.revoked", revoked_ms=signed.NOW_MS),
        no(
            "revoked-and-suspended",
            "attestation.revoked",
            "source.suspended",
            revoked_ms=0,
            state=SourceState.SUSPENDED,
        ),
        no("other-content", "content.out-of-scope", content=signed.digest(b"other")),
        no(
            "source-excludes",
            "attestation.excludes",
            kind="exclusion",
            valid_from_ms=None,
            valid_until_ms=None,
            bands=(),
        ),
        no("content-excluded", "content.excluded", excluded="content"),
        no("source-excluded", "content.excluded", excluded="sources"),
        no("attestation-excluded", "content.excluded", excluded="attestations"),
        no("authority-unknown", "source.authority-unknown", authority="passer-by"),
        no("scope-elsewhere", "scope.not-covered", scope=("elsewhere",)),
        no("spdx-unknown", "licence.spdx-unknown", "rule.rejects", spdx="Own-Licence-1.0"),
        no("jurisdiction-too-small", "jurisdiction.not-covered", jurisdictions=("CH",)),
        no("jurisdiction-a-part", "jurisdiction.not-covered", jurisdictions=("FR", "US-CA")),
        no("no-entropy-band", "metadata.entropy-band-missing", entropy_band=None),
        no("no-entropy", "metadata.entropy-missing", bits_per_byte=None),
        no("entropy-contradicts", "metadata.entropy-contradicts", bits_per_byte=7.5),
        no("entropy-band-unknown", "metadata.entropy-contradicts", entropy_band="lukewarm"),
        no("no-slope", "metadata.slope-missing", slope=None),
        no("no-provenance", "metadata.provenance-missing", provenance=None),
        no("no-scope", "metadata.scope-missing", scope=()),
        *(
            no(f"no-{name}", "metadata.field-missing", fields={name: None})
            for name in fields
            if name in ordinary["required"]
        ),
        no(
            "nothing-said",
            "metadata.entropy-band-missing",
            "metadata.entropy-missing",
            "metadata.field-missing",
            "metadata.provenance-missing",
            "metadata.scope-missing",
            "metadata.slope-missing",
            entropy_band=None,
            bits_per_byte=None,
            slope=None,
            provenance=None,
            scope=(),
            fields=dict.fromkeys(fields),
        ),
        no("slope-too-long", "slope.too-long", slope=5),
        no("skill-unknown", "skill.unknown", skills=("juggling",), granted=("juggling",)),
        no("skill-not-in-licence", "skill.not-credentialed", skills=(skill,)),
    ]


def example(ordinary: Mapping[str, Any], row: Row) -> tuple[Example, bytes | None]:
    """The example of a row, really signed, and its envelope."""
    merged = {**ordinary, **row.changes}
    fields = {**ordinary["fields"], **row.changes.get("fields", {})}
    terms: dict[str, Any] = {name: merged[name] for name in TERMS if name in merged}
    terms["recall"] = Recall(merged.get("recall", "verbatim"))
    terms["skills"] = merged.get("granted", ())
    said = {name: merged[name] for name in ("generator",) if name in merged}
    said["provenance"] = attested = merged.get("attested", _labelled(merged))
    upstream = tuple(signed.envelope(content=text, **_first_hand(terms)) for text in merged.get("upstream", ()))
    said["upstream"] = tuple(signed.digest(one) for one in upstream)
    envelope = signed.envelope(
        signed.statement(**{**terms, **said}), by=signed.key(merged["by"]) if "by" in merged else None
    )
    revocations = (signed.revocation(envelope, merged["revoked_ms"]),) if "revoked_ms" in merged else ()
    known = signed.registration(authority=merged["authority"], state=merged.get("state", SourceState.ACTIVE))
    sources = (known,) if merged.get("registered", True) else (signed.registration("somebody-else"),)
    return signed.example(
        **{
            name: merged[name]
            for name in ("entropy_band", "bits_per_byte", "slope", "scope", "content")
            if name in merged
        },
        envelope=merged.get("envelope", envelope),
        standing=signed.standing(
            *sources, at_ms=merged.get("at_ms", signed.NOW_MS), revocations=revocations, upstream=upstream
        ),
        provenance=merged.get("provenance", attested),
        skills=merged.get("skills", ()),
        fields=tuple(sorted((name, value) for name, value in fields.items() if value is not None)),
    ), envelope


def policy(ordinary: Mapping[str, Any], row: Row, envelope: bytes | None) -> Policy:
    """The default policy; where the row says so, with something on its exclusion list."""
    base = Policy.read_default(ordinary["policy"])
    kind = row.changes.get("excluded")
    if kind is None:
        return base
    names = {"sources": signed.SOURCE, "content": signed.digest(signed.CONTENT).hex()}
    listed = names.get(kind) or signed.digest(envelope or b"").hex()
    assert base.text.count(f"\n{kind} = []\n") == 1
    return Policy.parse(base.text.replace(f"\n{kind} = []\n", f'\n{kind} = ["{listed}"]\n'))


def _labelled(merged: Mapping[str, Any]) -> Provenance:
    if "quality" not in merged:
        return signed.PROVENANCE
    quality = merged["quality"]
    return replace(signed.PROVENANCE, labels=None if quality is None else Labels("ada", 1.0, quality))


def _first_hand(terms: Mapping[str, Any]) -> dict[str, Any]:
    return {**terms, "kind": "public-domain"}
