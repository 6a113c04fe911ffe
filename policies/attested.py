"""Attestations as a registry's log holds them: found by id, opened when they are asked for, and only once.

One counts if it opens under the key that its source signed with when it was recorded, if that source was not suspended
then, and if it says what its record says.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import TypeVar

from licet.ledger import lookup
from licet.ledger.errors import ConfigError, FormatError, LicetError, NotFoundError, OrderError, VerificationError
from licet.ledger.records import AttestationRecorded, Digest, Opaque, Record
from licet.ledger.store import Table
from licet.ledger.view import View
from licet.policies.attestation import Attestation, attestation_id, claimed_source, open_envelope
from licet.policies.example import Registration
from licet.policies.history import History, Source
from licet.policies.reasons import Reason, Refused

OPENED_MAX = 65_536
PREFIX_DIGITS_MIN = 8
_CANDIDATES_MAX = 64
_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class Recorded:
    """An attestation that holds, and the entry that recorded it."""

    index: int
    attestation: Attestation


class Attested:
    """The attestations of one log. It remembers the entries that do not count, as far as it met them."""

    def __init__(self, log: View, history: History) -> None:
        self.problems: dict[int, str] = {}
        self._log = log
        self._history = history
        self._opened: dict[Digest, Recorded | None] = {}

    def get(self, attestation: Digest, size: int) -> Recorded | None:
        """The first record of an attestation that holds, if it stands before entry `size`."""
        if attestation not in self._opened:
            keep(self._opened, attestation, self._first_that_holds(attestation), OPENED_MAX)
        recorded = self._opened[attestation]
        return recorded if recorded is not None and recorded.index < size else None

    def all(self, size: int) -> Iterator[Recorded]:
        """All that hold, oldest first."""
        for index, record in records(self._log, size, AttestationRecorded):
            if isinstance(record, AttestationRecorded):
                recorded = self.get(record.attestation, size)
                if recorded is not None and recorded.index == index:
                    yield recorded
                elif recorded is not None:
                    self.problems[index] = "The attestation is recorded already."

    def find(self, digits: str, size: int) -> Digest:
        """The id that begins with these hexadecimal digits."""
        wanted = digits.strip().lower()
        if not PREFIX_DIGITS_MIN <= len(wanted) <= 64 or not set(wanted) <= set("0123456789abcdef"):
            raise ConfigError(
                f"{digits[:80]!a} is no id of an attestation.",
                remedy=f"Write {PREFIX_DIGITS_MIN} to 64 hexadecimal digits of it.",
            )
        prefix = bytes.fromhex(wanted[: len(wanted) // 2 * 2])[: lookup.ID_BYTES]
        start = bytes([AttestationRecorded.KIND]) + prefix
        keys = islice(self._log.scan(Table.LOOKUP, start, start + b"\xff" * 33), _CANDIDATES_MAX)
        found = (self._log.record(i) for i in (lookup.index_of(key) for key, _ in keys) if i < size)
        ids = {record.attestation for record in found if isinstance(record, AttestationRecorded)}
        matching = [one for one in ids if one.hex().startswith(wanted)]
        if len(matching) > 1:
            raise ConfigError(f"Several attestations begin with {wanted}.", remedy="Write more digits of the id.")
        if not matching:
            raise NotFoundError(f"The registry holds no attestation {wanted}.", remedy="Check the id.")
        return matching[0]

    def check(self, index: int, record: AttestationRecorded) -> Attestation:
        """What a record's envelope says; raise unless its source could say it at entry `index`."""
        source = self._history.source(record.source, index)
        if source is None:
            raise Refused(
                Reason.SOURCE_UNREGISTERED,
                f"{record.source[:256]!a} is not registered.",
                remedy="Register it: `licet source add`.",
            )
        if not source.is_active:
            raise Refused(
                Reason.SOURCE_SUSPENDED,
                f"{source.id} is suspended.",
                remedy=f"Reinstate it first, if that is meant: `licet source reinstate {source.id}`.",
            )
        opened = open_envelope(record.envelope, (with_current_key(source),))
        said = (opened.id, opened.statement.source, opened.statement.licence)
        if said != (record.attestation, record.source, record.licence):
            raise VerificationError("The record does not say what its envelope says.", index=index)
        return opened

    def take_in(self, index: int, record: AttestationRecorded) -> None:
        """Remember a record that was checked and appended."""
        if self.get(record.attestation, index) is not None:
            raise OrderError(f"The attestation {record.attestation.hex()} is recorded already.")
        self._opened[record.attestation] = Recorded(index, self.check(index, record))

    def _first_that_holds(self, attestation: Digest) -> Recorded | None:
        for index, record in self._log.find(AttestationRecorded, attestation):
            try:
                return Recorded(index, self.check(index, record))
            except LicetError as error:
                self.problems[index] = error.message
        return None


def claimed_source_of(log: View, attestation: Digest) -> str | None:
    """Whose attestation this is, without opening it: it only tells who may revoke it."""
    for _, record in log.find(AttestationRecorded, attestation):
        if attestation_id(record.envelope) == attestation and claimed_source(record.envelope) == record.source:
            return record.source
    return None


def records(log: View, size: int, *kinds: type[Record]) -> Iterator[tuple[int, Record]]:
    """The records of some kinds in their order. One that cannot be read might take rights away: that is refused."""
    found: list[int] = []
    for kind in kinds:
        keys = log.scan(Table.LOOKUP, bytes([kind.KIND]), bytes([kind.KIND + 1]))
        found += (index for index in (lookup.index_of(key) for key, _ in keys) if index < size)
    for index in sorted(found):
        record = log.record(index)
        if isinstance(record, Opaque):
            raise FormatError(
                f"Entry {index} of {log.origin} was written by a newer release, and may take rights away.",
                remedy="Use a release that can read it.",
            )
        yield index, record


def with_current_key(source: Source) -> Registration:
    """A source as if it had never had another key."""
    return replace(source.registration, verifier_keys=source.registration.verifier_keys[:1])


def keep(cache: dict[_Key, _Value], key: _Key, value: _Value, count_max: int) -> None:
    """Remember something; the oldest falls out of a full cache."""
    while len(cache) >= count_max:
        del cache[next(iter(cache))]
    cache[key] = value
