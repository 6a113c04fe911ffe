"""Our envelopes in other people's hands, and theirs in ours: securesystemslib, sigstore and plain openssl."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from securesystemslib.dsse import Envelope as TheirEnvelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import CryptoSigner, SSlibKey
from sigstore import dsse as sigstore_dsse

from licet.policies import dsse
from licet.policies.attestation import (
    PAYLOAD_TYPE,
    adopt_envelope,
    open_envelope,
    statement_bytes,
)
from licet.policies.reasons import Reason, Refused
from tests.policies import signed

SOURCES = [signed.registration("ada")]
STATEMENT = signed.statement(upstream=(signed.digest("up"),), issued_ms=None)
ENVELOPE = signed.envelope(STATEMENT)


def tampered(part: str) -> bytes:
    """The envelope with another payload, type or signature."""
    fields = json.loads(ENVELOPE)
    if part == "payload":
        payload = base64.b64decode(fields["payload"]).replace(b'"ada"', b'"eve"', 1)
        fields["payload"] = base64.b64encode(payload).decode()
    elif part == "type":
        fields["payloadType"] = "application/vnd.in-toto+yaml"
    else:
        signature = bytearray(base64.b64decode(fields["signatures"][0]["sig"]))
        signature[5] ^= 1
        fields["signatures"][0]["sig"] = base64.b64encode(signature).decode()
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()


def by_securesystemslib(envelope: bytes, tmp_path: Path) -> bool:
    verifier = signed.key().verifier
    key = SSlibKey(dsse.keyid_of(verifier), "ed25519", "ed25519", {"public": verifier.public.hex()})
    try:
        return len(TheirEnvelope.from_dict(json.loads(envelope)).verify([key], 1)) == 1
    except VerificationError:
        return False


def by_sigstore(envelope: bytes, tmp_path: Path) -> bool:
    """Sigstore's own verification takes ECDSA only; its reading of the envelope and its PAE do not care."""
    theirs = sigstore_dsse.Envelope._from_json(envelope)
    try:
        public = Ed25519PublicKey.from_public_bytes(signed.key().verifier.public)
        public.verify(theirs.signature, theirs.pae())
    except InvalidSignature:
        return False
    return True


def by_openssl(envelope: bytes, tmp_path: Path) -> bool:
    """Nothing of ours and nothing of Python's: the PAE is put together by hand."""
    fields = json.loads(envelope)
    body = base64.b64decode(fields["payload"])
    kind = fields["payloadType"].encode()
    public, pae, sig = (tmp_path / name for name in ("public.pem", "pae", "sig"))
    public.write_bytes(signed.key().private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    pae.write_bytes(b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(body), body))
    sig.write_bytes(base64.b64decode(fields["signatures"][0]["sig"]))
    command = ["openssl", "pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", public, "-in", pae, "-sigfile", sig]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def by_us(envelope: bytes, tmp_path: Path) -> bool:
    try:
        open_envelope(envelope, SOURCES)
    except Refused:
        return False
    return True


VERIFIERS = [by_securesystemslib, by_sigstore, by_openssl, by_us]


@pytest.mark.parametrize("verify", VERIFIERS, ids=lambda one: one.__name__)
@pytest.mark.parametrize("part", ["payload", "type", "signature"])
def test_nobody_takes_a_tampered_envelope(verify, part, tmp_path):
    assert not verify(tampered(part), tmp_path)


@pytest.mark.parametrize("verify", VERIFIERS, ids=lambda one: one.__name__)
def test_everybody_takes_ours(verify, tmp_path):
    assert verify(ENVELOPE, tmp_path)


def test_the_published_vector():
    said = dsse.Envelope(b"hello world", "http://example.com/HelloWorld", ())
    assert said.pae == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    assert sigstore_dsse._pae("http://example.com/HelloWorld", b"hello world") == said.pae


def test_lengths_are_in_bytes():
    assert dsse.Envelope("é".encode(), "é", ()).pae == "DSSEv1 2 é 2 é".encode()


def test_sigstore_reads_our_statements():
    theirs = sigstore_dsse.Statement(statement_bytes(STATEMENT))
    assert theirs._matches_digest(_hashed(STATEMENT.subjects[0].digest))
    assert not theirs._matches_digest(_hashed(signed.digest("other")))


def _hashed(digest: bytes):
    from sigstore.hashes import Hashed
    from sigstore_models.common.v1 import HashAlgorithm

    return Hashed(algorithm=HashAlgorithm.SHA2_256, digest=digest)


# -- envelopes that others made


def theirs(keyid: str | None = None, payload: bytes | None = None) -> dict:
    """Made by securesystemslib alone, with its own key id unless another is given."""
    private = signed.key().private
    public = SSlibKey.from_crypto(private.public_key(), keyid)
    envelope = TheirEnvelope(payload or statement_bytes(STATEMENT), PAYLOAD_TYPE, {})
    envelope.sign(CryptoSigner(private, public))
    return envelope.to_dict()


OUR_KEYID = dsse.keyid_of(signed.key().verifier)


def test_an_envelope_of_securesystemslib_opens_in_ours():
    compact = json.dumps(theirs(OUR_KEYID), sort_keys=True, separators=(",", ":")).encode()
    assert compact == ENVELOPE
    assert open_envelope(compact, SOURCES).statement == STATEMENT


@pytest.mark.parametrize("keyid", [None, "", OUR_KEYID, "bob+00000000"], ids=["hash", "empty", "ours", "wrong"])
def test_other_spellings_are_adopted(keyid):
    envelope = theirs(keyid)
    if keyid == "":  # as sigstore and cosign write it
        del envelope["signatures"][0]["keyid"]
    assert adopt_envelope(json.dumps(envelope, indent=2).encode(), SOURCES) == ENVELOPE


def test_url_safe_base64_is_adopted():
    envelope = theirs()
    for holder, name in ((envelope, "payload"), (envelope["signatures"][0], "sig")):
        holder[name] = holder[name].replace("+", "-").replace("/", "_")
    assert adopt_envelope(json.dumps(envelope).encode(), SOURCES) == ENVELOPE


def test_a_payload_spelled_by_others_keeps_its_spelling():
    payload = json.dumps(json.loads(statement_bytes(STATEMENT)), indent=2).encode()
    envelope = adopt_envelope(json.dumps(theirs(payload=payload)).encode(), SOURCES)
    opened = open_envelope(envelope, SOURCES)
    assert opened.statement == STATEMENT
    assert opened.envelope != ENVELOPE
    assert base64.b64decode(json.loads(envelope)["payload"]) == payload


def test_what_only_openssl_signed_opens_in_ours(tmp_path):
    payload = statement_bytes(STATEMENT)
    private, pae, sig = (tmp_path / name for name in ("private.pem", "pae", "sig"))
    private.write_bytes(signed.key().private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    pae.write_bytes(b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload))
    command = ["openssl", "pkeyutl", "-sign", "-rawin", "-inkey", private, "-in", pae, "-out", sig]
    subprocess.run(command, capture_output=True, check=True)
    envelope = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": PAYLOAD_TYPE,
        "signatures": [{"sig": base64.b64encode(sig.read_bytes()).decode()}],
    }
    assert adopt_envelope(json.dumps(envelope).encode(), SOURCES) == ENVELOPE


def test_their_envelope_by_a_stranger_is_refused():
    envelope = json.dumps(theirs(OUR_KEYID)).encode()
    with pytest.raises(Refused) as caught:
        adopt_envelope(envelope, [signed.registration("ada", keys=(signed.key("other"),))])
    assert caught.value.reason is Reason.ATTESTATION_WRONG_KEY
