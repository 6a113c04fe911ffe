"""Explanations name the rule of each block in words, and say of a rejection what it was for."""

from __future__ import annotations

import pytest

from licet.ledger.records import Determination
from licet.policies.explain import explain
from licet.policies.reasons import Reason
from tests.policies.documents import SIX, policy
from tests.policies.test_evaluate import proposed

BASE = policy()


def test_each_block_says_which_rule_decided_it_and_why():
    told = explain(proposed(terms={"spdx": "GPL-3.0-only"}), [BASE], SIX)
    by_block = {one.block: one for one in told.blocks}
    assert by_block["layer.0"].rule == "small/rule.copyleft"
    assert "Copyleft text is not taught deep." in by_block["layer.0"].because
    assert by_block["layer.2"].rule == "small/reserved.alignment"
    assert "another right" in by_block["layer.2"].because
    assert by_block["layer.5"].because.endswith("(near the edge of the band that this limits)")
    assert by_block["head"].rule == "small/entropy.middle"
    assert [one.level for one in told.blocks] == list(told.admission.levels)


def test_each_limit_is_listed_with_what_it_leaves():
    told = explain(proposed(slope=1), [BASE, policy(name="other")], SIX)
    limits = {(limit.policy, limit.name): limit.weights for limit in told.limits}
    assert limits["small", "slope.1"] == {"surface": 1.0, "behavioral": 0.5, "foundational": 0.0}
    assert ("other", "authority.community") in limits
    assert all(limit.because for limit in told.limits)


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"terms": {"spdx": "ISC"}}, "small/rule.unknown", "Nobody here read this licence."),
        ({"scope": ()}, Reason.METADATA_SCOPE_MISSING.value, Reason.METADATA_SCOPE_MISSING.meaning),
        ({"envelope": None}, Reason.ATTESTATION_MISSING.value, Reason.ATTESTATION_MISSING.meaning),
    ],
    ids=["rule", "metadata", "attestation"],
)
def test_a_rejection_says_what_for(changes, code, words):
    told = explain(proposed(**changes), [BASE], SIX)
    assert told.admission.determination is Determination.REJECTED
    assert (code, words) in told.reasons
    assert all(one.because for one in told.blocks)
