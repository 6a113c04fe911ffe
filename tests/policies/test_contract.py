"""Who may ask what of which model: first all the ways to be refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from licet.ledger.records import Digest
from licet.policies.certificate import SkillCertificate
from licet.policies.contract import SKILLS_MAX, Context, Outcome, invoke
from licet.policies.reasons import Reason
from tests.policies.documents import policy

SEAL = Digest(b"s" * 32)
OTHER = Digest(b"o" * 32)
INFERENCE = {
    "fallback": "base",
    "tenants_open": False,
    "tenant": {
        "clinic": {"jurisdictions": ["DE", "AT"], "query_classes": ["general", "medical"]},
        "nobody": {"jurisdictions": []},
        "free": {},
    },
    "query_class": {
        "general": {},
        "medical": {"skills": ["medicine"], "otherwise": "refuse"},
        "code": {"skills": ["coding"], "otherwise": "restrict"},
    },
}
SKILL = {"coding": {"bands": ["behavioral"]}, "medicine": {"bands": ["behavioral"], "certified_share_min": 0.9}}
POLICY = policy(inference=INFERENCE, skill=SKILL, jurisdictions=["EU"])
CLINIC = Context("clinic", "DE", "general")


def certificate(skill, *, certified=95, document=POLICY, share_min_ppm=900_000):
    return SkillCertificate(
        skill, SEAL, document.digest, ("behavioral",), certified, 100, share_min_ppm, "example.org/log", 7, OTHER
    )


MEDICINE = certificate("medicine")
CODING = certificate("coding", certified=100)


def asked(context, *certificates, document=POLICY, seal=SEAL):
    return invoke(context, document, seal, {one.skill: one for one in certificates})


def refused(context, *certificates, **more):
    found = asked(context, *certificates, **more)
    assert found.outcome is Outcome.REFUSE
    assert found.fallback is None
    return found.reasons


@pytest.mark.parametrize("tenant", ["", "stranger", "Clinic", "clinic "])
def test_a_tenant_that_is_not_listed(tenant):
    assert Reason.CONTEXT_TENANT_UNKNOWN in refused(replace(CLINIC, tenant=tenant))


def test_where_tenants_are_open_they_need_no_listing():
    document = policy(inference={**INFERENCE, "tenants_open": True}, skill=SKILL)
    assert asked(Context("stranger"), document=document).outcome is Outcome.ADMIT


@pytest.mark.parametrize(
    "place", [None, "", "FR", "US", "EU", "WORLD", "de", "DE ", "Germany", "DE\n", "\ud800"], ids=ascii
)
def test_a_place_that_is_not_served(place):
    assert refused(replace(CLINIC, jurisdiction=place)) == (Reason.CONTEXT_JURISDICTION,)


@pytest.mark.parametrize("place", ["DE", "AT", "DE-BE"])
def test_a_place_that_is_served(place):
    assert asked(replace(CLINIC, jurisdiction=place)).outcome is Outcome.ADMIT


def test_a_tenant_with_no_place_at_all_is_served_nowhere():
    assert refused(Context("nobody", "DE")) == (Reason.CONTEXT_JURISDICTION,)


def test_a_tenants_places_do_not_widen_the_policys():
    document = policy(inference={"tenant": {"clinic": {"jurisdictions": ["US"]}}}, jurisdictions=["EU"])
    assert refused(Context("clinic", "US"), document=document) == (Reason.CONTEXT_JURISDICTION,)


@pytest.mark.parametrize("query_class", ["", "unheard-of", "General"])
def test_a_query_class_that_the_policy_does_not_know(query_class):
    for tenant in ("clinic", "free"):
        assert refused(Context(tenant, "DE", query_class)) == (Reason.CONTEXT_QUERY_CLASS,)


@pytest.mark.parametrize("query_class", [None, "code"], ids=str)
def test_a_query_class_that_the_tenant_may_not_ask(query_class):
    assert refused(replace(CLINIC, query_class=query_class), CODING) == (Reason.CONTEXT_QUERY_CLASS,)


def test_a_tenant_without_limits_may_leave_the_class_open():
    assert asked(Context("free", "DE")).outcome is Outcome.ADMIT


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (None, Reason.CONTEXT_CERTIFICATE_MISSING),
        (CODING, Reason.CONTEXT_CERTIFICATE_MISSING),
        (replace(MEDICINE, seal=OTHER), Reason.CONTEXT_CERTIFICATE_STALE),
        (replace(MEDICINE, policy=OTHER), Reason.CONTEXT_CERTIFICATE_STALE),
        (replace(MEDICINE, certified=89), Reason.CONTEXT_CERTIFICATE_INSUFFICIENT),
        (replace(MEDICINE, certified=89, share_min_ppm=0), Reason.CONTEXT_CERTIFICATE_INSUFFICIENT),
        (replace(MEDICINE, certified=0, recorded=0, share_min_ppm=0), Reason.CONTEXT_CERTIFICATE_INSUFFICIENT),
    ],
    ids=["none", "of another skill", "of another seal", "of another policy", "too little", "modest", "of nothing"],
)
def test_certificates_that_do_not_hold(found, reason):
    context = replace(CLINIC, query_class="medical")
    answer = asked(context, *([] if found is None else [found]))
    assert (answer.outcome, answer.reasons, answer.uncertified) == (Outcome.REFUSE, (reason,), ("medicine",))


def test_a_certificate_under_the_name_of_another_skill():
    answer = invoke(replace(CLINIC, query_class="medical"), POLICY, SEAL, {"medicine": CODING})
    assert answer.reasons == (Reason.CONTEXT_CERTIFICATE_STALE,)


@pytest.mark.parametrize(("certified", "outcome"), [(90, Outcome.ADMIT), (89, Outcome.REFUSE)], ids=str)
def test_the_share_on_both_sides_of_what_is_asked(certified, outcome):
    context = replace(CLINIC, query_class="medical")
    assert asked(context, replace(MEDICINE, certified=certified)).outcome is outcome


def test_the_class_says_whether_a_fallback_serves():
    answer = asked(Context("free", "DE", "code"))
    assert (answer.outcome, answer.fallback, answer.uncertified) == (Outcome.RESTRICT, "base", ("coding",))
    assert asked(Context("free", "DE", "code"), CODING).outcome is Outcome.ADMIT


def test_without_a_fallback_a_restriction_is_a_refusal():
    without = {name: value for name, value in INFERENCE.items() if name != "fallback"}
    document = policy(inference=without, skill=SKILL)
    assert refused(Context("free", None, "code"), document=document) == (Reason.CONTEXT_CERTIFICATE_MISSING,)


def test_who_is_barred_gets_no_fallback():
    assert refused(Context("stranger", "DE", "code")) == (Reason.CONTEXT_TENANT_UNKNOWN,)


def test_a_request_may_need_more_skills_than_its_class():
    context = Context("free", "DE", "code", frozenset({"medicine"}))
    assert asked(context, CODING).uncertified == ("medicine",)
    assert asked(context, CODING, MEDICINE).outcome is Outcome.ADMIT
    assert refused(Context("free", "DE", None, frozenset({"medicine"}))) == (Reason.CONTEXT_CERTIFICATE_MISSING,)
    assert refused(Context("free", "DE", None, frozenset({"juggling"}))) == (Reason.CONTEXT_CERTIFICATE_MISSING,)


def test_a_request_cannot_need_everything():
    needed = frozenset(f"skill-{i}" for i in range(SKILLS_MAX + 1))
    assert refused(Context("free", "DE", None, needed)) == (Reason.CONTEXT_CERTIFICATE_MISSING,)


def test_who_is_admitted_is_told_so():
    answer = asked(replace(CLINIC, query_class="medical"), MEDICINE)
    assert (answer.outcome, answer.reasons, answer.uncertified) == (Outcome.ADMIT, (Reason.CONTEXT_ADMITTED,), ())
