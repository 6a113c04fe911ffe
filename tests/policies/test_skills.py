"""Skill certificates: what is no certificate, what does not satisfy one, and that the sums are the ledger's."""

from __future__ import annotations

import contextlib
import json
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from licet.ledger.errors import FormatError, LicetError, LimitError, NotFoundError
from licet.ledger.log import Ledger
from licet.ledger.note import SigningKey
from licet.ledger.reader import LogReader
from licet.ledger.records import (
    AttestationMentioned,
    AttestationRecorded,
    Block,
    BlockDigest,
    CheckpointSealed,
    ClaimedMs,
    Determination,
    Digest,
    ExampleAdmitted,
    PolicyMentioned,
    Ref,
    SourceRegistered,
)
from licet.policies.attestation import attestation_id
from licet.policies.certificate import CERTIFICATE_BYTES_MAX, SkillCertificate
from licet.policies.reasons import Reason, Refused
from licet.policies.registry import Registry
from licet.policies.skills import Place, Teacher, certify, certify_seal, share_min_ppm, teachers_of
from tests.ledger.training import Brute, Trainer, digest
from tests.policies import signed
from tests.policies.documents import policy

PLACE = Place(Digest(b"s" * 32), "example.org/log", 7, Digest(b"r" * 32), frozenset())
ADA, BOB, EVE = (Digest(name * 32) for name in (b"a", b"b", b"e"))
BLOCKS = (
    Block("low", ("foundational",), 1),
    Block("mid", ("behavioral", "alignment"), 1),
    Block("top", ("surface",), 1),
)
POLICY = policy(
    skill={
        "coding": {"bands": ["behavioral"], "certified_share_min": 0.75},
        "medicine": {"bands": ["behavioral", "surface"], "authorities": ["safety"], "certified_share_min": 0.5},
    }
)
LAX = policy(
    skill={
        "coding": {"bands": ["behavioral"], "certified_share_min": 0},
        "medicine": {"bands": ["behavioral", "surface"], "certified_share_min": 0},
    }
)
TEACHERS = {ADA: Teacher("safety", True), BOB: Teacher("community", True), EVE: Teacher("safety", False)}


def certified(skill, exposure, teachers=None, document=POLICY, unknown=()):
    place = replace(PLACE, unknown_blocks=frozenset(unknown))
    return certify(skill, document, BLOCKS, exposure, TEACHERS if teachers is None else teachers, place)


# -- what a certificate counts


def test_a_skill_that_the_policy_does_not_know():
    with pytest.raises(Refused) as refused:
        certified("juggling", {})
    assert refused.value.reason is Reason.SKILL_UNKNOWN


def test_exposure_is_never_negative():
    with pytest.raises(FormatError, match="never negative"):
        certified("coding", {("mid", ADA): -1})


def test_nothing_recorded_proves_nothing():
    for exposure in ({}, {("mid", ADA): 0}, {("low", ADA): 9}):
        found = certified("coding", exposure)
        assert (found.share_ppm, found.satisfied) == (0, False)
    assert not certified(
        "coding", {}, document=policy(skill={"coding": {"bands": ["surface"], "certified_share_min": 0}})
    ).satisfied


@pytest.mark.parametrize(
    ("skill", "exposure", "share_ppm"),
    [
        ("coding", {("mid", ADA): 3, ("mid", EVE): 1}, 750_000),
        ("coding", {("mid", ADA): 2, ("mid", EVE): 1}, 666_666),
        ("coding", {("mid", BOB): 1, ("low", EVE): 9, ("top", EVE): 9}, 1_000_000),
        ("coding", {("mid", Digest(b"?" * 32)): 1}, 0),
        ("coding", {("elsewhere", ADA): 5, ("mid", EVE): 1}, 0),
        ("medicine", {("mid", ADA): 1, ("top", BOB): 1}, 500_000),
        ("medicine", {("mid", BOB): 1}, 0),
    ],
    ids=["enough", "too little", "other bands", "not attested", "no such block", "authorities", "no authority"],
)
def test_what_counts(skill, exposure, share_ppm):
    found = certified(skill, exposure)
    assert found.share_ppm == share_ppm
    assert found.satisfied is (share_ppm >= found.share_min_ppm)


@pytest.mark.parametrize(
    ("skill", "unknown", "named"),
    [
        ("coding", {"mid"}, ("mid",)),
        ("coding", {"mid", "top", "low"}, ("mid",)),
        ("medicine", {"mid", "top", "low"}, ("mid", "top")),
        ("coding", {"ungated", "low"}, ("ungated",)),
    ],
    ids=["its band", "only its band", "its bands", "a block that no run has named"],
)
def test_what_came_from_elsewhere_is_never_certified(skill, unknown, named):
    """However good what is recorded, and however little is asked."""
    exposure = {("mid", ADA): 9, ("top", ADA): 9}
    for document in (POLICY, LAX):
        assert certified(skill, exposure, document=document).satisfied
        found = certified(skill, exposure, document=document, unknown=unknown)
        assert (found.unknown_blocks, found.satisfied, found.share_ppm) == (named, False, 1_000_000)
        assert SkillCertificate.from_json(found.to_json()) == found
        assert json.loads(found.to_json())["unknown_blocks"] == list(named)


def test_other_bands_from_elsewhere_do_not_matter():
    found = certified("coding", {("mid", ADA): 1}, unknown={"low", "top"})
    assert (found.unknown_blocks, found.satisfied) == ((), True)


@pytest.mark.parametrize(
    ("certified_", "satisfied"), [(10**30 * 3, True), (10**30 * 3 - 1, False)], ids=["at", "below"]
)
def test_the_share_is_exact_at_any_size(certified_, satisfied):
    found = certified("coding", {("mid", ADA): certified_, ("mid", EVE): 4 * 10**30 - certified_})
    assert found.satisfied is satisfied


@pytest.mark.parametrize(
    ("asked", "ppm"),
    [(0.0, 0), (1.0, 1_000_000), (0.1, 100_000), (0.29, 290_000), (0.0000001, 1), (1 / 3, 333_334)],
    ids=str,
)
def test_the_share_asked_is_rounded_up(asked, ppm):
    document = policy(skill={"coding": {"bands": ["surface"], "certified_share_min": asked}})
    assert share_min_ppm(document.document.skill["coding"]) == ppm


@given(
    st.dictionaries(
        st.tuples(st.sampled_from(["low", "mid", "top"]), st.sampled_from([ADA, BOB, EVE])), st.integers(0, 9)
    ),
    st.sampled_from(["coding", "medicine"]),
    st.sampled_from([ADA, BOB, EVE]),
)
def test_who_loses_the_right_to_teach_certifies_nothing_more(exposure, skill, lost):
    before = certified(skill, exposure)
    after = certified(skill, exposure, {name: t for name, t in TEACHERS.items() if name != lost})
    assert after.certified <= before.certified <= before.recorded == after.recorded
    assert before.satisfied or not after.satisfied


# -- as JSON


@given(
    st.builds(
        lambda skill, bands, certified, more, least, size, unknown: SkillCertificate(
            *(skill, ADA, BOB, tuple(sorted(bands)), certified, certified + more, least, "example.org/log", size, EVE),
            tuple(sorted(unknown)),
        ),
        st.text("abc.-09", min_size=1, max_size=64),
        st.frozensets(st.sampled_from(["surface", "behavioral", "alignment"])),
        st.integers(0, 1 << 120),
        st.integers(0, 1 << 120),
        st.integers(0, 1_000_000),
        st.integers(0, (1 << 63) - 1),
        st.frozensets(st.text("abc.-09é", min_size=1, max_size=20)),
    )
)
def test_a_certificate_is_read_as_it_was_written(found):
    assert SkillCertificate.from_json(found.to_json()) == found


GOOD = certified("coding", {("mid", ADA): 3, ("mid", EVE): 1})


def spelled(**changes):
    fields = {**json.loads(GOOD.to_json()), **changes}
    held = {name: value for name, value in fields.items() if value is not ...}
    return json.dumps(held, sort_keys=True, separators=(",", ":")).encode()


def test_the_spelling_that_the_others_differ_from():
    assert SkillCertificate.from_json(spelled()) == GOOD


@pytest.mark.parametrize(
    "changes",
    [
        *({name: ...} for name in json.loads(GOOD.to_json())),
        *({name: None} for name in json.loads(GOOD.to_json())),
        {"more": 1},
        {"certificate": 1},
        {"certificate": 3},
        {"certificate": True},
        {"certified": 3},
        {"certified": "03"},
        {"certified": "-3"},
        {"certified": "٣"},
        {"certified": "9" * 200},
        {"certified": "5"},
        {"recorded": "5"},
        {"share_ppm": 750_001},
        {"share_ppm": 750_000.0},
        {"share_min_ppm": -1},
        {"share_min_ppm": 1_000_001},
        {"satisfied": False},
        {"satisfied": 1},
        {"satisfied": "true"},
        {"seal": "ab"},
        {"seal": "AB" * 32},
        {"policy": 7},
        {"bands": "surface"},
        {"bands": ["surface", "surface"]},
        {"bands": [1]},
        {"bands": ["a"] * 100},
        {"unknown_blocks": ["b", "a"]},
        {"unknown_blocks": ["a", "a"]},
        {"unknown_blocks": [1]},
        {"unknown_blocks": ["a\nb"]},
        {"unknown_blocks": "a"},
        {"unknown_blocks": ["mid"], "satisfied": True},
        {"skill": ""},
        {"skill": "a" * 65},
        {"skill": "a\nb"},
        {"log": {}},
        {"log": {"origin": "x", "root": "00" * 32, "size": -1}},
        {"log": {"origin": "x", "root": "00" * 32, "size": 1 << 63}},
        {"log": {"origin": "x", "root": "00" * 32, "size": 1, "more": 1}},
        {"log": [1]},
    ],
    ids=lambda changes: " ".join(f"{name}-{ascii(value)[:24]}" for name, value in changes.items()),
)
def test_what_is_no_certificate(changes):
    with pytest.raises(LicetError):
        SkillCertificate.from_json(spelled(**changes))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b"\xff",
        b"[" * 60_000,
        b'{"certificate":1' + b"0" * 6_000 + b"}",
        b'{"a":1,"a":2}',
        b'{"a":NaN}',
        b" " + GOOD.to_json(),
        GOOD.to_json() + b"\n",
        GOOD.to_json().replace(b'"coding"', b'"\\u0063oding"'),
    ],
    ids=[
        "empty",
        "null",
        "list",
        "cut",
        "not utf-8",
        "deep",
        "huge number",
        "twice",
        "nan",
        "before",
        "after",
        "escaped",
    ],
)
def test_bytes_that_are_no_certificate(data):
    with pytest.raises(FormatError):
        SkillCertificate.from_json(data)


def test_a_certificate_that_is_too_large():
    with pytest.raises(LimitError):
        SkillCertificate.from_json(b" " * (CERTIFICATE_BYTES_MAX + 1))


@given(st.binary(max_size=200), st.integers(0, len(GOOD.to_json())))
def test_damage_is_refused_by_name(noise, place):
    whole = GOOD.to_json()
    data = whole[:place] + noise + whole[place + len(noise) :]
    with contextlib.suppress(LicetError):
        assert SkillCertificate.from_json(data).to_json() == data


# -- from a log


@pytest.fixture
def log(tmp_path):
    with Ledger.create(tmp_path / "log", SigningKey.generate("example.org/log")) as ledger:
        yield ledger


def sealed(trainer, number, *, log_size=None):
    """A seal over what the log holds now."""
    ledger, name = trainer.ledger, Digest(digest("seal", number))
    ledger.commit()
    size = ledger.size if log_size is None else log_size
    blocks = tuple(BlockDigest(f"layer.{b}", Digest(bytes(32))) for b in range(trainer.blocks))
    ledger.append(
        CheckpointSealed(
            name, "model", f"v{number}", trainer.run, trainer.step, blocks, None, None, size, Digest(bytes(32)), (), 0
        )
    )
    ledger.commit()
    return name


SURFACE = policy(skill={"coding": {"bands": ["surface"], "certified_share_min": 0.1}})


def expected(log, stop, runs, good):
    """The sums by plain Python, over the events before an entry."""
    certified = recorded = 0
    for event in Brute(log.entry(i) for i in range(log.size)).events:
        if event.index < stop and event.run in runs:
            recorded += sum(event.added.values())
            certified += sum(event.added.values()) if event.attestation in good else 0
    return certified, recorded


def test_a_seal_that_is_not_there(log):
    with pytest.raises(NotFoundError):
        certify_seal(log, Digest(bytes(32)), SURFACE, {})


def test_sums_are_those_of_the_events_before_the_seal(log):
    trainer = Trainer(log, random.Random(5))
    trainer.start(3)
    trainer.declare_some()
    trainer.admit(20)
    trainer.take_step(40)
    first = sealed(trainer, 1)
    first_size = log.find(CheckpointSealed, first)[0][1].log_size
    trainer.take_step(40)  # the run goes on: this belongs to the second seal only
    second = sealed(trainer, 2)
    second_size = log.find(CheckpointSealed, second)[0][1].log_size
    old_run = trainer.run
    trainer.start(3, parent=first)
    trainer.declare_some()
    trainer.take_step(40)
    third = sealed(trainer, 3)
    good = {Digest(digest("attestation", n)) for n in (0, 3, 4)}
    teachers = {name: Teacher("community", True) for name in good}
    with LogReader.open(log.directory.path) as reader:
        sums = {}
        for seal in (first, second, third):
            (found,) = certify_seal(reader, seal, SURFACE, teachers)
            assert (found.seal, found.policy, found.skill) == (seal, SURFACE.digest, "coding")
            sums[seal] = found.certified, found.recorded
        assert SkillCertificate.from_json(found.to_json()) == found
    assert sums[first] == expected(log, first_size, {old_run}, good)
    assert sums[second] == expected(log, second_size, {old_run}, good)
    own = expected(log, log.size, {trainer.run}, good)
    assert sums[third] == tuple(a + b for a, b in zip(own, sums[first], strict=True))
    assert sums[first][1] < sums[second][1]


def test_a_seal_cannot_count_what_came_after_it(log):
    trainer = Trainer(log, random.Random(6))
    trainer.start(2)
    trainer.declare_some()
    trainer.admit(5)
    early = sealed(trainer, 1, log_size=10**9)
    trainer.take_step(20)
    log.commit()
    (found,) = certify_seal(log, early, SURFACE, {})
    assert (found.recorded, found.satisfied) == (0, False)


def test_a_seal_without_a_run_certifies_nothing(log):
    name = outside(log)
    (found,) = certify_seal(log, name, SURFACE, {})
    assert (found.recorded, found.satisfied) == (0, False)
    assert found.unknown_blocks == ("layer.0", "layer.1", "layer.2")


def outside(log):
    """A model from elsewhere."""
    name = Digest(digest("outside", 1))
    blocks = tuple(BlockDigest(f"layer.{b}", Digest(bytes(32))) for b in range(3))
    log.append(CheckpointSealed(name, "base", "base", None, 0, blocks, None, None, 0, Digest(bytes(32)), (), 0))
    log.commit()
    return name


@pytest.mark.parametrize("parent", ["fresh", "outside", "absent"])
def test_a_model_that_grew_from_elsewhere_is_not_certified(log, parent):
    trainer = Trainer(log, random.Random(7))
    begins = {"fresh": None, "outside": outside(log), "absent": Digest(bytes(32))}[parent]
    trainer.start(3, parent=begins)
    trainer.declare_some()
    trainer.admit(9)
    trainer.take_step(30)
    name = sealed(trainer, 1)
    everybody = {Digest(digest("attestation", n)): Teacher("community", True) for n in range(15)}
    (found,) = certify_seal(log, name, SURFACE, everybody)
    assert (found.share_ppm, found.recorded > 0) == (1_000_000, True)
    assert found.satisfied is (parent == "fresh")
    assert len(found.unknown_blocks) == (0 if parent == "fresh" else 3)


def test_teachers_are_whom_the_registry_knows_and_this_policy_admitted(log, tmp_path):
    """Of four attestations one is taught under this policy, one under another too, one not at all, one is forged."""
    envelopes = {name: signed.envelope(source=name) for name in ("ada", "bob", "cid", "eve")}
    operator = SigningKey("example.org/registry", signed.key("registry").private)
    with Ledger.create(tmp_path / "registry", operator) as registry_log:
        for name, envelope in envelopes.items():
            source = SourceRegistered(name, name, str(signed.key(name).verifier), "publisher", ClaimedMs(1))
            registry_log.append(source)
            if name != "eve":
                said = signed.statement(name)
                digest_of = attestation_id(envelope)
                registry_log.append(AttestationRecorded(digest_of, name, said.licence, envelope, ClaimedMs(2)))
        registry_log.commit()
        registry = Registry.read(registry_log)
        mine, other = (log.append(PolicyMentioned(one)) for one in (SURFACE.digest, Digest(bytes(32))))
        for name, policies in (("ada", [mine, mine]), ("bob", [mine, other]), ("cid", []), ("eve", [mine])):
            mention = Ref(log.append(AttestationMentioned(attestation_id(envelopes[name]), name)))
            for n, ref in enumerate(policies):
                log.append(_admission(f"{name} {n}", mention, Ref(ref), Determination.MODIFIED))
            log.append(_admission(f"{name} rejected", mention, Ref(other), Determination.REJECTED))
        log.commit()
        found = teachers_of(log, registry, SURFACE)
    expected = {"ada": True, "bob": False, "cid": False}
    assert found == {attestation_id(envelopes[name]): Teacher("publisher", good) for name, good in expected.items()}


def _admission(name, attestation, policy_ref, determination):
    return ExampleAdmitted(
        Digest(digest("example", name)),
        Digest(digest("content", name)),
        attestation,
        policy_ref,
        None,
        determination,
        (),
        "middle",
        3.0,
        0,
        ("pretraining",),
        None,
    )
