"""The demo as a newcomer runs it."""

import pytest

from licet.ledger.home import Home
from tests.ledger.cli.command import licet

pytestmark = pytest.mark.end_to_end


def test_the_demo_keeps_every_claim(tmp_path):
    result = licet("demo", "--check", "--dir", tmp_path)
    assert result.code == 0, result.err
    assert "✗" not in result.out
    assert result.out.count("✓") >= 7


def test_its_home_can_be_asked_afterwards(tmp_path):
    claims = licet("demo", "--json", "--dir", tmp_path).json
    assert all(claims.values())
    home = Home(tmp_path / "home")
    ranking = licet("ledger", "reverse", "training", "head", "--json", home=home.path).json
    assert len(ranking) > 1
    assert licet("ledger", "checkpoint", "training", home=home.path).code == 0
    assert licet("ledger", "verify", "training", home=home.path).code == 0
