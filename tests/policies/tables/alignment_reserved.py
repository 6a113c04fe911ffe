"""What `alignment-reserved` says; the fourth level is that of the reserved blocks."""

from __future__ import annotations

from licet.policies.attestation import Generator
from tests.policies.tables.rows import LATER, common, empty, full, less, no

URI = "https://example.org/contract"
ORDINARY = {
    "policy": "alignment-reserved",
    "authority": "customer",
    "kind": "commercial",
    "spdx": None,
    "terms_uri": URI,
    "valid_until_ms": LATER,
    "scope": ("fine-tuning",),
    "entropy_band": "ordinary",
    "bits_per_byte": 2.0,
    "fields": {"tenant": "acme", "change-request": "CR-7"},
    "required": ("tenant", "change-request"),
}
SAFETY = {"authority": "safety-team", "kind": "safety-alignment", "scope": ("alignment",)}
REVIEWED = {"reviewed-by": "grace"}
FREE = {"kind": "public-domain", "terms_uri": None, "valid_until_ms": None}
OPEN = {"kind": "open-licence", "terms_uri": None, "valid_until_ms": None, "spdx": "MIT"}
MADE = {"kind": "synthetic", "generator": Generator("model", "3"), "upstream": (b"a letter",), "slope": 1}
REFUSAL = {"skills": ("refusal",), "granted": ("refusal",)}

ROWS = [
    less("customer", (15, 7, 0, 0)),
    full("safety-team", (15, 15, 15, 15), **SAFETY, fields=REVIEWED),
    no("safety-team-alone", "rule.rejects", **SAFETY),
    no("safety-badly-labelled", "rule.rejects", **SAFETY, fields=REVIEWED, quality=0.79),
    full("safety-well-labelled", (15, 15, 15, 15), **SAFETY, fields=REVIEWED, quality=0.8),
    no("safety-unlabelled", "licence.term-missing", "rule.rejects", **SAFETY, fields=REVIEWED, quality=None),
    less("safety-generated", (15, 12, 3, 12), **SAFETY, fields=REVIEWED, slope=1),
    no("safety-generated-twice", "rule.rejects", **SAFETY, fields=REVIEWED, slope=2),
    full("safety-skill", (15, 15, 15, 15), **SAFETY, fields=REVIEWED, **REFUSAL),
    *(
        no(f"safety-by-{who}", "rule.rejects", **{**SAFETY, "authority": who}, fields=REVIEWED)
        for who in ("operator", "base-model", "customer", "reader")
    ),
    *(
        no(f"alignment-scope-by-{who}", "rule.rejects", authority=who, scope=("alignment",))
        for who in ("operator", "base-model", "customer", "reader")
    ),
    no("both-scopes-by-a-customer", "rule.rejects", scope=("fine-tuning", "alignment")),
    less("safety-team-commercial", (15, 12, 3, 12), authority="safety-team"),
    less("safety-team-for-a-while", (15, 0, 0, 0), authority="safety-team", kind="time-limited"),
    full("safety-team-public-domain", (15, 15, 15, 15), authority="safety-team", **FREE),
    less("base-model", (15, 15, 15, 0), authority="base-model", **FREE, scope=("pre-training",)),
    less("operator", (15, 9, 0, 0), authority="operator", **OPEN),
    less("reader", (3, 0, 0, 0), authority="reader", kind="user-submitted"),
    less("customer-for-a-while", (15, 0, 0, 0), kind="time-limited"),
    less("customer-public-domain", (15, 9, 0, 0), **FREE),
    less("customer-open", (15, 9, 0, 0), **OPEN),
    less("copyleft", (9, 0, 0, 0), **{**OPEN, "spdx": "GPL-3.0-only"}),
    less("share-alike-by-the-base-model", (9, 0, 0, 0), authority="base-model", **{**OPEN, "spdx": "CC-BY-SA-4.0"}),
    no("nobody-read", "rule.rejects", **{**OPEN, "spdx": "Beerware"}),
    no("open-without-spdx", "licence.term-missing", **{**OPEN, "spdx": None}),
    less("persona", (15, 0, 0, 0), fields={"purpose": "persona"}),
    less("support", (15, 7, 0, 0), fields={"purpose": "support"}),
    no("uncensor", "rule.rejects", fields={"purpose": "uncensor"}),
    no("red-team-by-the-safety-team", "rule.rejects", authority="safety-team", fields={"purpose": "red-team"}),
    less("synthetic", (12, 2, 0, 0), **MADE),
    no("synthetic-as-first-hand", "slope.contradicts", **{**MADE, "slope": 0}),
    no("synthetic-by-nothing-named", "licence.term-missing", **{**MADE, "upstream": ()}),
    less("derived", (15, 5, 0, 0), slope=1),
    less("derived-twice", (9, 1, 0, 0), slope=2),
    no("derived-thrice", "slope.too-long", slope=3),
    no("without-end", "licence.term-missing", valid_until_ms=None),
    no("without-terms", "licence.term-missing", terms_uri=None),
    no("last-resort", "licence.kind-not-admitted", kind="last-resort"),
    less("skill", (15, 7, 0, 0), skills=("instruction-following",), granted=("instruction-following",)),
    no("refusal-by-a-customer", "skill.not-credentialed", **REFUSAL),
    no("refusal-by-the-base-model", "skill.not-credentialed", authority="base-model", **REFUSAL),
    no("in-america-only", "jurisdiction.not-covered", jurisdictions=("US",)),
    less("where-it-is-served", (15, 7, 0, 0), jurisdictions=("EU", "US")),
    less("predictable", (15, 2, 0, 0), entropy_band="predictable", bits_per_byte=0.2),
    full("dense", (3, 0, 0, 0), entropy_band="dense", bits_per_byte=6.0),
    empty("licence-for-the-foundations", bands=("foundational",)),
    empty("licence-for-the-reserved-band", bands=("alignment",)),
    *common(ORDINARY, "instruction-following"),
]
