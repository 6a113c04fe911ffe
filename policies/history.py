"""What a registry's records say of sources, revocations and policies, in the order in which they were written.

A record counts if whoever it comes from had the right to it when it was written; every other is named as a problem and
changes nothing. `check` is that rule, for records that stand in a log and for those that are about to.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeVar

from licet.ledger.errors import OrderError, VerificationError
from licet.ledger.note import VerifierKey
from licet.ledger.records import (
    Digest,
    KeyRotated,
    LicenceRevoked,
    PolicyAdopted,
    Record,
    SourceKeyRotated,
    SourceRegistered,
    SourceState,
    SourceStateChanged,
)
from licet.ledger.succession import Succession
from licet.policies.acts import (
    NotEntitledError,
    check_reason,
    check_source_id,
    check_text,
    source_key,
    verify_revocation,
    verify_source_rotation,
)
from licet.policies.example import Registration
from licet.policies.policy import Policy, PolicyError
from licet.policies.rights import Revocation

ACTS: tuple[type[Record], ...] = (
    KeyRotated,
    SourceRegistered,
    SourceKeyRotated,
    SourceStateChanged,
    LicenceRevoked,
    PolicyAdopted,
)
"""The records that are followed here."""
DISPLAY_NAME_BYTES_MAX = 512
AUTHORITY_BYTES_MAX = 256

SourceOf = Callable[[Digest], str | None]
"""Whose attestation this is, as far as the registry recorded it."""
_Said = TypeVar("_Said")


@dataclass(frozen=True, slots=True)
class Source:
    """A source as the registry has it."""

    registration: Registration
    display_name: str
    entry: int
    """Where it was registered."""

    @property
    def id(self) -> str:
        return self.registration.source

    @property
    def key(self) -> str:
        """What it signs with now."""
        return self.registration.verifier_keys[0]

    @property
    def is_active(self) -> bool:
        return self.registration.state is SourceState.ACTIVE


class History:
    """Everything that the records said, so that it can be asked as of any size."""

    def __init__(self, registry: str, first_key: VerifierKey, source_of: SourceOf) -> None:
        self.registry = registry
        self._operator = Succession(registry, first_key)
        self._source_of = source_of
        self._sources: dict[str, list[tuple[int, Source]]] = {}
        self._keys: dict[bytes, str] = {}
        self._revocations: dict[Digest, list[tuple[int, Revocation]]] = {}
        self._policies: list[tuple[int, PolicyAdopted]] = []

    # -- asking, as of a size

    def source(self, source: str, size: int) -> Source | None:
        return _last(self._sources.get(source, ()), size)

    def sources(self, size: int) -> list[Source]:
        """All sources, in the order in which they came."""
        known = (_last(states, size) for states in self._sources.values())
        return [source for source in known if source is not None]

    def source_with_key(self, key: VerifierKey, size: int) -> Source | None:
        """The source that signs with this key now."""
        name = self._keys.get(key.public)
        source = self.source(name, size) if name is not None else None
        return source if source is not None and source_key(source.key).public == key.public else None

    def revocations(self, attestation: Digest, size: int) -> tuple[Revocation, ...]:
        return tuple(revocation for i, revocation in self._revocations.get(attestation, ()) if i < size)

    def adopted(self, size: int) -> PolicyAdopted | None:
        return _last(self._policies, size)

    def operator_key(self, size: int) -> VerifierKey:
        """The key that signs the registry's log at its entry `size`."""
        return self._operator.at(size)[-1]

    # -- following

    def check(self, index: int, record: Record) -> None:
        """Raise unless this record, as entry `index`, comes from somebody who may write it."""
        match record:
            case SourceRegistered():
                self._check_registration(index, record)
            case SourceKeyRotated():
                self._check_rotation(index, record)
            case SourceStateChanged():
                self._check_state(index, record)
            case LicenceRevoked():
                self._check_revocation(index, record)
            case PolicyAdopted():
                if hashlib.sha256(record.text.encode()).digest() != record.policy:
                    raise VerificationError("The policy's digest is not that of its text.", index=index)

    def apply(self, index: int, record: Record) -> None:
        """Take in a record that was checked."""
        match record:
            case KeyRotated():
                self._operator.rotate(index, record)
            case SourceRegistered():
                keys = (record.verifier_key,)
                known = Registration(record.source, keys, record.authority, SourceState.ACTIVE)
                self._sources[record.source] = [(index, Source(known, record.display_name, index))]
                self._keys[source_key(record.verifier_key).public] = record.source
            case SourceKeyRotated():
                before = self._now(record.source).registration
                self._change(index, replace(before, verifier_keys=(record.new_key, *before.verifier_keys)))
                self._keys[source_key(record.new_key).public] = record.source
            case SourceStateChanged():
                self._change(index, replace(self._now(record.source).registration, state=record.state))
            case LicenceRevoked():
                revocation = Revocation(record.attestation, record.effective_ms, record.reason)
                self._revocations.setdefault(record.attestation, []).append((index, revocation))
            case PolicyAdopted():
                self._policies.append((index, record))

    def _change(self, index: int, registration: Registration) -> None:
        states = self._sources[registration.source]
        states.append((index, replace(states[-1][1], registration=registration)))

    def _now(self, source: str) -> Source:
        states = self._sources.get(source)
        if not states:
            raise NotEntitledError(f"{source!a} is not registered.", remedy="Register it: `licet source add`.")
        return states[-1][1]

    # -- who may do what

    def _check_registration(self, index: int, record: SourceRegistered) -> None:
        check_source_id(record.source)
        if record.source in self._sources or record.source == self.registry:
            raise OrderError(f"There is already a source {record.source}.", remedy="Choose another id.")
        check_text(record.display_name, "A display name", bytes_max=DISPLAY_NAME_BYTES_MAX)
        check_text(record.authority, "The name of an authority class", bytes_max=AUTHORITY_BYTES_MAX)
        self._check_new_key(index, source_key(record.verifier_key))

    def _check_new_key(self, index: int, key: VerifierKey) -> None:
        """A key is one source's, and once only: so an agreement to it cannot be offered a second time."""
        holder = self._keys.get(key.public)
        if holder is not None or key.public == self.operator_key(index).public:
            raise OrderError(f"This key is or was that of {holder or 'the registry'}.", remedy="Make a new key.")

    def _check_rotation(self, index: int, record: SourceKeyRotated) -> None:
        source = self._now(record.source)
        if record.old_key != source.key:
            raise OrderError(f"{source.id} does not sign with the key that is to be succeeded.")
        self._check_new_key(index, source_key(record.new_key))
        if record.by not in (source.id, self.registry):
            raise NotEntitledError(f"Only {source.id} or the operator may change its key, not {record.by!a}.")
        signer = source_key(source.key) if record.by == source.id else self.operator_key(index)
        verify_source_rotation(self.registry, record, signer)

    def _check_state(self, index: int, record: SourceStateChanged) -> None:
        source = self._now(record.source)
        check_reason(record.reason)
        if record.by != self.registry:
            raise NotEntitledError(f"Only the operator suspends and reinstates sources, not {record.by!a}.")
        if source.registration.state is record.state:
            raise OrderError(f"{source.id} is {record.state.value} already.", remedy="There is nothing to do.")

    def _check_revocation(self, index: int, record: LicenceRevoked) -> None:
        """The operator may revoke, the source itself, and an active source of a class with that right."""
        check_reason(record.reason)
        if record.by == self.registry:
            verify_revocation(self.registry, record, self.operator_key(index))
            return
        source = self._now(record.by)
        verify_revocation(self.registry, record, source_key(source.key))
        if self._source_of(record.attestation) != source.id and not self._may_revoke(source, index):
            raise NotEntitledError(
                f"{source.id} may not revoke an attestation that is not its own.",
                remedy="Let its source or the operator do it, or give the authority class the right in the policy.",
            )

    def _may_revoke(self, source: Source, size: int) -> bool:
        adopted = self.adopted(size)
        if adopted is None or not source.is_active:
            return False
        return source.registration.authority in _revoking_classes(adopted.text)


@lru_cache(maxsize=64)
def _revoking_classes(text: str) -> frozenset[str]:
    """The classes with the right to revoke; none by a policy that this release cannot read."""
    try:
        taxonomy = Policy.parse(text).document.authority
    except PolicyError:
        return frozenset()
    return frozenset(name for name, authority in taxonomy.items() if "revoke" in authority.rights)


def _last(states: Sequence[tuple[int, _Said]], size: int) -> _Said | None:
    """The newest of what was said before entry `size`."""
    return next((said for index, said in reversed(states) if index < size), None)
