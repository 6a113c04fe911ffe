"""Slope: how far content is from something that was attested first-hand, by the chain of attestations alone.

First-hand content has slope 0. What a generator made is at 1 if nothing is said of what it was made from; whatever
derives from attested content is one further than the farthest of it. Every attestation on the way must hold now:
what derives from a revoked text is not cleaner than the text.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from licet.ledger.records import Digest, LicenceKind, SourceState
from licet.policies.attestation import Attestation, attestation_id, open_envelope
from licet.policies.example import Standing
from licet.policies.reasons import Reason, Refused
from licet.policies.rights import LicenceState, revoked_from, state_of
from licet.policies.statement import Statement


def of_chain(attestation: Attestation, standing: Standing, *, chain_max: int) -> int:
    """The slope of what an attestation is about; at most `chain_max` attestations may stand behind it."""
    if not attestation.statement.upstream:
        return _own(attestation.statement)
    envelopes = {attestation_id(envelope): envelope for envelope in standing.upstream}
    statements = {attestation.id: attestation.statement}

    def upstream_of(known: Digest) -> Sequence[Digest]:
        if known not in statements:
            statements[known] = _opened(known, envelopes.get(known), standing)
        return statements[known].upstream

    return farthest(attestation.id, upstream_of, lambda known: _own(statements[known]), chain_max=chain_max)


def farthest(
    start: Digest,
    upstream_of: Callable[[Digest], Sequence[Digest]],
    own: Callable[[Digest], int],
    *,
    chain_max: int,
) -> int:
    """The longest way from `start` to where nothing is upstream any more, and what is `own` to that end.

    `upstream_of` is asked once for each node, and before `own`; it may refuse. More than `chain_max` nodes behind
    `start` are refused before they are asked, so the work is bounded whatever the graph.
    """
    graph: dict[Digest, tuple[Digest, ...]] = {}
    found, waiting = {start}, deque([start])
    while waiting:
        node = waiting.popleft()
        graph[node] = tuple(dict.fromkeys(upstream_of(node)))
        for parent in graph[node]:
            if parent not in found:
                found.add(parent)
                waiting.append(parent)
                if len(found) - 1 > chain_max:
                    raise Refused(
                        Reason.SLOPE_TOO_LONG,
                        f"More than {chain_max} attestations stand behind {start.hex()}.",
                        remedy="Let the content be attested by its source first-hand, or raise slope.chain_max.",
                    )
    return _longest(start, graph, own)


def _longest(start: Digest, graph: dict[Digest, tuple[Digest, ...]], own: Callable[[Digest], int]) -> int:
    """Each node once, as soon as all that is upstream of it is done; what never gets there is on a cycle."""
    derived: dict[Digest, list[Digest]] = {node: [] for node in graph}
    missing = {node: len(parents) for node, parents in graph.items()}
    for node, parents in graph.items():
        for parent in parents:
            derived[parent].append(node)
    slopes = {node: own(node) for node, parents in graph.items() if not parents}
    ready = deque(slopes)
    while ready:
        parent = ready.popleft()
        for node in derived[parent]:
            slopes[node] = max(slopes.get(node, 0), slopes[parent] + 1)
            missing[node] -= 1
            if not missing[node]:
                ready.append(node)
    if missing[start]:
        raise Refused(
            Reason.SLOPE_CYCLE,
            f"The attestations behind {start.hex()} lead back to themselves.",
            remedy="Attest the content that the chain really begins with.",
        )
    return slopes[start]


def _own(statement: Statement) -> int:
    """The slope of content that derives from nothing attested. A generator's work is never first-hand."""
    return int(statement.licence.kind is LicenceKind.SYNTHETIC or statement.generator is not None)


def _opened(known: Digest, envelope: bytes | None, standing: Standing) -> Statement:
    """What an upstream attestation states, if it is there and holds now."""
    if envelope is None:
        raise Refused(
            Reason.SLOPE_UPSTREAM_MISSING,
            f"The upstream attestation {known.hex()} is not there.",
            remedy="Let the example carry the envelopes of all attestations behind its own.",
        )
    try:
        statement = open_envelope(envelope, standing.sources).statement
    except Refused as refused:
        raise _invalid(known, refused.message, refused.remedy) from refused
    registration = standing.registration(statement.source)
    if registration is None or registration.state is not SourceState.ACTIVE:
        raise _invalid(known, f"Its source {statement.source} is suspended.")
    state = state_of(statement.licence, revoked_from(standing.revocations, known), standing.at_ms)
    if state is not LicenceState.ACTIVE:
        raise _invalid(known, f"Its licence is {state.value}.")
    return statement


def _invalid(known: Digest, why: str, remedy: str = "") -> Refused:
    message = f"The upstream attestation {known.hex()} does not hold. {why}"
    return Refused(Reason.SLOPE_UPSTREAM_INVALID, message, remedy=remedy)
