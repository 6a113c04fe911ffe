"""The registry as policies see it: what its log says of sources, attestations and policies, as of one size.

Nothing is believed because it stands in the log: `history.py` and `attested.py` say what counts. Here it is asked, and
put together to what an example rests on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Self

from licet.ledger.errors import LicetError, NotFoundError, OrderError, VerificationError
from licet.ledger.note import VerifierKey
from licet.ledger.records import AttestationRecorded, Digest, LogOpened, PolicyAdopted, Record
from licet.ledger.view import View
from licet.policies.attestation import Attestation, attestation_id, claimed_source, open_envelope
from licet.policies.attested import Attested, Recorded, claimed_source_of, keep, records, with_current_key
from licet.policies.example import Registration, Standing
from licet.policies.history import ACTS, History, Source
from licet.policies.policy import Policy
from licet.policies.reasons import Reason, Refused
from licet.policies.rights import LicenceState, Revocation, revoked_from, state_of

__all__ = ["Problem", "Recorded", "Registry", "Source"]

CHAIN_MAX = 256
"""No policy allows more attestations behind one."""
STANDINGS_MAX = 4096


@dataclass(frozen=True, slots=True)
class Problem:
    """An entry that does not count, and why."""

    index: int
    message: str


class _Chain(NamedTuple):
    """What an attestation rests on."""

    sources: tuple[Registration, ...]
    revocations: tuple[Revocation, ...]
    upstream: tuple[bytes, ...]


class Registry:
    """What a registry log says as of `size`. What others append later is not seen; read again for that."""

    def __init__(self, log: View, first_key: VerifierKey) -> None:
        self.origin = log.origin
        self.size = log.size
        self._history = History(log.origin, first_key, partial(claimed_source_of, log))
        self._attested = Attested(log, self._history)
        self._problems: dict[int, str] = {}
        self._chains: dict[tuple[bytes, int], _Chain] = {}
        self._standings: dict[tuple[bytes | None, int, int], Standing] = {}

    @classmethod
    def read(cls, log: View, operator: VerifierKey | None = None) -> Self:
        """Follow a log. With `operator`, its first key must be this one; without, it is the one that the log names."""
        opened = log.record(0) if log.size else None
        if not isinstance(opened, LogOpened) or opened.origin != log.origin:
            raise VerificationError("This is not a registry: its first entry does not open it.", index=0)
        first_key = VerifierKey.parse(opened.verifier_key)
        if operator is not None and first_key != operator:
            raise VerificationError(
                f"The registry {log.origin} was opened with another key.", index=0, remedy="Compare verifier keys."
            )
        registry = cls(log, first_key)
        for index, record in records(log, log.size, *ACTS):
            try:
                registry._history.check(index, record)
                registry._history.apply(index, record)
            except LicetError as error:
                registry._problems[index] = error.message
        return registry

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Entries that do not count. Of attestations only those that were asked for are known; `audit` asks for all."""
        found = {**self._problems, **self._attested.problems}
        return tuple(Problem(index, found[index]) for index in sorted(found) if index < self.size)

    def audit(self) -> tuple[Problem, ...]:
        """Open every attestation, which takes a while; all problems there are."""
        for _ in self.attestations():
            pass
        return self.problems

    # -- sources and policies

    @property
    def sources(self) -> tuple[Source, ...]:
        """All sources, in the order in which they were registered."""
        return tuple(self._history.sources(self.size))

    def source(self, source: str) -> Source:
        """One source; `Refused` if it is not registered."""
        known = self._history.source(source, self.size)
        if known is None:
            raise Refused(
                Reason.SOURCE_UNREGISTERED,
                f"{source[:256]!a} is not registered.",
                remedy="Register it with `licet source add`; `licet source list` shows who is.",
            )
        return known

    def has_source(self, source: str) -> bool:
        return self._history.source(source, self.size) is not None

    def source_with_key(self, key: VerifierKey) -> Source | None:
        """The source that signs with this key now."""
        return self._history.source_with_key(key, self.size)

    @property
    def operator_key(self) -> VerifierKey:
        """The key that signs the registry's log now."""
        return self._history.operator_key(self.size)

    @property
    def adopted(self) -> PolicyAdopted | None:
        """The policy that was adopted last."""
        return self._history.adopted(self.size)

    def policy(self) -> Policy:
        """The active policy. If the last one cannot be read there is none: an older one is not put in its place."""
        adopted = self.adopted
        if adopted is None:
            raise NotFoundError("No policy was adopted yet.", remedy="Adopt one: `licet policy adopt FILE`.")
        return Policy.parse(adopted.text, "The active policy")

    # -- attestations

    def attestation(self, attestation: Digest) -> Recorded:
        """A recorded attestation; `NotFoundError` if there is none that holds."""
        recorded = self._attested.get(attestation, self.size)
        if recorded is None:
            raise self._no_attestation(attestation)
        return recorded

    def has_attestation(self, attestation: Digest) -> bool:
        return self._attested.get(attestation, self.size) is not None

    def find(self, digits: str) -> Recorded:
        """The attestation whose id begins with these hexadecimal digits."""
        return self.attestation(self._attested.find(digits, self.size))

    def attestations(self) -> Iterator[Recorded]:
        """All attestations that hold, oldest first."""
        return self._attested.all(self.size)

    def revocations(self, attestation: Digest) -> tuple[Revocation, ...]:
        """The revocations of an attestation that count."""
        return self._history.revocations(attestation, self.size)

    def licence_state(self, attestation: Digest, at_ms: int) -> LicenceState:
        """What the licence of a recorded attestation is worth at a moment."""
        licence = self.attestation(attestation).attestation.statement.licence
        return state_of(licence, revoked_from(self.revocations(attestation), attestation), at_ms)

    # -- what an example rests on

    def standing(self, attestation: Digest | bytes | None, at_ms: int) -> Standing:
        """What the registry says of everything that an example under this attestation rests on.

        The attestation is named by its id if it is recorded, or given as an envelope. One that is not recorded must
        be signed with its source's current key: nobody can tell whether an older key was still good.
        """
        return self._standing(attestation, at_ms, self.size)

    def confirm(self, standing: Standing, attestation: Digest | bytes | None) -> None:
        """Raise unless this is what the registry said at that size of whatever rests on this attestation.

        Without the attestation nobody could tell that its revocation was left out.
        """
        if standing.registry != self.origin:
            raise VerificationError(f"This is a claim about the registry {standing.registry!a}, not {self.origin}.")
        if not 0 < standing.size <= self.size:
            raise VerificationError(
                f"This is a claim about {standing.size} entries of {self.origin}, which has {self.size} here.",
                remedy="Catch up with the registry, and ask again.",
            )
        said = self._standing(attestation, standing.at_ms, standing.size)
        for what, claimed, true in (
            ("sources", standing.sources, said.sources),
            ("revocations", standing.revocations, said.revocations),
            ("attestations upstream", standing.upstream, said.upstream),
        ):
            if len(claimed) != len(true) or set(claimed) != set(true):
                raise VerificationError(
                    f"What is claimed of the {what} is not what {self.origin} said at size {standing.size}.",
                    remedy="Ask the registry for the standing of this attestation, and use it as it is.",
                )

    def _standing(self, attestation: Digest | bytes | None, at_ms: int, size: int) -> Standing:
        place = (attestation, at_ms, size)
        if place not in self._standings:
            chain = _Chain((), (), ()) if attestation is None else self._chain(attestation, size)
            keep(self._standings, place, Standing(self.origin, size, at_ms, *chain), STANDINGS_MAX)
        return self._standings[place]

    def _chain(self, attestation: bytes, size: int) -> _Chain:
        if (attestation, size) not in self._chains:
            keep(self._chains, (attestation, size), self._follow(attestation, size), STANDINGS_MAX)
        return self._chains[attestation, size]

    def _follow(self, attestation: bytes, size: int) -> _Chain:
        """Every attestation behind this one, nearest first. What is not recorded is left out, and will be missed."""
        own = Digest(attestation) if len(attestation) == 32 else attestation_id(attestation)
        recorded = self._attested.get(own, size)
        sources: dict[str, Registration] = {}
        start = recorded.attestation if recorded is not None else None
        if start is None:
            if len(attestation) == 32:
                raise self._no_attestation(own)
            start = self._open_unrecorded(attestation, size, sources)
        found: dict[Digest, Attestation] = {}
        waiting = deque([start] if start is not None else [])
        while waiting:
            current = waiting.popleft()
            source = self._history.source(current.statement.source, size)
            if source is not None:
                sources.setdefault(source.id, source.registration)
            for digest in current.statement.upstream:
                behind = None if digest in found or digest == own else self._attested.get(digest, size)
                if behind is not None and len(found) < CHAIN_MAX:
                    found[digest] = behind.attestation
                    waiting.append(behind.attestation)
        revocations = {revocation for digest in (own, *found) for revocation in self._history.revocations(digest, size)}
        upstream = tuple(behind.envelope for behind in found.values())
        return _Chain(tuple(sources[name] for name in sorted(sources)), tuple(sorted(revocations)), upstream)

    def _open_unrecorded(self, envelope: bytes, size: int, sources: dict[str, Registration]) -> Attestation | None:
        """What an envelope says if its source's current key signed it; that source is noted with that key only."""
        source = self._history.source(claimed_source(envelope) or "", size)
        if source is None:
            return None
        sources[source.id] = with_current_key(source)
        try:
            return open_envelope(envelope, (sources[source.id],))
        except Refused:
            return None  # the gate opens it again, and says why not

    def _no_attestation(self, attestation: Digest) -> NotFoundError:
        return NotFoundError(
            f"The registry {self.origin} holds no attestation {attestation.hex()}.", remedy="Record it: `licet attest`."
        )

    # -- writing

    def check(self, record: Record) -> None:
        """Raise unless this record would count as the next entry."""
        if isinstance(record, AttestationRecorded):
            self._attested.check(self.size, record)
        else:
            self._history.check(self.size, record)

    def take_in(self, index: int, record: Record) -> None:
        """Follow a record that was checked and appended as entry `index`."""
        if index != self.size:
            raise OrderError(f"Entry {index} does not follow the {self.size} that the registry knows.")
        if isinstance(record, AttestationRecorded):
            self._attested.take_in(index, record)
        else:
            self._history.apply(index, record)
        self.size = index + 1
