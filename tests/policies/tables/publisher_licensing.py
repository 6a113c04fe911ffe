"""What `publisher-licensing` says."""

from __future__ import annotations

from licet.policies.provenance import Provenance
from tests.policies import signed
from tests.policies.tables.rows import EARLIER, LATER, common, empty, full, less, no

URI = "https://publisher.example/contract/17"
EVERYWHERE = ("WORLD",)
ORDINARY = {
    "policy": "publisher-licensing",
    "authority": "publisher",
    "kind": "commercial",
    "spdx": None,
    "recall": "abstraction",
    "terms_uri": URI,
    "valid_until_ms": LATER,
    "jurisdictions": EVERYWHERE,
    "scope": ("books",),
    "entropy_band": "ordinary",
    "bits_per_byte": 2.0,
    "fields": {"work-id": "urn:isbn:9780000000002", "title": "A Book", "rights-holder": "A Publisher"},
    "required": ("work-id", "title", "rights-holder"),
}
OLD = {"authority": "archive", "kind": "public-domain", "terms_uri": None, "valid_until_ms": None, "recall": "verbatim"}
OPEN = {"authority": "author", "kind": "open-licence", "terms_uri": None, "valid_until_ms": None, "recall": "verbatim"}
LEASED = {"kind": "time-limited", "valid_from_ms": EARLIER}

ROWS = [
    less("commercial", (15, 9, 0)),
    less("commercial-verbatim", (15, 0, 0), recall="verbatim"),
    less("commercial-here-only", (15, 9, 0), jurisdictions=("EU", "US")),
    less("commercial-in-more-places", (15, 9, 0), jurisdictions=("EEA", "US", "CA")),
    less("news", (15, 6, 0), scope=("news",)),
    less("news-verbatim", (15, 0, 0), scope=("news",), recall="verbatim"),
    less("reference", (15, 9, 0), scope=("reference",)),
    less("time-limited", (12, 0, 0), **LEASED),
    less("time-limited-verbatim", (12, 0, 0), **LEASED, recall="verbatim"),
    less("time-limited-for-all-bands", (12, 0, 0), **LEASED, bands=("surface", "behavioral", "foundational")),
    empty("time-limited-for-deep-bands", **LEASED, bands=("behavioral", "foundational")),
    no("time-limited-without-beginning", "licence.term-missing", kind="time-limited"),
    no("commercial-without-end", "licence.term-missing", valid_until_ms=None),
    no("commercial-without-terms", "licence.term-missing", terms_uri=None),
    no("commercial-without-countries", "licence.term-missing", jurisdictions=()),
    no("commercial-without-custody", "licence.term-missing", attested=Provenance()),
    no("commercial-in-america", "jurisdiction.not-covered", jurisdictions=("US",)),
    no("commercial-in-europe", "jurisdiction.not-covered", jurisdictions=("EU",)),
    no("commercial-last-second", "attestation.expired", at_ms=LATER),
    less("commercial-second-before", (15, 9, 0), at_ms=LATER - 1),
    full("public-domain", (15, 15, 15), **OLD),
    no("public-domain-somewhere", "licence.term-missing", **OLD, jurisdictions=()),
    no("public-domain-in-america", "jurisdiction.not-covered", **OLD, jurisdictions=("US",)),
    less("attribution", (15, 15, 9), **OPEN, spdx="CC-BY-4.0"),
    less("attribution-of-a-country", (15, 15, 9), **OPEN, spdx="CC-BY-3.0-DE"),
    less("free", (15, 15, 9), **OPEN, spdx="CC0-1.0"),
    less("share-alike", (15, 6, 0), **OPEN, spdx="CC-BY-SA-4.0"),
    no("not-commercial", "rule.rejects", **OPEN, spdx="CC-BY-NC-4.0"),
    no("not-changed", "rule.rejects", **OPEN, spdx="CC-BY-ND-4.0"),
    no("nobody-read", "rule.rejects", **OPEN, spdx="MIT"),
    no("open-without-spdx", "licence.term-missing", **OPEN),
    less("society", (15, 5, 0), authority="collecting-society"),
    no("society-verbatim", "rule.rejects", authority="collecting-society", recall="verbatim"),
    less("reader", (2, 0, 0), authority="reader", kind="user-submitted"),
    less("reader-as-publisher", (6, 0, 0), authority="reader"),
    no("embargo", "rule.rejects", fields={"embargo": "active"}),
    less("embargo-over", (15, 9, 0), fields={"embargo": "lifted"}),
    no("opted-out", "rule.rejects", fields={"text-and-data-mining": "reserved"}),
    less("summary", (7, 0, 0), slope=1),
    less("summary-of-the-public-domain", (12, 6, 0), **OLD, slope=1),
    no("summary-of-a-summary", "slope.too-long", slope=2),
    less("derived-from-another", (7, 0, 0), slope=1, upstream=(b"another work",)),
    no("derived-said-to-be-first-hand", "slope.contradicts", slope=0, upstream=(b"another work",)),
    less("predictable", (12, 3, 0), entropy_band="predictable", bits_per_byte=0.3),
    full("dense", (6, 0, 0), entropy_band="dense", bits_per_byte=5.0),
    no("synthetic", "licence.kind-not-admitted", kind="synthetic", slope=1),
    no("last-resort", "licence.kind-not-admitted", kind="last-resort"),
    less("skill", (15, 9, 0), skills=("news-summary",), granted=("news-summary",)),
    no(
        "skill-by-an-author",
        "skill.not-credentialed",
        authority="author",
        skills=("news-summary",),
        granted=("news-summary",),
    ),
    less("licence-for-two-bands", (15, 9, 0), bands=("surface", "behavioral")),
    empty("licence-for-the-foundations", bands=("foundational",)),
    no("revoked-in-the-past", "attestation.revoked", revoked_ms=EARLIER),
    less("revoked-from-tomorrow", (15, 9, 0), revoked_ms=signed.NOW_MS + 1),
    *common(ORDINARY, "reference-answers"),
]
