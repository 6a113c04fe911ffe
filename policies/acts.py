"""Acts on the registry that carry a signature of their own: a source's key succeeding another, and a revocation.

The registry's log proves that an act was recorded; the signature proves who wanted it. Other acts, as suspending a
source, are the operator's alone, and the log's own signature covers them.
"""

from __future__ import annotations

import re

from licet.ledger.errors import Finding, FormatError
from licet.ledger.note import KeyType, SigningKey, VerifierKey, verify_ed25519
from licet.ledger.records import ClaimedMs, Digest, LicenceRevoked, SourceKeyRotated

SOURCE_CHARS_MAX = 128
REASON_BYTES_MAX = 4096
_SOURCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]*", re.ASCII)


class NotEntitledError(Finding):
    """Somebody asks for something that only others may do."""


def check_source_id(source: str) -> str:
    """An id of a source names a key file and stands in signed lines, so it is short and plain."""
    if len(source) > SOURCE_CHARS_MAX or not _SOURCE.fullmatch(source):
        raise FormatError(
            f"{source[:SOURCE_CHARS_MAX]!a} cannot be the id of a source.",
            remedy=f"Take letters, digits and . _ @ -, at most {SOURCE_CHARS_MAX}, beginning with a letter or digit.",
        )
    return source


def check_reason(reason: str) -> str:
    """Why somebody acts stands in the log for good; it is a text of bounded size."""
    return check_text(reason, "A reason", bytes_max=REASON_BYTES_MAX)


def check_text(text: str, what: str, *, bytes_max: int) -> str:
    """A text that goes into the log: not empty, of bounded size, and without what could play tricks on a terminal."""
    size = len(text.encode(errors="surrogatepass"))
    if not text.strip() or size > bytes_max or not text.replace("\n", " ").isprintable():
        raise FormatError(f"{what} has 1 to {bytes_max} bytes of plain text.", remedy="Write it in UTF-8.")
    return text


def source_key(text: str) -> VerifierKey:
    """A key that a source may sign with."""
    key = VerifierKey.parse(text)
    if key.type is not KeyType.ED25519:
        raise FormatError(f"{key.name} is a witness's key, not one that signs statements.")
    return key


# -- a source's key


def rotation_statement(registry: str, source: str, old_key: str, new_key: str) -> bytes:
    """What is signed when a source's key succeeds another. It names the registry, so it counts nowhere else."""
    return f"licet/source-key-rotation/v1\n{registry}\n{source}\n{old_key}\n{new_key}\n".encode()


def rotate_source(
    registry: str, source: str, *, old: str, new: VerifierKey, by: str, key: SigningKey, at_ms: ClaimedMs
) -> SourceKeyRotated:
    """The record of a rotation, signed by the source's old key, or by the operator's if that is lost."""
    signature = key.sign_raw(rotation_statement(registry, source, old, str(new)))
    return SourceKeyRotated(source, old, str(new), signature, by, at_ms)


def verify_source_rotation(registry: str, record: SourceKeyRotated, signer: VerifierKey) -> None:
    """Raise unless `signer` agreed to the rotation."""
    statement = rotation_statement(registry, record.source, record.old_key, record.new_key)
    verify_ed25519(signer.public, record.signature, statement, who=record.by)


# -- a revocation


def revocation_statement(registry: str, attestation: Digest, effective_ms: int, by: str, reason: str) -> bytes:
    """What is signed when a licence is revoked. The reason comes last: it is the only part that may have lines."""
    head = f"licet/revocation/v1\n{registry}\n{attestation.hex()}\n{effective_ms}\n{by}\n"
    return (head + reason + "\n").encode()


def revoke(
    registry: str, attestation: Digest, *, effective_ms: int, reason: str, by: str, key: SigningKey, at_ms: ClaimedMs
) -> LicenceRevoked:
    """The record of a revocation, signed by whoever revokes."""
    statement = revocation_statement(registry, attestation, effective_ms, by, check_reason(reason))
    return LicenceRevoked(attestation, reason, ClaimedMs(effective_ms), by, key.sign_raw(statement), at_ms)


def verify_revocation(registry: str, record: LicenceRevoked, signer: VerifierKey) -> None:
    """Raise unless `signer` wanted the revocation."""
    statement = revocation_statement(registry, record.attestation, record.effective_ms, record.by, record.reason)
    verify_ed25519(signer.public, record.signature, statement, who=record.by)
