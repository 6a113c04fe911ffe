"""A comparison of policies shows what changed, by name, and nothing else."""

from __future__ import annotations

from licet.policies.diff import ABSENT, Change, diff
from licet.policies.policy import Policy
from tests.policies.documents import SMALL, policy


def test_nothing_changed():
    assert diff(policy(), policy()) == ()
    for name in Policy.defaults():
        assert diff(Policy.read_default(name), Policy.read_default(name)) == ()


def test_parts_are_compared_by_name_and_not_by_place():
    assert diff(policy(), policy(rule=SMALL["rule"][::-1])) == ()
    renamed = [{**SMALL["rule"][0], "id": "viral"}, SMALL["rule"][1]]
    fields = {change.field for change in diff(policy(), policy(rule=renamed))}
    assert "rule[copyleft].because" in fields
    assert "rule[viral].because" in fields


def test_a_changed_weight_a_new_field_and_a_default():
    changed = {**SMALL["authority"], "community": {"ceiling": {"surface": 0.5, "*": 0.0}, "skills": ["coding"]}}
    assert diff(policy(), policy(authority=changed)) == (
        Change("authority.community.ceiling.*", 1.0, 0.0),
        Change("authority.community.ceiling.surface", ABSENT, 0.5),
    )
    assert diff(policy(), policy(inference={"mode": "stop"})) == (Change("inference.mode", "divert", "stop"),)


def test_the_order_of_licence_classes_counts():
    turned = dict(reversed(SMALL["spdx"].items()))
    (change,) = diff(policy(), policy(spdx=turned))
    assert change.before == ["permissive", "copyleft"]


def test_changes_of_memorization_and_adaptation_are_told_by_band():
    changed = policy(memorization={"response": {"surface": "record", "*": "restrict"}}, adaptation={"enabled": True})
    assert diff(policy(), changed) == (
        Change("adaptation.enabled", False, True),
        Change("memorization.response.*", "attenuate", "restrict"),
        Change("memorization.response.surface", ABSENT, "record"),
    )
