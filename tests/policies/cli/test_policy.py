"""`licet policy` as its users run it."""

from __future__ import annotations

import pytest

from licet.policies import wire
from licet.policies.policy import Policy
from tests.ledger.cli.command import licet
from tests.policies.documents import as_toml, document
from tests.policies.test_evaluate import proposed


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    path = tmp_path_factory.mktemp("policy") / "home"
    assert licet("init", path).code == 0
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    path = tmp_path_factory.mktemp("policy") / "small.toml"
    path.write_text(as_toml(document()))
    return path


def test_check_shows_the_bands_of_a_model(small):
    found = licet("policy", "check", small, "--layers", 6, "--json").json
    assert found["name"] == "small"
    assert found["blocks"]["layer.2"] == "behavioral, alignment"
    assert licet("policy", "check", small, "--layers", 96, "--layers-per-block", 8, "--tied").code == 0


def test_check_names_line_and_field_of_each_mistake(tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text(as_toml(document(surprise=1, version="", measure="miles")))
    result = licet("policy", "check", path)
    assert result.code == 2
    lines = path.read_text().splitlines()
    for field in ("surprise", "version", "measure"):
        number = next(i for i, line in enumerate(lines, start=1) if line.startswith(field))
        assert f"line {number}, {field}: " in result.err


def test_every_default_passes_its_check():
    for name in Policy.defaults():
        assert licet("policy", "check", f"default:{name}", "--layers", 6).code == 0


def test_what_is_no_policy_says_what_there_is(home):
    for name in ("default:nothing", "nowhere.toml", "active"):
        result = licet("policy", "check", name, home=home)
        assert result.code in (1, 2)
        assert "what to do" in result.err


def test_adopt_diff_and_active(small, tmp_path):
    home = tmp_path / "home"
    licet("init", home)
    first = licet("policy", "adopt", small, "--json", home=home).json
    assert first["adopted"]
    assert not licet("policy", "adopt", small, "--json", home=home).json["adopted"]
    assert (home / "policy.toml").read_text() == small.read_text()
    stricter = tmp_path / "stricter.toml"
    stricter.write_text(as_toml(document(version="2", inference={"mode": "stop"})))
    said = licet("policy", "diff", "active", stricter, home=home).out
    assert said.splitlines() == ["~ inference.mode: divert → stop", "~ version: 1 → 2"]
    assert licet("policy", "adopt", stricter, home=home).code == 0
    assert licet("policy", "check", first["policy"][:12], "--json", home=home).json["version"] == "1"
    assert licet("policy", "check", "active", "--json", home=home).json["version"] == "2"
    assert "say the same" in licet("policy", "diff", "active", stricter, home=home).out
    adopted = licet("ledger", "events", "registry", "--kind", "PolicyAdopted", home=home).out
    assert len(adopted.splitlines()) == 2


def test_explain_names_the_rule_of_each_block(small, tmp_path):
    rows = tmp_path / "examples.jsonl"
    examples = [proposed(terms={"spdx": "GPL-3.0-only"}), proposed(terms={"spdx": "ISC"})]
    rows.write_bytes(b"\n".join(map(wire.to_json, examples)) + b"\n")
    told = licet("policy", "explain", rows, "--policy", small, "--layers", 6)
    assert told.code == 0
    assert "small/rule.copyleft" in told.out
    assert "Copyleft text is not taught deep." in told.out
    rejected = licet("policy", "explain", rows, "--policy", small, "--row", 2, "--layers", 6, "--json")
    assert rejected.code == 1
    assert rejected.json["admission"]["determination"] == "rejected"
    assert ["small/rule.unknown", "Nobody here read this licence."] in rejected.json["reasons"]
    assert licet("policy", "explain", rows, "--policy", small, "--row", 9).code == 1
    assert licet("policy", "explain", tmp_path / "nothing", "--policy", small).code == 2
    broken = tmp_path / "broken.json"
    broken.write_text("{}")
    assert licet("policy", "explain", broken, "--policy", small).code == 1
