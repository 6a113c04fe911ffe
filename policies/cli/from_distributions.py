"""Attesting the installed Python distributions: each becomes a source that attests its description.

Run again, it adds what is new only: a statement says nothing that changes with the moment, so the same content under
the same licence has the same attestation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

from licet.ledger.errors import ConfigError, Finding, MissingFileError
from licet.ledger.home import Home
from licet.ledger.log import now_ms
from licet.ledger.note import SigningKey
from licet.ledger.records import AttestationRecorded, Digest, Licence, LicenceKind, Recall, SourceRegistered
from licet.policies.attestation import Statement, Subject, attestation_id, sign_statement
from licet.policies.cli.distributions import Distribution, installed_distributions
from licet.policies.cli.keyring import key_file, new_key, signing_key
from licet.policies.cli.recording import Recorder, check_authority, recording

SOURCE_PREFIX = "dist."


@dataclass(frozen=True, slots=True)
class Attested:
    """The attestation of one distribution."""

    source: str
    attestation: Digest
    description: bytes


@dataclass(slots=True)
class Done:
    """What was added, and what was there already."""

    registered: list[str] = field(default_factory=list)
    attested: list[Attested] = field(default_factory=list)
    known: int = 0
    refused: dict[str, str] = field(default_factory=dict)


def attest_distributions(home: Home, authority: str, report: Callable[[int, int], None]) -> Done:
    """Register and attest what is not yet, all in one commit."""
    done = Done()
    found = list(installed_distributions())
    with recording(home) as recorder:
        check_authority(recorder.registry, authority)
        for count, distribution in enumerate(found, start=1):
            try:
                key = _key_of(home, recorder, distribution, authority, done)
                _attest(recorder, distribution, key, done)
            except (
                Finding,
                MissingFileError,
                ConfigError,
            ) as refused:  # a suspended source, another key: only this one
                done.refused[distribution.name] = refused.message
            report(count, len(found))
    return done


def _key_of(home: Home, recorder: Recorder, distribution: Distribution, authority: str, done: Done) -> SigningKey:
    """The key of a distribution's source, which is registered if it is not yet."""
    source = SOURCE_PREFIX + distribution.name
    if recorder.registry.has_source(source):
        return signing_key(home, recorder.registry.source(source), None)
    key = new_key(key_file(home, source), source)
    recorder.add(SourceRegistered(source, distribution.name, str(key.verifier), authority, now_ms()))
    done.registered.append(source)
    return key


def _attest(recorder: Recorder, distribution: Distribution, key: SigningKey, done: Done) -> None:
    source = SOURCE_PREFIX + distribution.name
    content = Digest(hashlib.sha256(distribution.description).digest())
    subject = Subject(f"{distribution.name} description", content)
    envelope = sign_statement(Statement(source, licence_of(distribution), (subject,)), key)
    digest = attestation_id(envelope)
    if recorder.registry.has_attestation(digest):
        done.known += 1
        return
    recorder.add(AttestationRecorded(digest, source, licence_of(distribution), envelope, now_ms()))
    done.attested.append(Attested(source, digest, distribution.description))


def licence_of(distribution: Distribution) -> Licence:
    """An open licence where a plain one is stated; else the last resort, and nothing may be said back."""
    kind, recall = LicenceKind.OPEN, Recall.VERBATIM
    if distribution.spdx is None:
        kind, recall = LicenceKind.LAST_RESORT, Recall.ABSTRACTION
    return Licence(kind, distribution.spdx, None, None, None, (), (), recall, ())
