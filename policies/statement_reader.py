"""A source's statement from JSON: in-toto v1 around our predicate. `schemas/attestation-v1.json` describes it.

The payload is signed as it stands, so any JSON spelling is read. What is not known is left out, never null. What cannot
be read is refused with the name of the field.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Any, TypeVar

from licet.ledger.errors import FormatError, LicetError
from licet.ledger.records import ClaimedMs, Digest, Licence, LicenceKind, Recall
from licet.policies import strict_json
from licet.policies.provenance import Custody, Labels, Provenance
from licet.policies.reasons import Reason, Refused
from licet.policies.rights import SPDX_BYTES_MAX, check_jurisdiction
from licet.policies.statement import (
    MANIFEST_DIGEST,
    MANIFEST_ENTRIES_MAX,
    MANIFEST_NAME,
    PREDICATE_TYPE,
    STATEMENT_TYPE,
    Generator,
    ManifestRoot,
    Statement,
    Subject,
)
from licet.policies.strict_json import Fields, sha256_of
from licet.policies.times import from_rfc3339

STATEMENT_BYTES_MAX = 60_000
NAME_CHARS_MAX = 256
SUBJECT_CHARS_MAX = 1024
URI_CHARS_MAX = 2048
UPSTREAM_MAX = 256
SUBJECTS_MAX = 1024
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[^\s<>\"{}|\\^`]+")
_Member = TypeVar("_Member", bound=StrEnum)


def parse_statement(payload: bytes) -> Statement:
    """The statement that a payload makes; verify its signature first."""
    if len(payload) > STATEMENT_BYTES_MAX:
        raise Refused(
            Reason.ATTESTATION_TOO_LARGE,
            f"The statement has {len(payload)} bytes, and {STATEMENT_BYTES_MAX} is the most.",
            remedy="Attest many files by a manifest of them.",
        )
    try:
        return _from_json(strict_json.parse(payload, bytes_max=STATEMENT_BYTES_MAX, what="The statement"))
    except LicetError as error:
        raise malformed(error) from error


def malformed(error: LicetError) -> Refused:
    """The refusal of a statement in which something is wrong."""
    return Refused(
        Reason.ATTESTATION_MALFORMED,
        error.message,
        remedy=error.remedy or "policies/schemas/attestation-v1.json says what a statement looks like.",
    )


def _from_json(value: Any) -> Statement:
    whole = Fields(value, "statement")
    _expect(whole, "_type", STATEMENT_TYPE)
    _expect(whole, "predicateType", PREDICATE_TYPE)
    subjects, manifest = _subjects(whole)
    predicate = whole.required_object("predicate")
    whole.end()
    predicate.required_whole("version", low=1, high=1)
    statement = Statement(
        source=predicate.required_text("source", chars_max=NAME_CHARS_MAX),
        licence=_licence(predicate),
        subjects=subjects,
        manifest=manifest,
        provenance=_provenance(predicate),
        generator=_generator(predicate),
        upstream=tuple(sha256_of(text, "statement.predicate.upstream") for text in _upstream(predicate)),
        issued_ms=_moment(predicate, "issued"),
    )
    predicate.end()
    _check_terms(statement)
    return statement


def _expect(fields: Fields, name: str, wanted: str) -> None:
    if fields.required_text(name) != wanted:
        raise FormatError(f"{fields.named(name)} is not {wanted}.")


def _subjects(whole: Fields) -> tuple[tuple[Subject, ...], ManifestRoot | None]:
    """Either some pieces of content or exactly one manifest."""
    values = whole.list("subject", required=True, count_max=SUBJECTS_MAX)
    if not values:
        raise FormatError("statement.subject is empty.", remedy="Name the content by its SHA-256, or a manifest of it.")
    subjects: list[Subject] = []
    for i, value in enumerate(values):
        usual = _usual_subject(value)
        if usual is not None:
            subjects.append(usual)
            continue
        fields = Fields(value, f"statement.subject[{i}]")
        name = fields.required_text("name", chars_max=SUBJECT_CHARS_MAX)
        digest = fields.required_object("digest")
        root = digest.text(MANIFEST_DIGEST)
        if root is not None:
            if len(values) > 1 or name != MANIFEST_NAME:
                raise FormatError("A manifest is the only subject of its statement, and named manifest.")
            digest.end()
            return (), _manifest(fields, sha256_of(root, digest.named(MANIFEST_DIGEST)))
        subjects.append(Subject(name, sha256_of(digest.required_text("sha256"), digest.named("sha256"))))
        digest.end()
        fields.end()
    if len(set(subjects)) < len(subjects):
        raise FormatError("statement.subject names the same content twice.")
    return tuple(subjects), None


def _usual_subject(value: Any) -> Subject | None:
    """A subject as nearly all are, read at once; anything else is read field by field, to say what is wrong with it."""
    if type(value) is dict and len(value) == 2:
        name, digest = value.get("name"), value.get("digest")
        if type(name) is str and 0 < len(name) <= SUBJECT_CHARS_MAX and name.isprintable() and type(digest) is dict:
            text = digest.get("sha256")
            if len(digest) == 1 and type(text) is str and strict_json.SHA256.fullmatch(text):
                return Subject(name, Digest(bytes.fromhex(text)))
    return None


def _manifest(fields: Fields, root: Digest) -> ManifestRoot:
    annotations = fields.required_object("annotations")
    entries = annotations.required_whole("entries", low=1, high=MANIFEST_ENTRIES_MAX)
    annotations.end()
    fields.end()
    return ManifestRoot(root, entries)


def _licence(predicate: Fields) -> Licence:
    kind = predicate.required_text("kind")
    terms = predicate.required_object("terms")
    spdx = terms.text("spdx", chars_max=SPDX_BYTES_MAX)
    uri = terms.text("termsUri", chars_max=URI_CHARS_MAX)
    if uri is not None and not _URI.fullmatch(uri):
        raise FormatError(f"{terms.named('termsUri')} is no absolute URI.")
    licence = Licence(
        kind=_member(LicenceKind, kind, predicate.named("kind")),
        spdx=spdx,
        terms_uri=uri,
        valid_from_ms=_moment(terms, "validFrom"),
        valid_until_ms=_moment(terms, "validUntil"),
        jurisdictions=tuple(check_jurisdiction(place) for place in terms.texts("jurisdictions", chars_max=16)),
        bands=terms.texts("bands", chars_max=NAME_CHARS_MAX),
        recall=_member(Recall, terms.required_text("recall"), terms.named("recall")),
        skills=terms.texts("skills", chars_max=NAME_CHARS_MAX),
    )
    terms.end()
    return licence


def _check_terms(statement: Statement) -> None:
    """What fields must say together."""
    licence = statement.licence
    start, end = licence.valid_from_ms, licence.valid_until_ms
    if start is not None and end is not None and start >= end:
        raise FormatError("The licence ends before it begins: terms.validFrom is not before terms.validUntil.")
    if licence.kind is LicenceKind.TIME_LIMITED and end is None:
        raise FormatError("A time-limited licence needs terms.validUntil.")
    if licence.kind is LicenceKind.SYNTHETIC and statement.generator is None:
        raise FormatError("An attestation of synthetic content needs generator: what made it.")
    granted = licence.bands or licence.skills or start is not None or end is not None
    if licence.kind is LicenceKind.EXCLUSION and granted:
        raise FormatError(
            "An exclusion grants nothing and does not end: it has no bands, skills, validFrom, validUntil."
        )


def _provenance(predicate: Fields) -> Provenance:
    fields = predicate.object("provenance")
    if fields is None:
        return Provenance()
    custody = tuple(
        _custody(Fields(step, f"{fields.named('custody')}[{i}]")) for i, step in enumerate(fields.list("custody"))
    )
    labels = fields.object("labels")
    found = None
    if labels is not None:
        found = Labels(labels.required_text("annotator"), labels.share("consensus"), labels.share("quality"))
        labels.end()
    fields.end()
    return Provenance(custody, found)


def _custody(fields: Fields) -> Custody:
    step = Custody(fields.required_text("holder"), fields.required_text("action"), _moment(fields, "time"))
    fields.end()
    return step


def _generator(predicate: Fields) -> Generator | None:
    fields = predicate.object("generator")
    if fields is None:
        return None
    name, version = fields.required_text("name", chars_max=NAME_CHARS_MAX), fields.text("version")
    fields.end()
    return Generator(name, version or "")


def _upstream(predicate: Fields) -> tuple[str, ...]:
    return predicate.texts("upstream", count_max=UPSTREAM_MAX, chars_max=64)


def _member(kinds: type[_Member], text: str, where: str) -> _Member:
    try:
        return kinds(text)
    except ValueError as error:
        raise FormatError(f"{where} is none of {', '.join(kinds)}.") from error


def _moment(fields: Fields, name: str) -> ClaimedMs | None:
    text = fields.text(name)
    if text is None:
        return None
    try:
        return ClaimedMs(from_rfc3339(text))
    except FormatError as error:
        raise FormatError(f"{fields.named(name)}: {error.message}", remedy=error.remedy) from error
