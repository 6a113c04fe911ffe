"""Attestations: a source's signed statement that it may contribute some content, under stated terms.

On the wire an attestation is an in-toto v1 statement in a DSSE envelope. Its id is the digest of the envelope's bytes.
Only bytes whose signature verified are read for what they say.

DSSE does not sign the whole of an envelope: anybody could add a space, a field, another signature or another key id,
and so give a revoked attestation a new id under which no revocation is known. Therefore an envelope counts in one
spelling only, with one signature, and `adopt_envelope` brings what other tools wrote into it. The statement inside is
signed as it stands, and may be spelled as its signer likes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from licet.ledger.errors import FormatError, LicetError
from licet.ledger.note import KeyType, SigningKey, VerifierKey
from licet.ledger.records import Digest
from licet.policies import dsse, strict_json
from licet.policies.example import Registration
from licet.policies.reasons import Reason, Refused
from licet.policies.statement import (
    MANIFEST_ENTRIES_MAX,
    PREDICATE_TYPE,
    STATEMENT_TYPE,
    Generator,
    ManifestRoot,
    Statement,
    Subject,
)
from licet.policies.statement_reader import parse_statement
from licet.policies.statement_writer import statement_bytes

__all__ = [
    "ENVELOPE_BYTES_MAX",
    "MANIFEST_ENTRIES_MAX",
    "PAYLOAD_TYPE",
    "PREDICATE_TYPE",
    "STATEMENT_TYPE",
    "VERIFIER_KEY_CHARS_MAX",
    "Attestation",
    "Generator",
    "ManifestRoot",
    "Statement",
    "Subject",
    "adopt_envelope",
    "attestation_id",
    "claimed_source",
    "open_envelope",
    "parse_statement",
    "sign_statement",
    "statement_bytes",
]

PAYLOAD_TYPE = "application/vnd.in-toto+json"
ENVELOPE_BYTES_MAX = 60_000
"""An attestation is one entry of the registry log; content of more files than fit is attested by a manifest."""

VERIFIER_KEY_CHARS_MAX = 1024


@dataclass(frozen=True, slots=True)
class Attestation:
    """A statement whose signature was verified."""

    id: Digest
    statement: Statement
    envelope: bytes


def attestation_id(envelope: bytes) -> Digest:
    """What an attestation is called everywhere: the SHA-256 of its envelope."""
    return Digest(hashlib.sha256(envelope).digest())


def sign_statement(statement: Statement, key: SigningKey) -> bytes:
    """The envelope with a source's statement, signed with its key."""
    envelope = dsse.sign(statement_bytes(statement), PAYLOAD_TYPE, key)
    _check_size(envelope)
    return envelope


def open_envelope(envelope: bytes, sources: Sequence[Registration]) -> Attestation:
    """The attestation in an envelope that one of these sources signed.

    1. it is an envelope of the right type, with one signature
    2. the signature names a key that is registered, and verifies under it
    3. what was signed is a statement, and its source is whom the key belongs to
    4. nothing that is not signed could be spelled otherwise
    """
    read = _read(envelope)
    signature = _only_signature(read)
    signers = _signers(read, signature, sources)
    statement = parse_statement(read.payload)
    if statement.source not in signers:
        raise Refused(
            Reason.ATTESTATION_WRONG_KEY,
            f"The attestation speaks for {statement.source}, and is signed by a key of {', '.join(signers)}.",
            remedy="Let it be signed with a key that is registered for the source it names.",
        )
    if dsse.spell(read) != envelope:
        raise Refused(
            Reason.ATTESTATION_MALFORMED,
            "The envelope is not in the one spelling in which it counts.",
            remedy="Take it in with `licet attest --envelope`, which changes only what is not signed.",
        )
    return Attestation(attestation_id(envelope), statement, envelope)


def adopt_envelope(envelope: bytes, sources: Sequence[Registration]) -> bytes:
    """An envelope of any DSSE tool in the spelling that `open_envelope` takes, under the same signature.

    Of several signatures the first is kept that a key of the statement's source made, its newest key first; a key id
    of another kind, or none, is replaced by ours.
    """
    read = _read(envelope)
    if not read.signatures:
        raise Refused(Reason.ATTESTATION_UNSIGNED)
    claimed = _claimed(read)
    for registration in _first_of_each(sources):
        if registration.source == claimed:
            for key in _keys(registration):
                for signature in read.signatures:
                    if read.is_signed_by(key, signature):
                        kept = dsse.Signature(dsse.keyid_of(key), signature.raw)
                        adopted = dsse.spell(dsse.Envelope(read.payload, read.payload_type, (kept,)))
                        return open_envelope(adopted, sources).envelope
    raise _unknown_key(claimed, sources, [one.keyid for one in read.signatures])


def claimed_source(envelope: bytes) -> str | None:
    """Whom an envelope claims to be from. Nothing is verified: good for a message, never for a decision."""
    try:
        return _claimed(_read(envelope))
    except Refused:
        return None


def _claimed(envelope: dsse.Envelope) -> str | None:
    try:
        statement = strict_json.parse(envelope.payload, bytes_max=ENVELOPE_BYTES_MAX, what="The statement")
        predicate = strict_json.Fields(statement, "statement").required_object("predicate")
        return predicate.required_text("source")
    except LicetError:
        return None


def _read(envelope: bytes) -> dsse.Envelope:
    _check_size(envelope)
    try:
        read = dsse.read(envelope, bytes_max=ENVELOPE_BYTES_MAX)
    except LicetError as error:
        raise Refused(
            Reason.ATTESTATION_MALFORMED,
            f"This is no DSSE envelope: {error.message}",
            remedy=error.remedy or "An attestation is an in-toto statement in a DSSE envelope.",
        ) from error
    if read.payload_type != PAYLOAD_TYPE:
        raise Refused(
            Reason.ATTESTATION_MALFORMED,
            f"The envelope holds {read.payload_type[:100]!a}, and an attestation is {PAYLOAD_TYPE}.",
        )
    return read


def _check_size(envelope: bytes) -> None:
    if len(envelope) > ENVELOPE_BYTES_MAX:
        raise Refused(
            Reason.ATTESTATION_TOO_LARGE,
            f"The envelope has {len(envelope)} bytes, and {ENVELOPE_BYTES_MAX} is the most.",
            remedy="Attest many files by a manifest of them.",
        )


def _only_signature(envelope: dsse.Envelope) -> dsse.Signature:
    if not any(signature.raw for signature in envelope.signatures):
        raise Refused(Reason.ATTESTATION_UNSIGNED, remedy="Let its source sign it.")
    if len(envelope.signatures) > 1:
        raise Refused(
            Reason.ATTESTATION_MALFORMED,
            f"The envelope carries {len(envelope.signatures)} signatures, and an attestation has one.",
            remedy="Take it in with `licet attest --envelope`: that keeps the source's own signature.",
        )
    return envelope.signatures[0]


def _signers(envelope: dsse.Envelope, signature: dsse.Signature, sources: Sequence[Registration]) -> list[str]:
    """The sources whose registered key made the signature: one, unless two share a key."""
    named = [
        (registration.source, key)
        for registration in _first_of_each(sources)
        if any(text.startswith(f"{signature.keyid}+") for text in registration.verifier_keys)
        for key in _keys(registration, signature.keyid)
    ]
    if not named:
        raise _unknown_key(_claimed(envelope), sources, [signature.keyid])
    found = [source for source, key in named if envelope.is_signed_by(key, signature)]
    if not found:
        raise Refused(
            Reason.ATTESTATION_TAMPERED,
            f"The signature of {named[0][0]} does not match what the envelope holds.",
            remedy="Ask the source for the envelope as it signed it.",
        )
    return found


def _unknown_key(claimed: str | None, sources: Sequence[Registration], keyids: Sequence[str]) -> Refused:
    if claimed is not None and all(registration.source != claimed for registration in sources):
        return Refused(
            Reason.SOURCE_UNREGISTERED,
            f"{claimed} is not registered.",
            remedy="Register the source with its key first: licet source add.",
        )
    said = ", ".join(ascii(keyid[:100]) for keyid in keyids)
    return Refused(
        Reason.ATTESTATION_WRONG_KEY,
        f"The attestation is signed by {said}, which is no registered key of its source.",
        remedy="Let it be signed with the registered key, or adopt it if another tool named the key in its own way.",
    )


def _first_of_each(sources: Sequence[Registration]) -> list[Registration]:
    """One registration for each source: a second could only bring in a key behind the back of the first."""
    return list({registration.source: registration for registration in reversed(sources)}.values())


def _keys(registration: Registration, keyid: str | None = None) -> Iterator[VerifierKey]:
    """The signing keys of a source, or the one of this key id. A text that is no key never signed anything.

    A key that is registered under two names counts under the first: it would give each of its envelopes two ids.
    """
    seen: set[bytes] = set()
    for text in registration.verifier_keys:
        key = _parsed(text) if len(text) <= VERIFIER_KEY_CHARS_MAX else None
        if key is not None and key.type is KeyType.ED25519 and key.public not in seen:
            seen.add(key.public)
            if keyid in (None, dsse.keyid_of(key)):
                yield key


@lru_cache(maxsize=4096)
def _parsed(text: str) -> VerifierKey | None:
    try:
        return VerifierKey.parse(text)
    except FormatError:
        return None
