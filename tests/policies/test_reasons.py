"""policies/README.md lists every reason code, every file, every default policy and every field of a document."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import licet.policies
from licet.policies import schema
from licet.policies.policy import Policy
from licet.policies.reasons import Reason

FOLDER = Path(licet.policies.__file__).resolve().parent
README = (FOLDER / "README.md").read_text()


def between(name: str) -> str:
    return README.partition(f"<!-- {name}:begin -->")[2].partition(f"<!-- {name}:end -->")[0]


def test_every_code_is_documented_with_its_meaning_and_none_else():
    listed = re.findall(r"^\| `([a-z.-]+)` \| (.+) \|$", between("reasons"), re.MULTILINE)
    assert listed == [(reason.value, reason.meaning) for reason in Reason]


def test_codes_are_unique_and_well_formed():
    assert len({reason.value for reason in Reason}) == len(list(Reason))
    for reason in Reason:
        assert re.fullmatch(r"[a-z]+(\.[a-z]+(-[a-z]+)*)", reason.value)
        assert reason.meaning.endswith(".")
        assert Reason(reason.value) is reason


def test_every_file_is_named_and_none_else():
    files = {str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*.py") if path.name != "__init__.py"}
    assert set(re.findall(r"^\| `([a-z_/]+\.py)` \|", between("files"), re.MULTILINE)) == files


@pytest.mark.parametrize("name", Policy.defaults())
def test_every_default_has_its_story(name):
    assert f"**`{name}`**" in README


@pytest.mark.parametrize("part", [schema.Document, schema.Inference, schema.Condition, schema.Falloff], ids=str)
def test_every_field_of_a_document_is_explained(part):
    section = README.partition("## The policy document")[2].partition("\n## ")[0]
    for field in part.model_fields:
        assert re.search(rf"`\[?\[?{field}[`.\]]", section), f"{field} is not explained"
