"""What the ledger's tests share: trees that cost something to grow, a key, an empty log."""

from __future__ import annotations

import pytest

from licet.ledger.log import Ledger
from licet.ledger.note import SigningKey
from tests.ledger.logs import training_log
from tests.ledger.trees import Grown, Literal, entry_of, leaves_of, sha256

SMALL = 300
BIG = 1_000_000
ORIGIN = "example.org/log"


@pytest.fixture(scope="session")
def small_tree():
    """Grown one entry at a time, so that the root at every size is there."""
    grown = Grown()
    for i in range(SMALL):
        grown.grow(leaves_of(i, i + 1))
    return grown


@pytest.fixture(scope="session")
def small_literal():
    return Literal([sha256(b"\x00" + entry_of(i)) for i in range(SMALL)])


@pytest.fixture(scope="session")
def big_tree():
    """A million entries, grown in a few uneven steps."""
    grown = Grown()
    for stop in (1, 255, 70_000, 70_001, 524_288, BIG):
        grown.grow(leaves_of(grown.size, stop))
    return grown


@pytest.fixture
def key():
    return SigningKey.generate(ORIGIN)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "log"


@pytest.fixture
def ledger(path, key):
    with Ledger.create(path, key) as ledger:
        yield ledger


@pytest.fixture
def make_training_log(key):
    """`make_training_log(path, events=…)`: a closed, signed log of a small run, and its key."""

    def make(path, events=600):
        with training_log(path, key, events=events):
            return key

    return make
