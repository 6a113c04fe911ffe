"""Every reason that an admission or a verdict may give: a stable code, and what it means to the person who reads it.

A code never changes its meaning and is never reused; a new meaning is a new code. `policies/README.md` lists them, and
a test holds that list against this file.
"""

from __future__ import annotations

from enum import StrEnum

from licet.ledger.errors import Finding


class Reason(StrEnum):
    """A stable code. `meaning` says it in words."""

    meaning: str

    def __new__(cls, code: str, meaning: str = "") -> Reason:
        member = str.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member

    __hash__ = str.__hash__  # an enumeration's own is ten times slower, and verdicts are made of sets of these

    # -- the statement itself
    ATTESTATION_MISSING = "attestation.missing", "Nobody attested that this content may be used."
    ATTESTATION_MALFORMED = "attestation.malformed", "The attestation is not a statement that can be read."
    ATTESTATION_UNSIGNED = "attestation.unsigned", "The attestation carries no signature."
    ATTESTATION_WRONG_KEY = "attestation.wrong-key", "The attestation is not signed by its source's registered key."
    ATTESTATION_TAMPERED = "attestation.tampered", "The attestation was altered after it was signed."
    ATTESTATION_TOO_LARGE = "attestation.too-large", "The attestation is larger than any statement needs to be."
    ATTESTATION_NOT_YET_VALID = "attestation.not-yet-valid", "The licence has not begun."
    ATTESTATION_EXPIRED = "attestation.expired", "The licence has ended."
    ATTESTATION_REVOKED = "attestation.revoked", "The licence was revoked."
    ATTESTATION_EXCLUDES = "attestation.excludes", "The source forbids the use of this content."
    # -- whom and what it is about
    SOURCE_UNREGISTERED = "source.unregistered", "The source is not registered."
    SOURCE_SUSPENDED = "source.suspended", "The source is suspended."
    SOURCE_AUTHORITY_UNKNOWN = "source.authority-unknown", "The policy does not know the source's authority class."
    CONTENT_OUT_OF_SCOPE = "content.out-of-scope", "The attestation is for other content."
    CONTENT_PROOF_INVALID = "content.proof-invalid", "The proof that the content is part of the attested set fails."
    CONTENT_EXCLUDED = "content.excluded", "The content is on an exclusion list."
    # -- what stands beside the content
    METADATA_ENTROPY_BAND_MISSING = "metadata.entropy-band-missing", "The example does not say its entropy band."
    METADATA_ENTROPY_MISSING = "metadata.entropy-missing", "The example does not say its measured bits per byte."
    METADATA_ENTROPY_CONTRADICTS = "metadata.entropy-contradicts", "The entropy band is not that of the bits per byte."
    METADATA_SLOPE_MISSING = "metadata.slope-missing", "The example does not say its slope position."
    METADATA_PROVENANCE_MISSING = "metadata.provenance-missing", "The example has no provenance record."
    METADATA_SCOPE_MISSING = "metadata.scope-missing", "The example names no policy scope."
    METADATA_FIELD_MISSING = "metadata.field-missing", "A field that this policy asks for is not there."
    METADATA_MALFORMED = "metadata.malformed", "The example is not in the wire format."
    # -- what the policy says of it
    SCOPE_NOT_COVERED = "scope.not-covered", "The policy does not govern the scope that the example names."
    LICENCE_KIND_NOT_ADMITTED = "licence.kind-not-admitted", "The policy admits no licence of this kind."
    LICENCE_TERM_MISSING = "licence.term-missing", "The licence lacks a term that the policy asks for."
    LICENCE_SPDX_UNKNOWN = "licence.spdx-unknown", "The licence expression is not one that SPDX knows."
    JURISDICTION_NOT_COVERED = "jurisdiction.not-covered", "The licence does not cover a jurisdiction it is needed in."
    SKILL_UNKNOWN = "skill.unknown", "The policy does not know the skill."
    SKILL_NOT_CREDENTIALED = "skill.not-credentialed", "The source has no right to teach the skill."
    SLOPE_CONTRADICTS = "slope.contradicts", "The slope is smaller than the chain of attestations gives."
    SLOPE_TOO_LONG = "slope.too-long", "The chain back to first-hand content is longer than the policy allows."
    SLOPE_CYCLE = "slope.cycle", "The chain of attestations leads back to itself."
    SLOPE_UPSTREAM_MISSING = "slope.upstream-missing", "An attestation that this one derives from is not there."
    SLOPE_UPSTREAM_INVALID = "slope.upstream-invalid", "An attestation that this one derives from does not hold."
    RULE_REJECTS = "rule.rejects", "A rule of the policy rejects the example."
    PROFILE_RESTRICTED = "profile.restricted", "The example may teach less deeply than its entropy band alone allows."
    PROFILE_EMPTY = "profile.empty", "The example may be recorded and may teach nothing."
    # -- what may be said
    MATCH_NONE = "match.none", "The output matches nothing that was taught."
    MATCH_UNRECORDED = "match.unrecorded", "What the output matches was never taught: coincidence."
    MATCH_PERMITTED = "match.permitted", "An active licence allows this text to be said."
    MATCH_ATTRIBUTED = "match.attributed", "The text may be said if its source is named."
    MATCH_QUOTATION = "match.quotation", "The text is short enough to be quoted with its source."
    MATCH_BEYOND_QUOTATION = "match.beyond-quotation", "More of the text is said than may be quoted."
    MATCH_USER_SUPPLIED = "match.user-supplied", "The user put the text into the prompt."
    MATCH_COMMON = "match.common", "The text is common to many sources."
    LICENCE_PENDING = "licence.pending", "The licence of the matched text has not begun."
    LICENCE_EXPIRED = "licence.expired", "The licence of the matched text has ended."
    LICENCE_REVOKED = "licence.revoked", "The licence of the matched text was revoked."
    LICENCE_EXCLUDED = "licence.excluded", "The matched text is excluded from use."
    DEPTH_EXCEEDED = "depth.exceeded", "The text is recorded deeper than its licence allows."
    TAINT_HEIGHTENED = "taint.heightened", "Blocks shaped by ended licences are active: limits are lower."
    TAINT_EXCEEDED = "taint.exceeded", "Blocks shaped by ended licences are too active."
    EVIDENCE_INCOMPLETE = "evidence.incomplete", "The evidence cannot be judged, so nothing is said on its ground."
    CONTEXT_TENANT_UNKNOWN = "context.tenant-unknown", "The policy does not know the tenant."
    CONTEXT_JURISDICTION = "context.jurisdiction", "The request comes from a jurisdiction that is not served."
    CONTEXT_QUERY_CLASS = "context.query-class", "Queries of this class are not served here."
    CONTEXT_CERTIFICATE_MISSING = "context.certificate-missing", "The model has no certificate for a required skill."
    CONTEXT_CERTIFICATE_STALE = "context.certificate-stale", "The certificate is of another model or another policy."
    CONTEXT_CERTIFICATE_INSUFFICIENT = (
        "context.certificate-insufficient",
        "Too little of what shaped the skill's bands was attested and in policy.",
    )
    CONTEXT_ADMITTED = "context.admitted", "The request's context meets the invocation contract."


class Refused(Finding):
    """Something that was offered does not hold, and this is the code of why."""

    def __init__(self, reason: Reason, message: str = "", *, remedy: str = "") -> None:
        super().__init__(message or reason.meaning, remedy=remedy)
        self.reason = reason
