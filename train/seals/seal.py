"""Seals as bytes: signing a checkpoint's statement, opening one that somebody signed, and the ledger's entry of it.

What a seal states is `seals/statement.py`'s; `seals/writer.py` writes a whole checkpoint, `seals/verify.py` checks one.
"""

from __future__ import annotations

from collections.abc import Sequence

from licet.ledger import tree
from licet.ledger.errors import FormatError, SignatureError
from licet.ledger.note import SigningKey, VerifierKey
from licet.ledger.records import BlockDigest, CheckpointSealed, Digest, Ref
from licet.policies import dsse
from licet.train.seals.reader import parse_statement
from licet.train.seals.statement import Seal, seal_id

PAYLOAD_TYPE = "application/vnd.licet.seal.v1+json"
SEAL_FILE = "seal.json"
SEAL_BYTES_MAX = 64 << 20


def sign_seal(seal: Seal, key: SigningKey) -> bytes:
    """The bytes of seal.json."""
    envelope = dsse.sign(seal.statement, PAYLOAD_TYPE, key)
    if open_seal(envelope, [key.verifier]) != seal:
        raise FormatError("The seal would not be read back as it is.", remedy="Sort its blocks' tensors and its files.")
    return envelope


def open_seal(envelope: bytes, keys: Sequence[VerifierKey]) -> Seal:
    """The seal in an envelope that one of these keys signed; nothing is read of one that none signed."""
    read = dsse.read(envelope, bytes_max=SEAL_BYTES_MAX)
    if read.payload_type != PAYLOAD_TYPE:
        raise FormatError("This is not a seal: its envelope holds something else.", remedy=f"It holds {PAYLOAD_TYPE}.")
    if not any(read.is_signed_by(key, signature) for key in keys for signature in read.signatures):
        signers = ", ".join(signature.keyid or "an unnamed key" for signature in read.signatures) or "nobody"
        raise SignatureError(
            f"No key that was asked for signed this seal; it says it was signed by {shown(signers)}.",
            remedy="Pass the verifier key of the training log whose operator sealed it.",
        )
    seal = parse_statement(read.payload)
    if seal.statement != read.payload:
        raise FormatError("The seal is not in the one spelling in which it counts.", remedy="Seal it anew.")
    return seal


def claimed_id(envelope: bytes) -> Digest:
    """What a seal is called, whoever signed it: to find one by its name before it is believed."""
    return seal_id(dsse.read(envelope, bytes_max=SEAL_BYTES_MAX).payload)


def as_record(seal: Seal, *, policy: Ref | None = None) -> CheckpointSealed:
    """The entry that states a seal. `policy` is where its policy was mentioned in the log."""
    claims = seal.claims
    if (policy is None) != (claims.policy is None):
        raise FormatError("A seal with a policy is recorded with the entry that mentions it, and no other is.")
    point = claims.ledger
    return CheckpointSealed(
        seal=seal.id,
        model=claims.model,
        label=claims.label,
        run=claims.run.entry if claims.run is not None else None,
        step=claims.step,
        blocks=tuple(BlockDigest(block.name, block.digest) for block in seal.blocks),
        policy=policy,
        parent=claims.parent,
        log_size=point.size if point is not None else 0,
        log_root=point.root if point is not None else Digest(tree.EMPTY_ROOT),
        proposals=claims.proposals,
        claimed_ms=claims.claimed_ms,
    )


def shown(text: str) -> str:
    """Somebody else's text in a message of ours: short, and nothing that a terminal would obey."""
    return ascii(text[:200])[1:-1]
