"""What `regulated` says."""

from __future__ import annotations

from licet.policies.provenance import Labels, Provenance
from tests.policies.signed import PROVENANCE
from tests.policies.tables.rows import LATER, common, full, less, no

ORDINARY = {
    "policy": "regulated",
    "authority": "accredited-institution",
    "kind": "public-domain",
    "spdx": None,
    "scope": ("guidelines",),
    "entropy_band": "ordinary",
    "bits_per_byte": 2.0,
    "fields": {"domain": "general", "jurisdiction": "EU", "reviewed": "2026-11"},
    "required": ("domain", "jurisdiction", "reviewed"),
}
MEDICAL = {"domain": "medical", "consent": "given"}
LEGAL = {"domain": "legal", "in-force": "yes"}
FINANCE = {"domain": "finance", "as-of": "2026-11-30"}
CASE = {"scope": ("case-records",)}
ADVICE = {"scope": ("advice",)}
BOUGHT = {
    "kind": "commercial",
    "terms_uri": "https://example.org/terms",
    "valid_until_ms": LATER,
    "jurisdictions": ("EU",),
}


def skill(name: str) -> dict[str, tuple[str, ...]]:
    return {"skills": (name,), "granted": (name,)}


ROWS = [
    full("guideline", (15, 15, 15)),
    full("regulator", (15, 15, 15), authority="regulator"),
    less("practitioner", (15, 9, 3), authority="licensed-practitioner"),
    less("operator", (15, 9, 0), authority="operator"),
    less("vendor", (6, 0, 0), authority="vendor"),
    less("public", (3, 0, 0), authority="public"),
    full("medical", (15, 15, 15), fields=MEDICAL),
    full("medical-about-nobody", (15, 15, 15), fields={"domain": "medical", "consent": "about-nobody"}),
    no("medical-without-consent", "rule.rejects", fields={"domain": "medical"}),
    no("medical-consent-withdrawn", "rule.rejects", fields={"domain": "medical", "consent": "withdrawn"}),
    no("consent-unclear-anywhere", "rule.rejects", fields={"consent": "unclear"}),
    full("case", (15, 15, 15), **CASE, fields={"consent": "given", "de-identified": "yes"}),
    no("case-without-either", "rule.rejects", **CASE),
    no("case-without-consent", "rule.rejects", **CASE, fields={"de-identified": "yes"}),
    no("case-with-names", "rule.rejects", **CASE, fields={"consent": "given"}),
    no("case-with-some-names", "rule.rejects", **CASE, fields={"consent": "given", "de-identified": "partly"}),
    full("law", (15, 15, 15), fields=LEGAL),
    less("law-undated", (6, 0, 0), fields={"domain": "legal"}),
    no("law-repealed", "rule.rejects", fields={"domain": "legal", "in-force": "no"}),
    less("law-of-elsewhere", (6, 0, 0), fields={**LEGAL, "jurisdiction": "US"}),
    full("medicine-of-elsewhere", (15, 15, 15), fields={**MEDICAL, "jurisdiction": "US"}),
    full("finance", (15, 15, 15), fields=FINANCE),
    no("finance-undated", "rule.rejects", fields={"domain": "finance"}),
    no("finance-by-a-vendor", "rule.rejects", authority="vendor", fields=FINANCE),
    less("medicine-by-a-vendor", (6, 0, 0), authority="vendor", fields=MEDICAL),
    no("never-reviewed", "rule.rejects", fields={"reviewed": "never"}),
    full("advice", (15, 15, 15), **ADVICE, quality=0.95),
    less("advice-middling", (9, 3, 0), **ADVICE, quality=0.8),
    no("advice-wrong", "rule.rejects", **ADVICE, quality=0.6),
    no("advice-unlabelled", "rule.rejects", **ADVICE, quality=None),
    full("guideline-unlabelled", (15, 15, 15), quality=None),
    full("medical-advice-well-labelled", (15, 15, 15), **ADVICE, fields=MEDICAL, quality=0.9),
    no("medical-advice-middling", "rule.rejects", **ADVICE, fields=MEDICAL, quality=0.89),
    no(
        "labels-attested-worse",
        "rule.rejects",
        **ADVICE,
        provenance=PROVENANCE,
        attested=Provenance(PROVENANCE.custody, Labels("ada", 1.0, 0.3)),
    ),
    less("open", (15, 12, 9), kind="open-licence", spdx="CC-BY-4.0"),
    no("open-without-spdx", "licence.term-missing", kind="open-licence"),
    no("nobody-read", "rule.rejects", kind="open-licence", spdx="MIT"),
    less("commercial", (15, 12, 3), **BOUGHT),
    no("commercial-without-custody", "licence.term-missing", **BOUGHT, attested=Provenance()),
    no("commercial-without-countries", "licence.term-missing", **{**BOUGHT, "jurisdictions": ()}),
    less("time-limited", (15, 0, 0), kind="time-limited", valid_until_ms=LATER),
    less("patient", (1, 0, 0), authority="public", kind="user-submitted", terms_uri="https://example.org/consent"),
    no("synthetic", "licence.kind-not-admitted", kind="synthetic", slope=1),
    full("neighbours", (15, 15, 15), jurisdictions=("EEA",)),
    no("one-member-state", "jurisdiction.not-covered", jurisdictions=("DE",)),
    no("elsewhere", "jurisdiction.not-covered", jurisdictions=("US",)),
    full("skill-medical", (15, 15, 15), fields=MEDICAL, **skill("medical-advice")),
    less(
        "skill-medical-by-a-practitioner",
        (15, 9, 3),
        authority="licensed-practitioner",
        fields=MEDICAL,
        **skill("medical-advice"),
    ),
    less("skill-financial", (15, 12, 0), fields=FINANCE, **skill("financial-advice")),
    no(
        "skill-financial-by-a-practitioner",
        "skill.not-credentialed",
        authority="licensed-practitioner",
        fields=FINANCE,
        **skill("financial-advice"),
    ),
    no(
        "skill-medical-by-a-vendor",
        "skill.not-credentialed",
        authority="vendor",
        fields=MEDICAL,
        **skill("medical-advice"),
    ),
    no(
        "skill-legal-by-the-public", "skill.not-credentialed", authority="public", fields=LEGAL, **skill("legal-advice")
    ),
    less("derived", (9, 3, 0), slope=1),
    no("derived-twice", "slope.too-long", slope=2),
    full("predictable", (9, 3, 0), entropy_band="predictable", bits_per_byte=0.2),
    full("dense", (3, 0, 0), entropy_band="dense", bits_per_byte=4.5),
    *common(ORDINARY, "legal-advice"),
]
