"""The demo as a newcomer runs it."""

from xml.etree import ElementTree

import pytest

from licet.ledger.home import Home
from tests.ledger.cli.command import licet

pytestmark = [pytest.mark.end_to_end, pytest.mark.slow]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    place = tmp_path_factory.mktemp("demo")
    return place, licet("demo", "--check", "--json", "--dir", place)


def test_the_demo_keeps_every_claim(demo):
    _, result = demo
    assert result.code == 0, result.err
    assert len(result.json) >= 14
    assert all(result.json.values())


def test_its_home_can_be_asked_afterwards(demo):
    place, _ = demo
    home = Home(place / "home")
    ranking = licet("ledger", "reverse", "training", "head", "--json", home=home.path).json
    assert len(ranking) > 1
    (sealed,) = (home.path / "models" / "demo").iterdir()
    assert licet("seal", "verify", sealed, home=home.path).code == 0
    assert licet("ledger", "checkpoint", "training", home=home.path).code == 0
    assert licet("ledger", "verify", "training", home=home.path).code == 0


def test_the_heatmap_is_a_picture(demo):
    place, _ = demo
    picture = ElementTree.parse(place / "heatmap.svg").getroot()  # noqa: S314  made by the demo
    assert picture.tag == "{http://www.w3.org/2000/svg}svg"
    assert len(list(picture.iter("{http://www.w3.org/2000/svg}rect"))) > 50
