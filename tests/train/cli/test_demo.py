"""The demo, on a run that is much shorter: whatever it claims that does not need a model that has learned by heart."""

import json
from collections import Counter
from types import SimpleNamespace

import pytest
import torch

from licet.ledger.app import app
from licet.ledger.errors import ConfigError, LicetError, VerificationError
from licet.ledger.norms import LEVELS
from licet.ledger.records import Determination, Digest
from licet.policies.cli.distributions import Distribution
from licet.policies.cli.from_distributions import SOURCE_PREFIX
from licet.policies.policy import Policy
from licet.train.cli import demo, demo_lessons
from licet.train.cli.demo_claims import Claims, refuses
from licet.train.cli.demo_lessons import Role, candidates, choose, demo_policy, role_of
from licet.train.run.file import read_run

RECITES = ("of most texts", "texts that their sources narrowed", "the model learned")
"""Claims that take a longer run."""


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    place = tmp_path_factory.mktemp("demo")
    claims = Claims(quiet=True)
    trained, lessons = demo.show(place, claims, steps=12)
    return place, claims.held, demo.further(trained, lessons)


# ---- the whole, briefly


def test_every_claim_that_needs_no_long_training_holds(shown):
    _, held, _ = shown
    assert len(held) >= 14
    assert [what for what, holds in held.items() if not holds and not what.startswith(RECITES)] == []


def test_it_leaves_what_it_speaks_of(shown):
    place, _, _ = shown
    rows = [json.loads(line) for line in (place / "rows.jsonl").read_text().splitlines()]
    assert len((place / "examples.jsonl").read_text().splitlines()) == len(rows)
    assert (place / "heatmap.svg").read_text().startswith("<svg")
    assert (place / "receipt").exists()
    assert read_run(place / "run.toml").file.name == "demo"
    left = {path.name for path in place.iterdir()}
    assert left == {"home", "rows.jsonl", "run.toml", "examples.jsonl", "heatmap.svg", "receipt", "tiles"}


def test_what_it_advises_works(shown, capsys):
    _, _, further = shown
    advice = [line.split()[1:] for line in further.splitlines() if line.startswith("  licet ")]
    assert len(advice) >= 4
    for words in advice:
        assert not app(words, standalone_mode=False), words
    assert "nothing left to do: 12 steps" in capsys.readouterr().out


def test_the_threads_are_as_before():
    before = torch.get_num_threads()
    with demo.one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


# ---- which texts


def distribution(name, text="", spdx="MIT"):
    return Distribution(name, "1", text.encode() if isinstance(text, str) else text, spdx)


def prose(seed, size=900):
    return " ".join(f"{seed}-{n}" for n in range(size))[:size]


def attested(*distributions):
    return {SOURCE_PREFIX + one.name: Digest(bytes(32)) for one in distributions}


def judged(levels, determination=Determination.ADMITTED):
    return SimpleNamespace(admission=SimpleNamespace(levels=levels, determination=determination))


def test_the_shortest_stand_first_and_copies_are_left_out():
    long, short, copy = (
        distribution("long", prose("a", 1200)),
        distribution("short", prose("b", 800)),
        distribution("copy", prose("b", 800) + " and a little more"),
    )
    found = candidates([long, copy, short], attested(long, copy, short))
    assert [one.distribution.name for one in found] == ["short", "long"]


@pytest.mark.parametrize(
    "text",
    ["", "too short", prose("a", demo_lessons.TEXT_BYTES_MAX + 1), b"\xff" * 900],
    ids=["none", "short", "long", "bytes"],
)
def test_texts_that_will_not_do_are_left_out(text):
    one = distribution("one", text)
    assert candidates([one], attested(one)) == []


def test_what_is_not_attested_is_left_out():
    assert candidates([distribution("one", prose("a"))], {}) == []


def test_hostile_names_stay_data():
    one = distribution('a", "licet": {"attestation', prose("a"))
    (lesson,) = candidates([one], attested(one))
    row = json.loads(lesson.row)
    assert row["text"] == prose("a")
    assert row["licet"]["fields"]["repository"] == one.name


@pytest.mark.parametrize(
    ("levels", "determination", "role"),
    [
        ((LEVELS, LEVELS), Determination.ADMITTED, Role.OPEN),
        ((0, LEVELS), Determination.ADMITTED, Role.CONFINED),
        ((0, 0), Determination.ADMITTED, Role.REJECTED),
        ((0, 0), Determination.REJECTED, Role.REJECTED),
    ],
)
def test_roles_are_what_the_gate_says(levels, determination, role):
    assert role_of(judged(levels, determination)) is role


def lessons(count):
    made = [distribution(f"d{i:02}", prose(f"x{i}")) for i in range(count)]
    return candidates(made, attested(*made))


@pytest.mark.parametrize("free", [4, 5, 8, 40])
def test_some_of_each_depth_are_taken(free):
    answers = [judged((LEVELS, LEVELS))] * free + [judged((0, 6)), judged((0, 9)), judged((0, 3))]
    answers += [judged((0, 0), Determination.REJECTED)] * 4
    taken = choose(lessons(len(answers)), answers)
    count = Counter(lesson.role for lesson in taken)
    assert count[Role.REVOKED] == 1
    assert 1 <= count[Role.NARROWED] <= demo_lessons.NARROWED_MAX
    assert 2 <= count[Role.OPEN] <= demo_lessons.OPEN_MAX
    assert count[Role.CONFINED] == demo_lessons.CONFINED_MAX
    assert count[Role.REJECTED] == demo_lessons.REJECTED_MAX
    assert len({lesson.source for lesson in taken}) == len(taken)


def test_long_texts_are_taken_in_smaller_number():
    made = [distribution(f"d{i:02}", prose(f"x{i}", demo_lessons.TEXT_BYTES_MAX)) for i in range(12)]
    taken = choose(candidates(made, attested(*made)), [judged((LEVELS, LEVELS))] * 12)
    sizes = [len(lesson.distribution.description) for lesson in taken]
    assert 4 <= len(sizes) < 12
    assert sum(sizes) <= demo_lessons.OPEN_BYTES_SUM_MAX


def test_a_machine_on_which_nothing_is_confined_will_do():
    taken = choose(lessons(9), [judged((LEVELS, LEVELS))] * 9)
    assert {lesson.role for lesson in taken} == {Role.OPEN, Role.NARROWED, Role.REVOKED}


@pytest.mark.parametrize("free", [0, 3])
def test_too_few_texts_are_refused_with_a_remedy(free):
    with pytest.raises(ConfigError, match="the demo needs 4") as refused:
        choose(lessons(free), [judged((LEVELS, LEVELS))] * free)
    assert refused.value.remedy


# ---- the policy


def test_the_policy_is_the_default_that_answers_no_memorization():
    mine, default = demo_policy().document, Policy.read_default(demo_lessons.POLICY).document
    assert dict(mine.memorization.response) == dict(mine.memorization.response_below) == {"*": "record"}
    responses = {"response", "response_below"}
    assert mine.memorization.model_dump(exclude=responses) == default.memorization.model_dump(exclude=responses)
    assert mine.model_dump(exclude={"memorization", "name"}) == default.model_dump(exclude={"memorization", "name"})
    assert mine.name != default.name


# ---- claims


def test_only_the_expected_error_counts_as_a_refusal():
    def fails(error):
        raise error

    assert refuses(lambda: fails(VerificationError("no")), LicetError)
    assert not refuses(lambda: None, LicetError)
    with pytest.raises(ConfigError):
        refuses(lambda: fails(ConfigError("other")), VerificationError)


def test_a_quiet_demo_says_nothing(capsys):
    claims = Claims(quiet=True)
    claims.tell("x")
    claims.table(("a",), [("b",)], frozenset())
    claims.claim("it holds", True)
    assert capsys.readouterr().out == ""
    assert claims.held == {"it holds": True}


def test_a_claim_that_does_not_hold_is_marked(capsys):
    Claims(quiet=False).claim("it holds", False)
    assert "✗ it holds" in capsys.readouterr().out
