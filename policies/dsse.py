"""DSSE envelopes: reading anybody's, writing ours. The only file that knows securesystemslib.

DSSE leaves much of an envelope unsigned: spaces, the order of fields, key ids, further fields and signatures. `read`
takes all of that; `spell` gives the one spelling in which an envelope counts here.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

from securesystemslib.dsse import Envelope as _Envelope
from securesystemslib.signer import CryptoSigner, SSlibKey  # type: ignore[attr-defined]  # public, not re-exported

from licet.ledger.errors import FormatError, LimitError, SignatureError
from licet.ledger.note import SigningKey, VerifierKey, strict_base64
from licet.policies import strict_json

SIGNATURES_MAX = 16


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature, not yet verified. The key id is a hint that nobody signed; empty if there is none."""

    keyid: str
    raw: bytes


@dataclass(frozen=True, slots=True)
class Envelope:
    """A payload, what it claims to be, and who claims to have signed it."""

    payload: bytes
    payload_type: str
    signatures: tuple[Signature, ...]

    @property
    def pae(self) -> bytes:
        """The bytes that a signature is over."""
        encoded: bytes = _Envelope(self.payload, self.payload_type, {}).pae()
        return encoded

    def is_signed_by(self, key: VerifierKey, signature: Signature) -> bool:
        """Whether this signature is this key's over this envelope, whatever its key id says."""
        try:
            key.verify(signature.raw, self.pae)
        except SignatureError:
            return False
        return True


def keyid_of(key: VerifierKey) -> str:
    """What a key is called in an envelope: its C2SP verifier key without the public half."""
    return f"{key.name}+{key.id.hex()}"


def sign(payload: bytes, payload_type: str, key: SigningKey) -> bytes:
    """An envelope with one signature, in the one spelling."""
    verifier = key.verifier
    public = SSlibKey(keyid_of(verifier), "ed25519", "ed25519", {"public": verifier.public.hex()})
    envelope = _Envelope(payload, payload_type, {})
    envelope.sign(CryptoSigner(key.private, public))
    return strict_json.spell(envelope.to_dict())


def spell(envelope: Envelope) -> bytes:
    """The one spelling: sorted fields, no spaces, standard base64, nothing but what DSSE names."""
    signatures = [{"keyid": one.keyid, "sig": _encoded(one.raw)} for one in envelope.signatures]
    return strict_json.spell(
        {"payload": _encoded(envelope.payload), "payloadType": envelope.payload_type, "signatures": signatures}
    )


def read(data: bytes, *, bytes_max: int) -> Envelope:
    """Anybody's envelope; as DSSE asks, fields that it does not name are passed over."""
    value = strict_json.parse(data, bytes_max=bytes_max, what="The envelope")
    if not isinstance(value, dict):
        raise FormatError("The envelope is not an object.")
    payload_type = value.get("payloadType")
    if not isinstance(payload_type, str) or not strict_json.is_plain(payload_type):
        raise FormatError("envelope.payloadType is missing or is not a text.")
    listed = value.get("signatures", [])
    if not isinstance(listed, list):
        raise FormatError("envelope.signatures is not a list.")
    if len(listed) > SIGNATURES_MAX:
        raise LimitError(f"An envelope may carry {SIGNATURES_MAX} signatures; this one has {len(listed)}.")
    signatures = tuple(_signature(one, f"envelope.signatures[{i}]") for i, one in enumerate(listed))
    return Envelope(_decoded(value.get("payload"), "envelope.payload"), payload_type, signatures)


def _signature(value: Any, where: str) -> Signature:
    if not isinstance(value, dict):
        raise FormatError(f"{where} is not an object.")
    keyid = value.get("keyid")
    if keyid is not None and not (isinstance(keyid, str) and strict_json.is_plain(keyid)):
        raise FormatError(f"{where}.keyid is not a text.")
    return Signature(keyid or "", _decoded(value.get("sig"), f"{where}.sig"))


def _encoded(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _decoded(text: Any, where: str) -> bytes:
    """Base64 of either alphabet, as DSSE allows."""
    standard = text.replace("-", "+").replace("_", "/") if isinstance(text, str) else None
    raw = strict_base64(standard) if standard is not None else None
    if raw is None:
        raise FormatError(f"{where} is missing or is not base64.")
    return raw
