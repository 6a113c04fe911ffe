"""What a judgement costs: admissions seen before, admissions seen for the first time, verdicts; and memory.

    python -m benchmarks.policies                      the full run
    python -m benchmarks.policies --admissions 1e5     a shorter one

JSON lines on stdout, a table on stderr at the end. The first-time admissions are compared with what bare signature
verification of the same envelopes costs, by securesystemslib and by the cryptography package.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from securesystemslib.dsse import Envelope
from securesystemslib.signer import SSlibKey

from benchmarks import report
from licet.ledger.note import SigningKey, VerifierKey
from licet.ledger.records import Depth, Digest, Licence, LicenceKind, Recall, SourceState
from licet.policies.attestation import Statement, Subject, sign_statement
from licet.policies.bands import Architecture
from licet.policies.decide import decide
from licet.policies.evaluate import Gate
from licet.policies.evidence import Evidence, Match, MatchKind
from licet.policies.example import Example, Registration, Standing
from licet.policies.policy import Policy
from licet.policies.provenance import Custody, Labels, Provenance
from licet.policies.rights import LicenceState
from licet.policies.rulebook import Rulebook

_SOURCES = 64
_MODEL = Architecture.uniform(32, embedding=1_000_000, layer=1_000_000, head=1_000_000)
_LICENCES = ("MIT", "Apache-2.0", "LGPL-3.0-only", "GPL-3.0-or-later")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--admissions", type=float, default=1e6)
    parser.add_argument("--attestations", type=float, default=2e3)
    options = parser.parse_args()
    rows = [report.emit("environment", **report.environment())]
    policy = Policy.read_default("open-source-code")
    count = int(options.attestations)
    for files in (1, 8, 50):
        rows += _cold(policy, list(_examples(count, files)), files)
    rows += _warm(policy, list(_examples(count, 8)), int(options.admissions))
    rows += _verdicts(policy)
    report.print_table(rows)


def _examples(attestations: int, files: int) -> Iterator[Example]:
    """Many attestations of some files each, by a few sources; one example of each attestation."""
    keys = [SigningKey.generate(f"source.{i}") for i in range(_SOURCES)]
    registrations = tuple(Registration(key.name, (str(key.verifier),), "community", SourceState.ACTIVE) for key in keys)
    standings = [Standing("bench.example/registry", 10_000, 1_700_000_000_000, (one,)) for one in registrations]
    for i in range(attestations):
        licence = Licence(
            LicenceKind.OPEN, _LICENCES[i % len(_LICENCES)], None, None, None, (), (), Recall.VERBATIM, ()
        )
        digests = [Digest(hashlib.sha256(f"{i} {j}".encode()).digest()) for j in range(files)]
        subjects = tuple(Subject(f"file-{j}.py", digest) for j, digest in enumerate(digests))
        statement = Statement(keys[i % _SOURCES].name, licence, subjects, issued_ms=1_600_000_000_000)
        yield Example(
            digests[0],
            1000,
            sign_statement(statement, keys[i % _SOURCES]),
            None,
            standings[i % _SOURCES],
            "ordinary",
            3.5,
            0,
            ("source-code",),
            Provenance((Custody("bench", "wrote it"),), Labels("bench", None, 0.9)),
            (),
            (("repository", "bench"), ("revision", "1")),
        )


def _cold(policy: Policy, examples: list[Example], files: int) -> list[dict[str, Any]]:
    gate = Gate([policy], _MODEL)
    started = time.perf_counter()
    answers = [gate.admit(example) for example in examples]
    seconds = time.perf_counter() - started
    admitted = sum(any(answer.levels) for answer in answers)
    rate = len(examples) / seconds
    rows = [report.emit("admission, seen for the first time", files=files, may_teach=admitted, per_s=rate)]
    for system, check in (("securesystemslib", _check_by_securesystemslib), ("cryptography", _check_by_cryptography)):
        started = time.perf_counter()
        for example in examples:
            check(example)
        bare = len(examples) / (time.perf_counter() - started)
        rows.append(
            report.emit("bare verification of the envelope", system=system, per_s=bare, licet_takes=bare / rate)
        )
    return rows


def _check_by_securesystemslib(example: Example) -> None:
    envelope = _envelope(example)
    (keyid,) = envelope.signatures
    key = SSlibKey.from_crypto(Ed25519PublicKey.from_public_bytes(_public(example)), keyid=keyid)
    envelope.verify([key], 1)


def _check_by_cryptography(example: Example) -> None:
    envelope = _envelope(example)
    (signature,) = envelope.signatures.values()
    Ed25519PublicKey.from_public_bytes(_public(example)).verify(bytes.fromhex(signature.signature), envelope.pae())


def _envelope(example: Example) -> Envelope:
    assert example.envelope is not None
    return Envelope.from_dict(json.loads(example.envelope))


def _public(example: Example) -> bytes:
    return VerifierKey.parse(example.standing.sources[0].verifier_keys[0]).public


def _warm(policy: Policy, examples: list[Example], admissions: int) -> list[dict[str, Any]]:
    """Each attestation and class was seen; contents and measurements still differ from example to example."""
    gate = Gate([policy], _MODEL)
    pool = [replace(example, bits_per_byte=3.5 + i % 7 / 100) for i in range(8) for example in examples]
    for example in pool:
        gate.admit(example)
    rows = []
    done, resident = 0, report.resident_mb()
    for goal in (admissions // 10, admissions):
        started, before = time.perf_counter(), done
        for example in itertools.islice(itertools.cycle(pool), goal - done):
            gate.admit(example)
        done = goal
        rate = (done - before) / (time.perf_counter() - started)
        grown = report.resident_mb() - resident
        rows.append(report.emit("admission, class seen before", admissions=done, per_s=rate, resident_grown_mb=grown))
    return rows


def _verdicts(policy: Policy) -> list[dict[str, Any]]:
    """Eight matches whose licences are active, for quotation, expired and revoked; apart, overlapping, with blocks."""
    licence = Licence(LicenceKind.OPEN, "MIT", None, None, None, (), (), Recall.VERBATIM, ())
    quoted = replace(licence, recall=Recall.ABSTRACTION)
    states = {}
    matches: dict[int, list[Match]] = {150: [], 90: []}
    for i in range(8):
        attestation = Digest(hashlib.sha256(bytes([i])).digest())
        states[attestation] = (LicenceState.ACTIVE, LicenceState.ACTIVE, LicenceState.EXPIRED, LicenceState.REVOKED)[
            i % 4
        ]
        terms = quoted if i % 4 == 1 else licence
        for stride, found in matches.items():
            start, verbatim = stride * i, MatchKind.VERBATIM
            found.append(
                Match(start, start + 120, attestation, f"source.{i}", verbatim, 1.0, 120, Depth.SHALLOW, terms)
            )
    rules = Rulebook.of(policy)
    rows = []
    for what, evidence in (
        ("verdict, 8 spans", Evidence(tuple(matches[150]))),
        ("verdict, 8 spans, 32 blocks active", Evidence(tuple(matches[150]), (1.0,) * 32, (0.01,) * 32)),
        ("verdict, 8 matches that overlap", Evidence(tuple(matches[90]))),
        ("verdict, nothing matched", Evidence(())),
    ):
        spans = len(decide(evidence, states, rules).spans)
        taken = report.latencies(lambda _, evidence=evidence: decide(evidence, states, rules), 20_000)
        rows.append(
            report.emit(what, spans=spans, **{name.replace("_ms", "_us"): ms * 1e3 for name, ms in taken.items()})
        )
    return rows


if __name__ == "__main__":
    main()
