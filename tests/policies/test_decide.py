"""The table of verdicts, row by row and on both sides of each limit; and the algebra that nothing may break."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from licet.ledger.errors import FormatError
from licet.ledger.records import Action, Depth, Digest, Licence, LicenceKind, Mode, Recall
from licet.policies.decide import decide
from licet.policies.evidence import (
    MATCHES_MAX,
    Evidence,
    Match,
    MatchKind,
    depth_of,
    ended_shares,
    tainted_share,
)
from licet.policies.reasons import Reason
from licet.policies.rights import LicenceState, state_of
from licet.policies.rulebook import Rulebook
from licet.policies.verdict import Enforcement
from tests.policies.documents import policy

ALLOW, ATTRIBUTE, SUPPRESS = Action.ALLOW, Action.ATTRIBUTE, Action.SUPPRESS
WORSE = {ALLOW: 0, ATTRIBUTE: 1, SUPPRESS: 2}
STATES = list(LicenceState)
LONG = 400


def name_of(number):
    return Digest(bytes([number]) * 32)


def rulebook(mode="divert", **fields):
    limits = {"similarity_min": 0.8, "verbatim_chars_min": 50, "quotation_chars_max": 100}
    heightened = {"similarity_min": 0.6, "verbatim_chars_min": 25, "quotation_chars_max": 0}
    return Rulebook.of(
        policy(inference={"mode": mode, "limits": limits, "heightened": heightened, "common_sources_min": 9, **fields})
    )


RULES = rulebook()


def licence(recall=Recall.VERBATIM, kind=LicenceKind.COMMERCIAL, bands=()):
    return Licence(kind, None, None, None, None, (), bands, recall, ())


def match(start=0, end=200, number=1, **fields):
    chars = fields.pop("chars", end - start)
    held = {
        "attestation": name_of(number),
        "source": f"source {number}",
        "kind": MatchKind.VERBATIM,
        "similarity": 1.0,
        "depth": Depth.SHALLOW,
        "licence": licence(fields.pop("recall", Recall.VERBATIM)),
    }
    return Match(start, end, chars=chars, **{**held, **fields})


def verdict(*matches, state=LicenceState.ACTIVE, rules=RULES, states=None, **evidence):
    found = {one.attestation: state for one in matches if one.attestation is not None and state is not None}
    return decide(Evidence(matches, **evidence), {**found, **(states or {})}, rules)


def line(found, end=LONG):
    """What is done about each position."""
    return [found.action_at(position) for position in range(end)]


# -- what is refused before it is judged


@pytest.mark.parametrize(
    "fields",
    [
        {"start": -1},
        {"start": 200},
        {"start": 1.0},
        {"end": 1 << 40},
        {"start": True},
        {"similarity": math.nan},
        {"similarity": 1.1},
        {"similarity": "1"},
        {"chars": -1},
        {"attestation": b"short"},
        {"attestation": "ab" * 32},
        {"kind": "paraphrase"},
        {"depth": "bottomless"},
        {"source": None},
        {"source": "s" * 2000},
        {"sources_count": -1},
        {"sources_count": 1.5},
    ],
    ids=lambda fields: " ".join(f"{name}-{str(value)[:12]}" for name, value in fields.items()),
)
def test_a_match_that_cannot_be_is_refused(fields):
    with pytest.raises(FormatError, match="A match"):
        replace(match(chars=200), **fields)


def test_incomplete_evidence_suppresses_everything():
    found = verdict(complete=False)
    assert (found.action, found.whole, found.reasons) == (SUPPRESS, True, (Reason.EVIDENCE_INCOMPLETE,))
    assert found.action_at(10**6) is SUPPRESS
    assert verdict(match(), complete=False).action is SUPPRESS


def test_who_drowns_the_judge_gets_no_answer():
    most = [match(i, i + 1, chars=1) for i in range(MATCHES_MAX)]
    assert verdict(*most).action is ALLOW
    found = verdict(*most, match(0, 1, chars=1))
    assert (found.action, found.alert, found.reasons) == (SUPPRESS, True, (Reason.EVIDENCE_INCOMPLETE,))


# -- the table


def test_nothing_matched():
    found = verdict()
    assert (found.action, found.reasons, found.spans, found.alert) == (ALLOW, (Reason.MATCH_NONE,), (), False)


@pytest.mark.parametrize("mode", Mode, ids=str)
@pytest.mark.parametrize(
    ("state", "fields", "action", "alert", "reason"),
    [
        (LicenceState.ACTIVE, {}, ALLOW, False, Reason.MATCH_PERMITTED),
        (LicenceState.ACTIVE, {"recall": Recall.ABSTRACTION, "end": 100}, ATTRIBUTE, False, Reason.MATCH_QUOTATION),
        (LicenceState.ACTIVE, {"recall": Recall.ABSTRACTION}, SUPPRESS, False, Reason.MATCH_BEYOND_QUOTATION),
        (LicenceState.ACTIVE, {"admitted_restricted": True, "end": 100}, ATTRIBUTE, False, Reason.MATCH_QUOTATION),
        (LicenceState.ACTIVE, {"admitted_restricted": True}, SUPPRESS, False, Reason.MATCH_BEYOND_QUOTATION),
        (LicenceState.ACTIVE, {"licence": None}, SUPPRESS, False, Reason.MATCH_BEYOND_QUOTATION),
        (LicenceState.PENDING, {}, SUPPRESS, False, Reason.LICENCE_PENDING),
        (LicenceState.EXPIRED, {}, SUPPRESS, False, Reason.LICENCE_EXPIRED),
        (LicenceState.REVOKED, {}, SUPPRESS, True, Reason.LICENCE_REVOKED),
        (LicenceState.EXCLUDED, {}, SUPPRESS, True, Reason.LICENCE_EXCLUDED),
        (None, {"attestation": None, "depth": Depth.ABSENT}, ALLOW, False, Reason.MATCH_UNRECORDED),
        (None, {"depth": Depth.ABSENT}, ALLOW, False, Reason.MATCH_UNRECORDED),
        (None, {}, SUPPRESS, False, Reason.EVIDENCE_INCOMPLETE),
    ],
    ids=lambda value: (
        "-".join(sorted(value)) or "plain" if isinstance(value, dict) else str(getattr(value, "value", value))
    ),
)
def test_each_row_in_each_mode(mode, state, fields, action, alert, reason):
    found = verdict(match(**fields), state=state, rules=RULES.in_mode(mode))
    assert (found.action, found.alert, found.mode) == (action, alert, mode)
    assert reason in found.reasons
    assert not found.whole
    assert list(found.reasons) == sorted(found.reasons)
    enforced = {
        Mode.MONITOR: Enforcement.NONE,
        Mode.ANNOTATE: Enforcement.ANNOTATE,
        Mode.DIVERT: Enforcement.DIVERT,
        Mode.STOP: Enforcement.STOP,
    }[mode]
    if action is ALLOW:
        enforced = Enforcement.NONE
    elif action is ATTRIBUTE:
        enforced = Enforcement.NONE if mode is Mode.MONITOR else Enforcement.ANNOTATE
    assert found.enforced is enforced


def test_what_is_refused_whole_cannot_be_diverted():
    assert verdict(complete=False, rules=RULES.in_mode(Mode.DIVERT)).enforced is Enforcement.STOP
    assert verdict(complete=False, rules=RULES.in_mode(Mode.MONITOR)).enforced is Enforcement.NONE
    assert verdict(complete=False, rules=RULES.in_mode(Mode.ANNOTATE)).enforced is Enforcement.ANNOTATE


def test_attribution_of_free_text_is_for_the_policy_to_ask():
    found = verdict(match(), rules=rulebook(attribute=True))
    assert (found.action, found.reasons) == (ATTRIBUTE, (Reason.MATCH_ATTRIBUTED,))
    assert [span.attributed_to for span in found.spans] == ["source 1"]


ORDINARY = [(LicenceState.ACTIVE, "verbatim", 50), (LicenceState.ACTIVE, "near", 0.8)]
OTHERS = [state for state in STATES if state is not LicenceState.ACTIVE]
LOWERED = [(state, *limit) for state in OTHERS for limit in (("verbatim", 25), ("near", 0.6))]


@pytest.mark.parametrize(("state", "kind", "measure"), ORDINARY + LOWERED, ids=str)
def test_limits_on_both_sides(state, kind, measure):
    """Active licences have the ordinary limits, all others the heightened ones."""

    def counts(value):
        fields = {"chars": value} if kind == "verbatim" else {"similarity": value}
        return bool(verdict(match(kind=MatchKind(kind), recall=Recall.ABSTRACTION, **fields), state=state).spans)

    below = measure - 1 if kind == "verbatim" else math.nextafter(measure, 0)
    assert counts(measure)
    assert not counts(below)


def test_the_quotation_is_cut_where_the_limit_is():
    found = verdict(match(10, 110, recall=Recall.ABSTRACTION))
    assert [(s.start, s.end, s.action) for s in found.spans] == [(10, 110, ATTRIBUTE)]
    found = verdict(match(10, 111, recall=Recall.ABSTRACTION))
    assert [(s.start, s.end, s.action) for s in found.spans] == [(10, 110, ATTRIBUTE), (110, 111, SUPPRESS)]


def test_quotations_of_one_attestation_add_up():
    pieces = [match(i, i + 60, recall=Recall.ABSTRACTION) for i in (0, 100, 200)]
    found = verdict(*pieces)
    assert (
        line(found)
        == [ATTRIBUTE] * 60
        + [ALLOW] * 40
        + [ATTRIBUTE] * 40
        + [SUPPRESS] * 20
        + [ALLOW] * 40
        + [SUPPRESS] * 60
        + [ALLOW] * 140
    )


def test_quotations_of_different_attestations_do_not_add_up():
    pieces = [match(100 * i, 100 * i + 60, number=i + 1, recall=Recall.ABSTRACTION) for i in range(4)]
    assert verdict(*pieces).action is ATTRIBUTE


def test_overlapping_quotations_count_once():
    same = [match(start, 100, recall=Recall.ABSTRACTION) for start in (0, 10, 20, 40)]
    assert verdict(*same).action is ATTRIBUTE


def test_ended_licences_let_be_quoted_what_the_heightened_limits_say():
    heightened = {"similarity_min": 0.6, "verbatim_chars_min": 25, "quotation_chars_max": 30}
    rules = rulebook(heightened=heightened)
    found = verdict(match(0, 31), state=LicenceState.EXPIRED, rules=rules)
    assert line(found, 31) == [ATTRIBUTE] * 30 + [SUPPRESS]
    assert verdict(match(0, 31), state=LicenceState.REVOKED, rules=rules).action_at(0) is SUPPRESS


# -- several sources


def test_one_active_licence_frees_the_text_it_covers():
    states = {name_of(1): LicenceState.REVOKED, name_of(2): LicenceState.ACTIVE}
    found = decide(Evidence((match(0, 200), match(50, 120, 2))), states, RULES)
    actions = line(found, 200)
    assert actions == [SUPPRESS] * 50 + [ATTRIBUTE] * 70 + [SUPPRESS] * 80
    assert {span.attributed_to for span in found.spans if span.action is ATTRIBUTE} == {"source 2"}
    assert found.alert


def test_a_revocation_that_an_active_licence_covers_whole_raises_no_alert():
    states = {name_of(1): LicenceState.REVOKED, name_of(2): LicenceState.ACTIVE}
    found = decide(Evidence((match(0, 200), match(0, 200, 2))), states, RULES)
    assert (found.action, found.alert) == (ATTRIBUTE, False)


def test_what_may_be_quoted_of_one_is_not_forbidden_by_another():
    states = {name_of(1): LicenceState.EXPIRED, name_of(2): LicenceState.ACTIVE}
    found = decide(Evidence((match(0, 200), match(0, 200, 2, recall=Recall.ABSTRACTION))), states, RULES)
    assert line(found, 200) == [ATTRIBUTE] * 100 + [SUPPRESS] * 100


def test_a_short_permit_does_not_hide_a_longer_one():
    states = {name_of(1): LicenceState.REVOKED, **{name_of(n): LicenceState.ACTIVE for n in (2, 3, 4)}}
    matches = (match(0, 200), match(0, 150, 2), match(0, 50, 3), match(140, 160, 4))
    for order in itertools.permutations(matches):
        found = decide(Evidence(order), states, RULES)
        assert line(found, 200) == [ATTRIBUTE] * 160 + [SUPPRESS] * 40
        relieved = [s for s in found.spans if s.permitted_by]
        assert [(s.start, s.end, s.attributed_to) for s in relieved] == [(0, 150, "source 2"), (150, 160, "source 4")]


def test_matches_in_the_same_place_are_told_in_one_order():
    matches = [match(number=n, kind=kind, similarity=0.9) for n in (1, 2) for kind in MatchKind]
    verdicts = {repr(verdict(*order)) for order in itertools.permutations(matches)}
    assert len(verdicts) == 1


@pytest.mark.parametrize(("similarity", "action"), [(0.9, ATTRIBUTE), (0.85, ATTRIBUTE), (0.84, SUPPRESS)], ids=str)
def test_a_remote_likeness_frees_nothing(similarity, action):
    states = {name_of(1): LicenceState.REVOKED, name_of(2): LicenceState.ACTIVE}
    near = match(kind=MatchKind.NEAR, similarity=0.85)
    found = decide(Evidence((near, match(number=2, kind=MatchKind.NEAR, similarity=similarity))), states, RULES)
    assert found.action is action


@pytest.mark.parametrize(("count", "action"), [(8, SUPPRESS), (9, ALLOW)], ids=str)
def test_common_text(count, action):
    assert verdict(match(sources_count=count), state=LicenceState.REVOKED).action is action


def test_no_text_is_common_where_the_policy_does_not_say_so():
    found = verdict(match(sources_count=10**6), state=LicenceState.REVOKED, rules=rulebook(common_sources_min=0))
    assert found.action is SUPPRESS


@pytest.mark.parametrize("exempt", [True, False], ids=str)
def test_the_users_own_text(exempt):
    found = verdict(match(from_prompt=True), state=LicenceState.REVOKED, rules=rulebook(user_text_exempt=exempt))
    assert found.action is (ALLOW if exempt else SUPPRESS)
    assert (Reason.MATCH_USER_SUPPLIED in found.reasons) is exempt


def test_the_users_own_text_is_nobodys():
    found = verdict(match(0, 200), match(0, 60, 2, from_prompt=True), state=LicenceState.REVOKED)
    assert line(found, 200) == [ALLOW] * 60 + [SUPPRESS] * 140


# -- depth


@pytest.mark.parametrize(
    "fields",
    [
        {"admitted_restricted": True},
        {"licence": licence(kind=LicenceKind.TIME_LIMITED)},
        {"licence": licence(bands=("surface",))},
    ],
    ids=["confined by the gate", "time-limited", "surface band"],
)
def test_deeper_than_the_licence_allows(fields):
    found = verdict(match(0, 60, depth=Depth.DEEP, **fields))
    assert (found.action, found.alert, found.reasons) == (SUPPRESS, True, (Reason.DEPTH_EXCEEDED,))
    assert verdict(match(0, 60, depth=Depth.SHALLOW, **fields)).action is not SUPPRESS


def test_deep_is_no_fault_where_deep_was_allowed():
    deep = licence(bands=("surface", "behavioral"))
    assert verdict(match(depth=Depth.DEEP, licence=deep)).action is ALLOW
    assert verdict(match(depth=Depth.DEEP)).action is ALLOW


@pytest.mark.parametrize(
    ("levels", "exposure", "depth"),
    [
        (None, (), Depth.ABSENT),
        (None, (0, 9, 9), Depth.ABSENT),
        ((0, 0, 0), (0, 0, 0), Depth.ABSENT),
        ((15, 15, 15), (0, 0, 0), Depth.ABSENT),
        ((0, 0, 15), (0, 0, 9), Depth.SHALLOW),
        ((0, 1, 15), (0, 1, 9), Depth.DEEP),
        ((0, 0, 15), (1, 0, 9), Depth.DEEP),
        ((15, 0, 15), (0, 0, 9), Depth.DEEP),
        ((-3, 0, 0), (5, 0, 0), Depth.DEEP),
        ((0, 15), (0, 0, 9), Depth.DEEP),
    ],
    ids=str,
)
def test_depth_of_what_was_recorded(levels, exposure, depth):
    assert depth_of(levels, exposure, {2}) is depth


# -- blocks


@pytest.mark.parametrize(
    ("activity", "shares", "tainted"),
    [
        ((), (), 0.0),
        ((0.0, 0.0), (1.0, 1.0), 0.0),
        ((1.0, 3.0), (1.0, 0.0), 0.25),
        ((1e308, 1e308), (1.0, 0.0), 0.5),
        ((5e-324, 5e-324), (1.0, 1.0), 1.0),
        ((1.0,), (), 1.0),
        ((math.nan, 1.0), (0.0, 0.0), 1.0),
        ((1.0, math.nan), (0.0, 0.0), 1.0),
        ((math.inf, 1.0), (0.0, 0.0), 1.0),
        ((math.inf, 1.0), (0.5, 0.0), 1.0),
        ((-1.0, 2.0), (0.0, 0.0), 1.0),
        ((0.0, 0.0), (math.nan, 0.0), 1.0),
        ((1.0, 0.0), (0.0, math.nan), 1.0),
        ((1.0, 0.0), (0.0, math.inf), 1.0),
        ((1.0, 1.0), (0.0, -0.1), 1.0),
        ((1.0, 1.0), (0.0, 1.1), 1.0),
    ],
    ids=str,
)
def test_tainted_share(activity, shares, tainted):
    assert tainted_share(activity, shares) == tainted


def test_shares_of_what_has_ended():
    shares = {name_of(1): (0.25, 0.0), name_of(2): (0.5, 0.5), name_of(3): (0.25, 0.5)}
    states = {name_of(1): LicenceState.REVOKED, name_of(2): LicenceState.ACTIVE, name_of(3): LicenceState.EXPIRED}
    assert ended_shares(shares, states, 2) == (0.5, 0.5)
    assert ended_shares(shares, {}, 2) == (0.0, 0.0)
    assert ended_shares({name_of(1): (math.nan, 0.0)}, states, 2) == (1.0, 1.0)
    assert ended_shares({name_of(1): (0.0,)}, states, 2) == (1.0, 1.0)


def shares_with(share):
    return {"activity": (1.0, 1.0), "shares": (share, share)}


@pytest.mark.parametrize(
    ("share", "heightened", "whole"),
    [(0.0, False, False), (0.0999, False, False), (0.1, True, False), (0.4999, True, False), (0.5, True, True)],
    ids=str,
)
def test_taint_on_both_sides_of_its_limits(share, heightened, whole):
    found = verdict(match(0, 40, recall=Recall.ABSTRACTION), **shares_with(share))
    assert (found.heightened, found.whole) == (heightened, whole)
    assert found.action is (SUPPRESS if heightened else ALLOW)
    assert (Reason.TAINT_HEIGHTENED in found.reasons, Reason.TAINT_EXCEEDED in found.reasons) == (heightened, whole)


def test_verbatim_licences_hold_under_heightened_limits():
    assert verdict(match(), **shares_with(0.3)).action is ALLOW


def test_no_taint_is_not_too_much_of_it():
    rules = rulebook(tainted_heighten=0.0, tainted_refuse=0.0)
    assert verdict(rules=rules, **shares_with(0.0)).action is ALLOW
    assert verdict(rules=rules, **shares_with(1e-9)).action is SUPPRESS


# -- rules for a tenant, and what is recorded


def test_a_tenant_may_have_a_mode_of_its_own():
    document = policy(inference={"mode": "divert", "tenant": {"acme": {"mode": "stop"}, "other": {}}})
    modes = {name: Rulebook.of(document, name).mode for name in ("acme", "other", "nobody", None)}
    assert modes == {"acme": Mode.STOP, "other": Mode.DIVERT, "nobody": Mode.DIVERT, None: Mode.DIVERT}
    assert Rulebook.of(document).surface == "surface"


def test_each_match_is_recorded_once_and_in_full():
    states = {name_of(1): LicenceState.REVOKED, name_of(2): LicenceState.ACTIVE}
    near = match(50, 120, 2, kind=MatchKind.NEAR, similarity=0.87654321, recall=Recall.ABSTRACTION)
    found = decide(Evidence((match(0, 200), near, match(300, 400, attestation=None))), states, RULES)
    recorded = [(s.start, s.end, s.attestation, s.licence_state, s.kind, s.similarity_ppm) for s in found.as_spans()]
    assert recorded == [
        (0, 200, name_of(1), "revoked", "verbatim", 1_000_000),
        (50, 120, name_of(2), "active", "near", 876_543),
        (300, 400, None, "unrecorded", "verbatim", 1_000_000),
    ]


# -- the algebra


def licences():
    return st.builds(
        licence, st.sampled_from(Recall), st.sampled_from(LicenceKind), st.sampled_from([(), ("surface",), ("*",)])
    )


@st.composite
def cases(draw):
    """Matches of a few attestations, and the state of each."""
    terms = {name_of(i): draw(st.none() | licences()) for i in range(4)}
    states = {name: draw(st.sampled_from(STATES)) for name in terms if draw(st.integers(0, 9))}
    matches = []
    for _ in range(draw(st.integers(0, 7))):
        start = draw(st.integers(0, LONG - 1))
        end = draw(st.integers(start + 1, LONG))
        name = draw(st.none() | st.sampled_from(sorted(terms)))
        matches.append(
            Match(
                start,
                end,
                name,
                draw(st.sampled_from("ab")),
                draw(st.sampled_from(MatchKind)),
                draw(st.sampled_from([0.0, 0.59, 0.6, 0.79, 0.8, 0.9, 1.0])),
                draw(st.sampled_from([0, 24, 25, 49, 50, end - start])),
                draw(st.sampled_from(Depth)),
                terms[name] if name is not None else None,
                draw(st.booleans()),
                draw(st.integers(0, 9)) == 9,
                draw(st.sampled_from([1, 2, 9])),
            )
        )
    share = draw(st.sampled_from([0.0, 0.05, 0.1, 0.2, 0.49, 0.5, math.nan]))
    return Evidence(tuple(matches), (1.0, 0.0), (share, 0.0), draw(st.integers(0, 19)) > 0), states


RULEBOOKS = [
    RULES,
    rulebook(attribute=True, common_sources_min=0),
    rulebook(user_text_exempt=False, common_sources_min=2),
    rulebook(heightened={"similarity_min": 0.6, "verbatim_chars_min": 25, "quotation_chars_max": 60}),
]
rulebooks = st.sampled_from(RULEBOOKS)


def both(before, after):
    """What is done before and after, at each place where either may change."""
    places = {0, LONG - 1}.union(*((s.start, s.end) for s in (*before.spans, *after.spans)))
    return [(before.action_at(place), after.action_at(place)) for place in sorted(places)]


def never_freer(before, after):
    """No position that was suppressed before is anything else after."""
    return all(later is SUPPRESS for earlier, later in both(before, after) if earlier is SUPPRESS)


ENDINGS = {
    LicenceState.ACTIVE: (LicenceState.EXPIRED, LicenceState.REVOKED, LicenceState.EXCLUDED),
    LicenceState.PENDING: (LicenceState.EXPIRED, LicenceState.REVOKED, LicenceState.EXCLUDED),
    LicenceState.EXPIRED: (LicenceState.REVOKED, LicenceState.EXCLUDED),
    LicenceState.REVOKED: (LicenceState.EXCLUDED,),
    LicenceState.EXCLUDED: (),
}


@given(cases(), rulebooks, st.data())
def test_a_licence_that_ends_frees_nothing(case, rules, data):
    evidence, states = case
    before = decide(evidence, states, rules)
    for name, state in states.items():
        for later in ENDINGS[state]:
            after = decide(evidence, {**states, name: later}, rules)
            assert never_freer(before, after), (name, later)
            assert WORSE[after.action] >= WORSE[before.action] or before.action is not SUPPRESS


@given(cases(), rulebooks)
def test_a_restriction_frees_nothing(case, rules):
    evidence, states = case
    before = decide(evidence, states, rules)
    for name in states:
        for restrict in (
            lambda one: replace(one, licence=one.licence and replace(one.licence, recall=Recall.ABSTRACTION)),
            lambda one: replace(one, licence=None) if not one.licence or not one.licence.bands else one,
            lambda one: replace(one, admitted_restricted=True),
            lambda one: replace(one, depth=Depth.DEEP),
        ):
            matches = tuple(restrict(one) if one.attestation == name else one for one in evidence.matches)
            if any(one.licence is None and one.depth is Depth.DEEP for one in matches):
                continue  # terms that are not known cannot be exceeded
            if any(old.licence and old.licence.kind is LicenceKind.EXCLUSION for old in evidence.matches):
                continue
            assert never_freer(before, decide(replace(evidence, matches=matches), states, rules))


@given(cases(), rulebooks, st.sampled_from([0.0, 0.1, 0.3, 0.5, 1.0]))
def test_more_taint_frees_nothing(case, rules, share):
    evidence, states = case
    less = replace(evidence, shares=(share * 0.5, 0.0))
    assert never_freer(decide(less, states, rules), decide(replace(less, shares=(share, 0.0)), states, rules))


@given(cases(), rulebooks)
def test_an_ending_that_also_taints_frees_nothing(case, rules):
    evidence, states = case
    shares = dict.fromkeys(states, (0.2, 0.1))

    def judged(held):
        return decide(replace(evidence, shares=ended_shares(shares, held, 2)), held, rules)

    before = judged(states)
    for name, state in states.items():
        for later in ENDINGS[state]:
            assert never_freer(before, judged({**states, name: later}))


@given(cases(), rulebooks, st.randoms(use_true_random=False))
def test_the_order_of_matches_never_matters(case, rules, chance):
    evidence, states = case
    shuffled = list(evidence.matches)
    chance.shuffle(shuffled)
    assert decide(replace(evidence, matches=tuple(shuffled)), states, rules) == decide(evidence, states, rules)


@given(cases(), rulebooks, st.integers(0, LONG - 1), st.integers(1, LONG))
def test_one_more_verbatim_licence_makes_nothing_worse(case, rules, start, length):
    evidence, states = case
    added = match(start, min(start + length, LONG), 99)
    before = decide(evidence, states, rules)
    after = decide(
        replace(evidence, matches=(*evidence.matches, added)), {**states, name_of(99): LicenceState.ACTIVE}, rules
    )
    pairs = both(before, after)
    assert all(WORSE[later] <= WORSE[earlier] for earlier, later in pairs) or rules.attribute
    assert not any(later is SUPPRESS and earlier is not SUPPRESS for earlier, later in pairs)
    if not before.whole:
        assert SUPPRESS not in line(after)[start : added.end]


@given(cases(), rulebooks)
def test_modes_change_what_is_enforced_and_nothing_else(case, rules):
    evidence, states = case
    verdicts = [replace(decide(evidence, states, rules.in_mode(mode)), mode=Mode.STOP) for mode in Mode]
    assert all(one == verdicts[0] for one in verdicts)


@given(cases(), rulebooks)
def test_spans_lie_in_their_matches_and_make_up_the_action(case, rules):
    evidence, states = case
    found = decide(evidence, states, rules)
    assert all(s.match.start <= s.start < s.end <= s.match.end and s.match in evidence.matches for s in found.spans)
    worst = max((WORSE[span.action] for span in found.spans), default=0)
    assert WORSE[found.action] == (2 if found.whole else worst)
    assert set().union(*(span.reasons for span in found.spans)) <= set(found.reasons)
    assert found.reasons
    for one in evidence.matches:  # what is ruled of a match covers all of it, without gaps
        pieces = sorted({(s.start, s.end) for s in found.spans if s.match is one})
        assert not pieces or (pieces[0][0], pieces[-1][1]) == (one.start, one.end)
        assert all(a[1] == b[0] for a, b in itertools.pairwise(pieces))


@given(st.none() | st.integers(0, 100), st.none() | st.integers(0, 100), st.integers(0, 100), st.integers(0, 100))
def test_time_moves_one_way(valid_from, valid_until, first, second):
    held = replace(licence(), valid_from_ms=valid_from, valid_until_ms=valid_until)
    order = [LicenceState.PENDING, LicenceState.ACTIVE, LicenceState.EXPIRED]
    earlier, later = (order.index(state_of(held, None, at)) for at in sorted((first, second)))
    assert earlier <= later
