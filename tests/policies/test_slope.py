"""Slope: chains that must be refused, each with its code; then the distances that the others have."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from licet.ledger.records import LicenceKind, SourceState
from licet.policies.attestation import attestation_id
from licet.policies.reasons import Reason, Refused
from licet.policies.slope import farthest, of_chain
from tests.policies import signed

SOURCES = ("ada", "bob")


def slope_in(graph: dict, start, *, own=None, chain_max: int = 100) -> int:
    """Of a graph whose nodes are numbers."""

    def name(number: int) -> bytes:
        return number.to_bytes(32, "big")

    named = {name(node): tuple(map(name, parents)) for node, parents in graph.items()}
    at_ends = {name(node): value for node, value in (own or {}).items()}
    return farthest(
        name(start), lambda node: named.get(node, ()), lambda node: at_ends.get(node, 0), chain_max=chain_max
    )


def why(call, *arguments, **more) -> Reason:
    with pytest.raises(Refused) as caught:
        call(*arguments, **more)
    assert caught.value.message
    return caught.value.reason


# -- the walk


@pytest.mark.parametrize(
    "graph",
    [{0: [0]}, {0: [1], 1: [0]}, {0: [1], 1: [2], 2: [1]}, {0: [1, 2], 1: [], 2: [3], 3: [2]}, {0: [1], 1: [1, 2]}],
    ids=["itself", "two", "behind", "beside", "loop-with-exit"],
)
def test_cycles(graph):
    assert why(slope_in, graph, 0) is Reason.SLOPE_CYCLE


def test_a_chain_that_is_too_long():
    chain = {i: [i + 1] for i in range(10)}
    assert slope_in(chain, 0, chain_max=10) == 10
    assert why(slope_in, chain, 0, chain_max=9) is Reason.SLOPE_TOO_LONG


def test_too_many_attestations_in_all():
    assert slope_in({0: range(1, 11)}, 0, chain_max=10) == 1
    assert why(slope_in, {0: range(1, 11)}, 0, chain_max=9) is Reason.SLOPE_TOO_LONG


def test_endless_chains_are_left_early():
    asked = []

    def upstream_of(node):
        asked.append(node)
        return (len(asked).to_bytes(32, "big"),)

    assert why(farthest, b"\xff" * 32, upstream_of, lambda _: 0, chain_max=50) is Reason.SLOPE_TOO_LONG
    assert len(asked) == 51


def test_a_long_chain_needs_no_recursion():
    assert slope_in({i: [i + 1] for i in range(50_000)}, 0, chain_max=50_000) == 50_000


def test_diamonds_are_walked_once():
    layers = {}
    for layer in range(60):
        for node in (2 * layer, 2 * layer + 1):
            layers[node] = [2 * layer + 2, 2 * layer + 3]
    began = time.monotonic()
    assert slope_in(layers, 0, chain_max=200) == 60
    assert time.monotonic() - began < 2


def test_the_farthest_counts_and_ends_bring_their_own():
    graph = {0: [1, 2], 1: [3], 2: [3], 3: []}
    assert slope_in(graph, 0) == 2
    assert slope_in({0: [1, 2], 2: [3]}, 0) == 2
    assert slope_in({0: [1, 2]}, 0, own={2: 1}) == 2
    assert slope_in({}, 0, own={0: 1}) == 1
    assert slope_in({0: [1, 1, 1]}, 0) == 1


@given(st.dictionaries(st.integers(0, 12), st.lists(st.integers(0, 12), max_size=4), max_size=12))
def test_against_plain_recursion(graph):
    def longest(node, way=()):
        if node in way:
            raise RecursionError
        return max((1 + longest(parent, (*way, node)) for parent in graph.get(node, ())), default=0)

    try:
        expected = longest(0)
    except RecursionError:
        assert why(slope_in, graph, 0) is Reason.SLOPE_CYCLE
    else:
        assert slope_in(graph, 0) == expected


# -- attestations

FIRST = signed.envelope(source="ada", content="first-hand")


def derived(*upstream: bytes, source: str = "bob", content: str = "derived", **changes):
    ids = tuple(attestation_id(envelope) for envelope in upstream)
    return signed.statement(source, content, upstream=ids, **changes)


def slope_of(said, *upstream: bytes, chain_max: int = 8, **changes) -> int:
    changes.setdefault("sources", SOURCES)
    sources = changes.pop("sources")
    standing = signed.standing(*sources, upstream=upstream, **changes)
    return of_chain(signed.attestation(said), standing, chain_max=chain_max)


def test_an_upstream_attestation_that_is_not_there():
    assert why(slope_of, derived(FIRST)) is Reason.SLOPE_UPSTREAM_MISSING
    assert why(slope_of, derived(FIRST), signed.envelope(content="other")) is Reason.SLOPE_UPSTREAM_MISSING
    second = signed.envelope(derived(FIRST))
    assert why(slope_of, derived(second), second) is Reason.SLOPE_UPSTREAM_MISSING


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"{}",
        signed.envelope(by=signed.key("mallory")),
        signed.envelope(source="mallory"),
        FIRST + b"\n",
        signed.envelope(kind="exclusion"),
        signed.envelope(valid_until_ms=signed.NOW_MS),
        signed.envelope(valid_from_ms=signed.NOW_MS + 1),
    ],
    ids=["empty", "no-envelope", "wrong-key", "unregistered", "respelled", "excluded", "expired", "pending"],
)
def test_an_upstream_attestation_that_does_not_hold(bad):
    assert why(slope_of, derived(bad), bad) is Reason.SLOPE_UPSTREAM_INVALID


def test_an_upstream_licence_that_was_revoked():
    revoked = (signed.revocation(FIRST),)
    assert why(slope_of, derived(FIRST), FIRST, revocations=revoked) is Reason.SLOPE_UPSTREAM_INVALID
    later = (signed.revocation(FIRST, signed.NOW_MS + 1),)
    assert slope_of(derived(FIRST), FIRST, revocations=later) == 1
    behind = signed.envelope(derived(FIRST))
    assert why(slope_of, derived(behind), behind, FIRST, revocations=revoked) is Reason.SLOPE_UPSTREAM_INVALID


def test_an_upstream_source_that_is_suspended():
    suspended = signed.registration("ada", state=SourceState.SUSPENDED)
    assert why(slope_of, derived(FIRST), FIRST, sources=(suspended, "bob")) is Reason.SLOPE_UPSTREAM_INVALID
    assert why(slope_of, derived(FIRST), FIRST, sources=("bob",)) is Reason.SLOPE_UPSTREAM_INVALID


def test_more_attestations_than_the_policy_allows():
    second = signed.envelope(derived(FIRST))
    assert slope_of(derived(second), second, FIRST, chain_max=2) == 2
    assert why(slope_of, derived(second), second, FIRST, chain_max=1) is Reason.SLOPE_TOO_LONG


def test_first_hand_content_is_at_zero():
    for kind in set(LicenceKind) - {LicenceKind.SYNTHETIC}:
        assert slope_of(signed.statement(kind=kind)) == 0


def test_what_a_generator_made_is_never_first_hand():
    assert slope_of(signed.statement(kind="synthetic")) == 1
    assert slope_of(signed.statement(kind="commercial", generator=signed.Generator("model"))) == 1
    assert slope_of(derived(FIRST, kind="synthetic"), FIRST) == 1
    made = signed.envelope(source="ada", kind="synthetic")
    assert slope_of(derived(made), made) == 2


def test_envelopes_that_nothing_leads_to_are_not_read():
    assert slope_of(signed.statement(), b"rubbish") == 0
    assert slope_of(derived(FIRST), b"rubbish", FIRST) == 1


def test_chains_and_diamonds_of_attestations():
    left = signed.envelope(derived(FIRST, content="left"))
    right = signed.envelope(derived(FIRST, content="right"))
    top = derived(left, right, FIRST, content="top")
    assert slope_of(top, right, FIRST, left) == 2
    longer = signed.envelope(derived(right, content="longer"))
    assert slope_of(derived(left, longer), left, right, longer, FIRST) == 3
