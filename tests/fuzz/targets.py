"""Everything that reads bytes from somebody else, as functions from bytes; each may only return or raise a LicetError.

Each target also says what must hold of what it accepts. `test_parsers.py` runs them with hypothesis,
`python -m tests.fuzz` with coverage to guide it.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from licet.ledger import chunks, codec, note, proof, segments, tiles
from licet.ledger.directory import _Holder
from licet.ledger.note import Checkpoint, SigningKey, VerifierKey
from licet.ledger.records import Digest, Opaque
from licet.ledger.segments import Extent, Segment
from licet.ledger.view import Head
from licet.ledger.witness import Submission
from licet.policies import wire
from licet.policies.attestation import adopt_envelope, open_envelope, parse_statement, statement_bytes
from licet.policies.manifest import Manifest, ManifestEntry
from licet.policies.policy import Policy
from licet.policies.rights import parse_spdx
from tests.ledger.golden import GOLDEN
from tests.policies import signed

_KEY = SigningKey.generate("example.org/log")
_VERIFIER = str(_KEY.verifier)
_NOTE = Checkpoint("example.org/log", 1234, bytes(range(32)), ("extension",)).sign([_KEY])
_HASH = base64.b64encode(bytes(range(32)))


@dataclass(frozen=True)
class Target:
    """One parser: what to call, and what to begin mutating from."""

    run: Callable[[bytes], None]
    seeds: tuple[bytes, ...]


def _open_note(raw: bytes) -> None:
    body = note.open_note(raw, [_VERIFIER])
    assert raw.startswith(body + b"\n")


def _split_note(raw: bytes) -> None:
    body, signatures = note.split_note(raw)
    assert len(signatures) <= note.SIGNATURES_MAX
    assert raw.startswith(body + b"\n")


def _checkpoint(raw: bytes) -> None:
    checkpoint = Checkpoint.parse(raw)
    assert checkpoint.body() == raw.removesuffix(b"\n") + b"\n"
    assert Checkpoint.parse(checkpoint.body()) == checkpoint


def _verifier_key(raw: bytes) -> None:
    text = raw.decode(errors="surrogateescape")
    assert str(VerifierKey.parse(text)) == text.strip()


def _entry(raw: bytes) -> None:
    record = codec.decode(raw)
    assert codec.encode(record) == raw
    assert isinstance(record, Opaque) or raw[0] == type(record).KIND


def _chunk(raw: bytes) -> None:
    chunk = chunks.unpack(raw[:8], raw[8:])
    assert chunks.pack(chunk.data, np.diff(chunk.offsets), chunk.marks) == raw[8:]


def _segment(raw: bytes) -> None:
    segment = Segment.unpack(raw)
    assert segment.cells.shape[:2] == segment.steps.shape[:2]
    assert segment.cells.size < 2**16 * len(raw) * 3


def _extent(raw: bytes) -> None:
    assert Extent.unpack(raw).pack() == raw


def _posting(raw: bytes) -> None:
    assert len(segments.unpack_posting(raw, 5)) <= len(raw)


def _head(raw: bytes) -> None:
    assert Head.unpack(raw).pack() == raw


def _proof(raw: bytes) -> None:
    parsed = proof.Proof.parse(raw)
    assert parsed.format() == raw
    assert len(parsed.hashes) <= proof.HASHES_MAX


def _bundle(raw: bytes) -> None:
    width = raw[0] + 1 if raw else 1
    chunk = tiles.parse_bundle(raw[1:], 512, width)
    assert chunk.end - chunk.first == width
    assert tiles.encode_bundle(chunk) == raw[1:]


def _tile(raw: bytes) -> None:
    width = raw[0] + 1 if raw else 1
    assert tiles.parse_tile(raw[1:], width).tobytes() == raw[1:]


def _submission(raw: bytes) -> None:
    parsed = Submission.parse(raw)
    assert parsed.format() == raw


def _holder(raw: bytes) -> None:
    assert str(_Holder.parse(raw.decode(errors="replace")))


def _policy(raw: bytes) -> None:
    assert Policy.parse(raw).text == raw.decode()


def _envelope(raw: bytes) -> None:
    assert open_envelope(raw, [signed.registration()]).envelope == raw


def _adopted_envelope(raw: bytes) -> None:
    adopted = adopt_envelope(raw, [signed.registration()])
    assert open_envelope(adopted, [signed.registration()]).envelope == adopted


def _statement(raw: bytes) -> None:
    statement = parse_statement(raw)
    assert parse_statement(statement_bytes(statement)) == statement


def _manifest(raw: bytes) -> None:
    manifest = Manifest.parse(raw)
    assert Manifest.parse(manifest.to_lines()).root == manifest.root


def _example(raw: bytes) -> None:
    example = wire.parse(raw)
    assert wire.parse(wire.to_json(example)) == example


def _licence_expression(raw: bytes) -> None:
    plain = parse_spdx(raw.decode(errors="replace"))
    assert parse_spdx(plain) == plain


def _golden() -> tuple[bytes, ...]:
    return tuple(bytes.fromhex(line.split(" ")[1]) for line in GOLDEN.read_text().splitlines())


def _some_chunk() -> bytes:
    leaves = np.arange(96, dtype=np.uint8).reshape(3, 32)
    return chunks.key(7) + chunks.pack(b"onethree", np.array([3, 0, 5]), leaves)


def _some_segment() -> bytes:
    cells = np.arange(2 * 3 * 3, dtype=np.int64).reshape(2, 3, 3) << 30
    return Segment(1, 9, 0, 4, 5, np.array([3, 700]), cells, cells[:, :, :2] - 1).pack()


def _some_posting() -> bytes:
    ((_, value),) = segments.postings(1, 2, 100, np.array([5, 6, 5]), np.array([100, 103, 900]))
    return value


TARGETS = {
    "note": Target(_open_note, (_NOTE, note.sign_note(b"a\n\nb\n", [_KEY]))),
    "note-unverified": Target(_split_note, (_NOTE, b"a\n\n\xe2\x80\x94 b AAAAAAAA\n")),
    "checkpoint": Target(_checkpoint, (note.split_note(_NOTE)[0], b"a\n0\n" + _HASH + b"\n")),
    "verifier-key": Target(_verifier_key, (_VERIFIER.encode(), str(_KEY.witness_verifier).encode())),
    "entry": Target(_entry, _golden()),
    "chunk": Target(_chunk, (_some_chunk(),)),
    "segment": Target(_segment, (_some_segment(),)),
    "extent": Target(_extent, (Extent(1, 2, 3, 4, 5).pack(),)),
    "posting": Target(_posting, (_some_posting(),)),
    "head": Target(_head, (Head(5, bytes(32)).pack(),)),
    "proof": Target(
        _proof,
        (
            proof.Proof(5, (bytes(32), bytes(range(32))), _NOTE).format(),
            proof.Proof(0, (), _NOTE, extra=b"extra").format(),
        ),
    ),
    "bundle": Target(_bundle, (b"\x02\x00\x03one\x00\x00\x00\x05three", b"\x00\x00\x00")),
    "tile": Target(_tile, (b"\x01" + bytes(64),)),
    "witness-request": Target(_submission, (Submission(3, (bytes(32), bytes(range(32))), _NOTE).format(),)),
    "lock-file": Target(_holder, (b"1234\nlicet serve\n", b"")),
    "policy": Target(_policy, (signed.policy_text().encode(), Policy.read_default("regulated").text.encode())),
    "envelope": Target(_envelope, (signed.envelope(),)),
    "envelope-of-others": Target(_adopted_envelope, (signed.envelope(), b" " + signed.envelope())),
    "statement": Target(_statement, (statement_bytes(signed.statement()),)),
    "manifest": Target(_manifest, (Manifest.of([ManifestEntry("a", Digest(bytes(32)), 1)]).to_lines(),)),
    "example": Target(_example, (wire.to_json(signed.example()),)),
    "licence-expression": Target(_licence_expression, (b"MIT OR (Apache-2.0 AND GPL-2.0-only)",)),
}
