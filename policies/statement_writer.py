"""A source's statement as JSON, in the one spelling that we sign. What is not known is left out."""

from __future__ import annotations

from typing import Any

from licet.ledger.errors import LicetError
from licet.ledger.records import Licence
from licet.policies import strict_json
from licet.policies.provenance import Provenance
from licet.policies.reasons import Reason, Refused
from licet.policies.statement import MANIFEST_DIGEST, MANIFEST_NAME, PREDICATE_TYPE, STATEMENT_TYPE, Statement
from licet.policies.statement_reader import malformed, parse_statement
from licet.policies.times import to_rfc3339


def statement_bytes(statement: Statement) -> bytes:
    """What is signed of a statement. One that could not be read again is refused."""
    try:
        payload = strict_json.spell(_to_json(statement))
    except LicetError as error:
        raise malformed(error) from error
    if parse_statement(payload) != statement:
        raise Refused(
            Reason.ATTESTATION_MALFORMED,
            "The statement would not be read back as it is.",
            remedy="Write None for what is not known, not an empty text, and name subjects or a manifest, not both.",
        )
    return payload


def _to_json(statement: Statement) -> dict[str, Any]:
    manifest = statement.manifest
    subjects: list[dict[str, Any]] = [
        {"name": subject.name, "digest": {"sha256": subject.digest.hex()}} for subject in statement.subjects
    ]
    if manifest is not None:
        subjects.append(
            {
                "name": MANIFEST_NAME,
                "digest": {MANIFEST_DIGEST: manifest.root.hex()},
                "annotations": {"entries": manifest.entries},
            }
        )
    generator = statement.generator
    predicate = {
        "version": 1,
        "source": statement.source,
        "kind": statement.licence.kind.value,
        "terms": _terms_json(statement.licence),
        "provenance": _provenance_json(statement.provenance),
        "generator": _known({"name": generator.name, "version": generator.version}) if generator is not None else None,
        "upstream": [digest.hex() for digest in statement.upstream],
        "issued": _moment_json(statement.issued_ms),
    }
    return {
        "_type": STATEMENT_TYPE,
        "subject": subjects,
        "predicateType": PREDICATE_TYPE,
        "predicate": _known(predicate),
    }


def _terms_json(licence: Licence) -> dict[str, Any]:
    return _known(
        {
            "spdx": licence.spdx,
            "termsUri": licence.terms_uri,
            "validFrom": _moment_json(licence.valid_from_ms),
            "validUntil": _moment_json(licence.valid_until_ms),
            "jurisdictions": list(licence.jurisdictions),
            "bands": list(licence.bands),
            "recall": licence.recall.value,
            "skills": list(licence.skills),
        }
    )


def _provenance_json(provenance: Provenance) -> dict[str, Any]:
    labels = provenance.labels
    custody = [
        _known({"holder": step.holder, "action": step.action, "time": _moment_json(step.claimed_ms)})
        for step in provenance.custody
    ]
    said = (
        _known({"annotator": labels.annotator, "consensus": labels.consensus, "quality": labels.quality})
        if labels is not None
        else None
    )
    return _known({"custody": custody, "labels": said})


def _moment_json(ms: int | None) -> str | None:
    return None if ms is None else to_rfc3339(ms)


def _known(fields: dict[str, Any]) -> dict[str, Any]:
    """Without what is not known: no field is null, and none is empty but needs to be."""
    return {name: value for name, value in fields.items() if value is not None and value not in ("", [], {})}
