"""Admission: fails closed, restrictions only restrict, order never matters, and the wire changes nothing."""

from __future__ import annotations

import base64
import copy
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from licet.ledger.records import ClaimedMs, Determination, LicenceKind, SourceState
from licet.policies import wire
from licet.policies.bands import Architecture
from licet.policies.evaluate import Admission, Gate, evaluate
from licet.policies.example import Example, Membership
from licet.policies.manifest import Manifest, ManifestEntry
from licet.policies.policy import Policy
from licet.policies.reasons import Reason
from licet.policies.rights import Revocation
from tests.policies import signed
from tests.policies.documents import SIX, SMALL, policy
from tests.policies.signed import DAY_MS, NOW_MS

BASE = policy()
NINETY_SIX = Architecture.uniform(96, layers_per_block=4, embedding=10, layer=5)


def proposed(*, authority: str = "community", at_ms: int = NOW_MS, terms: dict[str, Any] | None = None, **changes: Any):
    """An example that the small policy admits; `terms` change the attestation, the rest the example."""
    standing = signed.standing(signed.registration(authority=authority), at_ms=at_ms)
    defaults = {
        "envelope": signed.envelope(**(terms or {})),
        "standing": standing,
        "entropy_band": "middle",
        "bits_per_byte": 3.0,
        "slope": 0,
        "scope": ("pretraining",),
    }
    return signed.example(**{**defaults, **changes})


def judged(example: Example, *policies: Policy, model: Architecture = SIX) -> Admission:
    return evaluate(example, policies or (BASE,), model)


def bands(admission: Admission) -> dict[str, int]:
    """The level of one block of each band, away from edges."""
    return {"surface": admission.levels[-1], "behavioral": admission.levels[2], "foundational": admission.levels[0]}


# -- what is admitted, and how deep


def test_a_complete_example_is_admitted_with_all_that_its_entropy_band_allows():
    admission = judged(proposed(authority="safety"))
    assert admission.determination is Determination.ADMITTED
    assert (admission.reasons, admission.levels) == ((), (15,) * 8)
    assert set(admission.rules) == {"small/entropy.middle"}
    assert admission.source == signed.SOURCE


def test_reserved_blocks_are_closed_without_the_right():
    admission = judged(proposed())
    assert admission.determination is Determination.MODIFIED
    assert admission.reasons == (Reason.PROFILE_RESTRICTED,)
    assert admission.levels == (15, 15, 15, 0, 0, 15, 15, 15)
    assert admission.rules[3] == "small/reserved.alignment"


@pytest.mark.parametrize(
    ("example", "levels", "rule"),
    [
        ({"terms": {"spdx": "GPL-3.0-only"}}, (15, 0, 0), "small/rule.copyleft"),
        ({"terms": {"spdx": "GPL-3.0-only OR MIT"}}, (15, 15, 15), "small/entropy.middle"),
        ({"terms": {"spdx": "GPL-3.0-only AND MIT"}}, (15, 0, 0), "small/rule.copyleft"),
        ({"terms": {"kind": "time-limited"}}, (15, 0, 0), "small/licence.time-limited.surface"),
        ({"terms": {"bands": ("surface", "foundational")}}, (15, 0, 15), "small/entropy.middle"),
        ({"slope": 1}, (15, 7, 0), "small/slope.1"),
        ({"slope": 2}, (7, 0, 0), "small/slope.2"),
        ({"entropy_band": "low", "bits_per_byte": 1.0}, (15, 7, 0), "small/entropy.low"),
        ({"entropy_band": "low", "bits_per_byte": 1.0, "slope": 1}, (15, 3, 0), "small/entropy.low"),
        ({"entropy_band": "high", "bits_per_byte": 5.0}, (7, 15, 15), "small/entropy.high"),
    ],
    ids=lambda value: None,
)
def test_depth_is_the_product_of_what_limits_it(example, levels, rule):
    admission = judged(proposed(authority="safety", **example))
    assert admission.determination is not Determination.REJECTED, admission.reasons
    found = (admission.levels[-1], admission.levels[4], admission.levels[0])
    assert found == levels
    assert admission.rules[0] == rule


def test_a_rule_applies_unless_something_exempts():
    rule = {
        "id": "outsiders",
        "unless": {"authority": ["safety"]},
        "ceiling": {"surface": 1.0, "*": 0.0},
        "because": "so",
    }
    rules = policy(rule=[*SMALL["rule"], rule])
    assert bands(judged(proposed(), rules)) == {"surface": 15, "behavioral": 0, "foundational": 0}
    assert bands(judged(proposed(authority="safety"), rules))["foundational"] == 15


def test_a_licence_of_its_own_is_unknown_unless_the_policy_classes_it():
    terms = {"spdx": "LicenseRef-Acme-2 OR LicenseRef-Other"}
    assert judged(proposed(terms=terms)).reasons == (Reason.RULE_REJECTS,)
    known = policy(spdx={"permissive": ["MIT", "LicenseRef-Acme-*"], "copyleft": ["GPL-*"]})
    assert judged(proposed(authority="safety", terms=terms), known).determination is Determination.ADMITTED


def test_weights_fall_off_inside_the_less_restricted_band_only():
    admission = judged(proposed(authority="safety", terms={"spdx": "GPL-3.0-only"}))
    assert admission.levels == (0, 0, 0, 0, 0, 0, 10, 15)  # layer 5 lies 0.067 above the edge, and the width is 0.1
    assert admission.rules[6] == "small/rule.copyleft.falloff"


def test_the_same_policy_fits_a_large_model_with_tied_weights():
    admission = judged(proposed(authority="safety", terms={"spdx": "AGPL-3.0-only"}), model=NINETY_SIX)
    by_name = dict(zip([b.name for b in NINETY_SIX.blocks], admission.levels, strict=True))
    assert by_name["embedding"] == 0, "tied to the head, it lies at the bottom too: the more restrictive counts"
    assert by_name["layers.92-95"] == 15
    assert by_name["layers.44-47"] == 0


# -- what is refused


def _with_other_payload(envelope: bytes) -> bytes:
    """The envelope with one byte of its statement changed, well-formed as before."""
    values = json.loads(envelope)
    payload = base64.b64decode(values["payload"]).replace(b"Apache-2.0", b"Apache-1.0")
    values["payload"] = base64.b64encode(payload).decode()
    return json.dumps(values, sort_keys=True, separators=(",", ":")).encode()


REFUSED: dict[str, tuple[dict[str, Any], Reason]] = {
    "no attestation": ({"envelope": None}, Reason.ATTESTATION_MISSING),
    "no statement": ({"envelope": b"{}"}, Reason.ATTESTATION_MALFORMED),
    "10 MB of attestation": ({"envelope": b"[" * 10_000_000}, Reason.ATTESTATION_TOO_LARGE),
    "tampered": ({"envelope": _with_other_payload(signed.envelope())}, Reason.ATTESTATION_TAMPERED),
    "another source's key": (
        {"envelope": signed.envelope(signed.statement(), by=signed.key("mallory"))},
        Reason.ATTESTATION_WRONG_KEY,
    ),
    "nobody registered": ({"standing": signed.standing("somebody-else")}, Reason.SOURCE_UNREGISTERED),
    "suspended": (
        {"standing": signed.standing(signed.registration(authority="community", state=SourceState.SUSPENDED))},
        Reason.SOURCE_SUSPENDED,
    ),
    "unknown authority": ({"authority": "passer-by"}, Reason.SOURCE_AUTHORITY_UNKNOWN),
    "other content": ({"content": signed.digest("something else")}, Reason.CONTENT_OUT_OF_SCOPE),
    "expired": ({"terms": {"kind": "time-limited"}, "at_ms": NOW_MS + 31 * DAY_MS}, Reason.ATTESTATION_EXPIRED),
    "not yet valid": ({"terms": {"valid_from_ms": ClaimedMs(NOW_MS + 1)}}, Reason.ATTESTATION_NOT_YET_VALID),
    "no entropy band": ({"entropy_band": None}, Reason.METADATA_ENTROPY_BAND_MISSING),
    "no measurement": ({"bits_per_byte": None}, Reason.METADATA_ENTROPY_MISSING),
    "measurement of another band": ({"bits_per_byte": 1.0}, Reason.METADATA_ENTROPY_CONTRADICTS),
    "measurement that is none": ({"bits_per_byte": float("nan")}, Reason.METADATA_ENTROPY_MISSING),
    "no slope": ({"slope": None}, Reason.METADATA_SLOPE_MISSING),
    "no provenance": ({"provenance": None}, Reason.METADATA_PROVENANCE_MISSING),
    "no scope": ({"scope": ()}, Reason.METADATA_SCOPE_MISSING),
    "scope of others": ({"scope": ("speech",)}, Reason.SCOPE_NOT_COVERED),
    "slope too long": ({"slope": 3}, Reason.SLOPE_TOO_LONG),
    "kind not admitted": ({"terms": {"kind": "commercial"}}, Reason.LICENCE_KIND_NOT_ADMITTED),
    "term missing": ({"terms": {"spdx": None}}, Reason.LICENCE_TERM_MISSING),
    "no SPDX": ({"terms": {"spdx": "Do-What-You-Like"}}, Reason.LICENCE_SPDX_UNKNOWN),
    "rule": ({"terms": {"spdx": "ISC"}}, Reason.RULE_REJECTS),
    "unknown skill": ({"skills": ("singing",)}, Reason.SKILL_UNKNOWN),
    "skill not in the licence": ({"skills": ("coding",)}, Reason.SKILL_NOT_CREDENTIALED),
    "skill beyond the authority": (
        {"skills": ("medicine",), "terms": {"skills": ("medicine",)}},
        Reason.SKILL_NOT_CREDENTIALED,
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_expressly_admitted_is_rejected_with_its_reason(case):
    changes, reason = REFUSED[case]
    admission = judged(proposed(**changes))
    assert admission.determination is Determination.REJECTED
    assert reason in admission.reasons
    assert not any(admission.levels)
    assert b'"determination":"rejected"' in admission.to_json()


def test_all_reasons_are_given_at_once():
    admission = judged(proposed(entropy_band=None, slope=None, scope=(), provenance=None))
    assert len(admission.reasons) == 4


def test_revoked_from_a_moment_on():
    example = proposed()
    revoked = Revocation(signed.digest(example.envelope), NOW_MS, "withdrawn")
    for at_ms, rejected in ((NOW_MS - 1, False), (NOW_MS, True), (NOW_MS + DAY_MS, True)):
        standing = replace(example.standing, at_ms=at_ms, revocations=(revoked,))
        admission = judged(replace(example, standing=standing))
        assert (admission.reasons == (Reason.ATTESTATION_REVOKED,)) is rejected


def test_one_attestation_covers_many_files_by_a_manifest():
    files = {f"file-{i}": f"content {i}".encode() for i in range(300)}
    manifest = Manifest.of(ManifestEntry(name, signed.digest(raw), len(raw)) for name, raw in files.items())
    envelope = signed.envelope(manifest=manifest.root)
    for index, entry in list(enumerate(manifest.entries))[::50]:
        member = manifest.membership(index)
        good = proposed(envelope=envelope, content=entry.digest, content_bytes=entry.bytes, membership=member)
        assert judged(good).determination is not Determination.REJECTED
        for changes in (
            {"content": signed.digest("other")},
            {"content_bytes": entry.bytes + 1},
            {"membership": replace(member, name="file-x")},
            {"membership": replace(member, index=index + 1)},
            {"membership": Membership(member.name, index, member.hashes[:-1])},
        ):
            assert judged(replace(good, **changes)).reasons == (Reason.CONTENT_PROOF_INVALID,)
        assert judged(replace(good, membership=None)).reasons == (Reason.CONTENT_OUT_OF_SCOPE,)


def test_what_is_excluded_is_zero_everywhere():
    example = proposed()
    for exclusion in (
        {"content": [example.content.hex()]},
        {"sources": [signed.SOURCE]},
        {"attestations": [signed.digest(example.envelope).hex()]},
    ):
        admission = judged(example, BASE, policy(name="other", exclusion=exclusion))
        assert admission.reasons == (Reason.CONTENT_EXCLUDED,)
        assert not any(admission.levels)
    forbidding = proposed(terms={"kind": "exclusion", "spdx": None})
    assert judged(forbidding).reasons == (Reason.ATTESTATION_EXCLUDES,)


# -- the algebra

WEIGHTS = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.6, 0.75, 1.0])
CEILINGS = st.fixed_dictionaries({"surface": WEIGHTS, "behavioral": WEIGHTS, "foundational": WEIGHTS})
RULES = st.lists(
    st.builds(
        lambda when, ceiling, reject: {
            "when": when,
            "because": "so",
            **({"reject": True} if reject else {"ceiling": ceiling}),
        },
        st.sampled_from(
            [{}, {"kind": ["open-licence"]}, {"spdx": ["copyleft"]}, {"authority": ["community"]}, {"slope_above": 0}]
        ),
        CEILINGS,
        st.sampled_from([False] * 5 + [True]),
    ),
    max_size=4,
)
EXAMPLES = st.builds(
    lambda authority, terms, band, slope, skills: proposed(
        authority=authority,
        terms={**terms, "skills": ("coding",)},
        entropy_band=band[0],
        bits_per_byte=band[1],
        slope=slope,
        skills=skills,
    ),
    st.sampled_from(["community", "safety"]),
    st.sampled_from(
        [
            {"spdx": "MIT"},
            {"spdx": "GPL-3.0-only"},
            {"kind": "time-limited"},
            {"kind": "synthetic"},
            {"bands": ("surface",)},
        ]
    ),
    st.sampled_from([("low", 1.0), ("middle", 3.0), ("high", 6.0)]),
    st.integers(1, 3),
    st.sampled_from([(), ("coding",)]),
)


def with_rules(rules: list[dict[str, Any]], name: str = "small") -> Policy:
    numbered = [{"id": f"extra-{i}", **rule} for i, rule in enumerate(rules)]
    return policy(name=name, rule=[*SMALL["rule"], *numbered])


def no_deeper(after: Admission, before: Admission) -> bool:
    return all(a <= b for a, b in zip(after.levels, before.levels, strict=True))


@given(EXAMPLES, RULES, RULES)
def test_a_further_rule_or_policy_never_raises_a_weight(example, rules, more):
    before = judged(example, with_rules(rules))
    assert no_deeper(judged(example, with_rules([*rules, *more])), before)
    assert no_deeper(judged(example, with_rules(rules), with_rules(more, "other")), before)
    assert no_deeper(before, judged(example))


@given(EXAMPLES, RULES, st.randoms(use_true_random=False))
def test_order_never_matters(example, rules, random):
    first, second = with_rules(rules), policy(name="other", entropy=SMALL["entropy"])
    shuffled = copy.deepcopy(rules)
    numbered = [{"id": f"extra-{i}", **rule} for i, rule in enumerate(shuffled)]
    both = [*SMALL["rule"], *numbered]
    random.shuffle(both)
    mixed = policy(rule=both)
    one, other = judged(example, first), judged(example, mixed)
    assert (one.levels, one.rules, one.reasons) == (other.levels, other.rules, other.reasons)
    assert judged(example, first, second) == judged(example, second, first) == judged(example, second, first, second)


@given(EXAMPLES, RULES, st.integers(-3, 3))
def test_a_revocation_never_admits(example, rules, days):
    revoked = Revocation(signed.digest(example.envelope), NOW_MS + days * DAY_MS, "withdrawn")
    after = replace(example, standing=replace(example.standing, revocations=(revoked,)))
    before, now = judged(example, with_rules(rules)), judged(after, with_rules(rules))
    assert no_deeper(now, before)
    assert now.determination is Determination.REJECTED or days > 0


@given(EXAMPLES, RULES)
def test_the_wire_changes_nothing(example, rules):
    rule = with_rules(rules)
    sent = wire.parse(wire.to_json(example))
    (row,) = wire.from_arrow(wire.to_arrow([example]))
    assert sent == row == example
    assert judged(sent, rule).to_json() == judged(row, rule).to_json() == judged(example, rule).to_json()


@given(st.lists(EXAMPLES, max_size=12), RULES)
def test_a_gate_that_has_seen_much_answers_as_a_new_one(examples, rules):
    gate = Gate([with_rules(rules)], SIX)
    answers = [gate.admit(example) for example in examples * 2]
    assert answers == [judged(example, with_rules(rules)) for example in examples] * 2


def test_equal_admissions_are_one_object():
    gate = Gate([BASE], SIX)
    assert gate.admit(proposed()) is gate.admit(proposed())
    assert gate.admit(proposed(envelope=None)) is gate.admit(proposed(envelope=None))


def test_ids_follow_content_attestation_and_policies():
    example, other = proposed(), policy(name="other")
    gates = [Gate([BASE], SIX), Gate([BASE, other], SIX), Gate([other, BASE], SIX)]
    one, two, three = (gate.id_of(example, gate.admit(example)) for gate in gates)
    assert one != two == three
    assert gates[0].id_of(replace(example, content=signed.digest("x")), gates[0].admit(example)) != one


def test_kinds_of_licence_are_all_known_to_the_table():
    assert {kind.value for kind in LicenceKind} >= set(SMALL["licence"])
