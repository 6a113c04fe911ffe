"""What changed in the data, between seals, checkpoints and files."""

import json
import random

import pytest

from licet.ledger import corpus
from licet.ledger.errors import ConfigError, FormatError, NotFoundError
from licet.ledger.records import (
    AttestationMentioned,
    Block,
    BlockDigest,
    CheckpointSealed,
    Determination,
    ExampleAdmitted,
    RunStarted,
    Stage,
    Technique,
)
from tests.ledger.training import digest


class Log:
    """Runs, admissions and seals, by name."""

    def __init__(self, ledger):
        self.ledger = ledger
        self.run = None

    def start(self, parent=None):
        block = (Block("layer.0", ("surface",), 1),)
        started = RunStarted("run", "m", block, Technique.SCALE, Stage.ENFORCE, None, parent, None, 0)
        self.run = self.ledger.append(started)

    def admit(self, *names, determination=Determination.ADMITTED, attestation=None):
        for name in names:
            source = name[0]
            attested = digest("attestation", attestation or ord(source))
            ref = self.ledger.append(AttestationMentioned(attested, source))
            self.ledger.append(
                ExampleAdmitted(digest(name, 0), bytes(32), ref, None, None, determination, (), None, None, 0, (), None)
            )

    def seal(self, label):
        seal = digest("seal " + label, 0)
        blocks = (BlockDigest("layer.0", bytes(32)),)
        self.ledger.append(CheckpointSealed(seal, "m", label, self.run, 1, blocks, None, None, 0, bytes(32), (), 0))
        self.ledger.commit()
        return seal


@pytest.fixture
def log(ledger):
    return Log(ledger)


def names(*wanted):
    return tuple(sorted(digest(name, 0).hex() for name in wanted))


def test_retraining_without_a_source_drops_it(log):
    log.start()
    log.admit("a1", "a2", "b1")
    log.seal("v37")
    log.start()
    log.admit("a1", "c1")
    log.seal("v38")
    change = corpus.diff(corpus.read_corpus("seal:v37", log.ledger), corpus.read_corpus("seal:v38", log.ledger))
    assert change.sources == corpus.Change(("c",), ("b",))
    assert change.examples == corpus.Change(names("c1"), names("a2", "b1"))
    assert len(change.attestations.added) == len(change.attestations.dropped) == 1


def test_a_fine_tune_only_adds(log):
    log.start()
    log.admit("a1", "b1")
    parent = log.seal("base")
    log.admit("z9")  # after the seal: not what it was taught
    log.start(parent)
    log.admit("c1")
    log.seal("tuned")
    change = corpus.diff(corpus.read_corpus("seal:base", log.ledger), corpus.read_corpus("seal:tuned", log.ledger))
    assert change.examples == corpus.Change(names("c1"), ())


def test_rejected_examples_were_not_taught(log):
    log.start()
    log.admit("a1")
    log.admit("b1", determination=Determination.REJECTED)
    log.seal("v1")
    assert corpus.of_seal(log.ledger, "v1").sources == {"a"}


def test_seals_are_found_by_digest_too_and_the_newest_of_a_label_counts(log):
    log.start()
    log.admit("a1")
    first = log.seal("v")
    log.admit("b1")
    log.seal("w")
    assert corpus.of_seal(log.ledger, first.hex()).examples.keys() == {digest("a1", 0)}
    with pytest.raises(NotFoundError, match="v, w"):
        corpus.of_seal(log.ledger, "x")


def test_a_moved_example_is_in_both_and_said_so(log, tmp_path):
    log.start()
    log.admit("a1", attestation=1)
    before = log.ledger.commit().size
    log.admit("a1", attestation=2)
    log.ledger.commit()
    view = log.ledger
    change = corpus.diff(corpus.of_size(view, before), corpus.of_size(view, view.size))
    assert change.examples == corpus.Change((), ())
    assert change.moved == names("a1")


def test_files_are_compared_with_logs(log, tmp_path):
    log.start()
    log.admit("a1", "b1")
    log.seal("v1")
    file = tmp_path / "corpus.jsonl"
    row = {"example": digest("a1", 0).hex(), "attestation": digest("attestation", ord("a")).hex(), "source": "a"}
    file.write_text(json.dumps(row) + "\n")
    change = corpus.diff(corpus.read_corpus("seal:v1", log.ledger), corpus.read_corpus(str(file), None))
    assert change.sources == corpus.Change((), ("b",))
    assert change.examples == corpus.Change((), names("b1"))


def test_a_difference_turned_round_is_its_mirror(log):
    chance = random.Random(3)
    log.start()
    log.admit(*(f"{chance.choice('abcdef')}{i}" for i in range(30)))
    a = corpus.of_size(log.ledger, log.ledger.commit().size - 30)
    b = corpus.of_size(log.ledger, log.ledger.size)
    there, back = corpus.diff(a, b), corpus.diff(b, a)
    for what in ("sources", "attestations", "examples"):
        one, other = getattr(there, what), getattr(back, what)
        assert (one.added, one.dropped) == (other.dropped, other.added)


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        "7",
        "{}",
        '{"example": "zz", "attestation": "00", "source": "a"}',
        '{"example": "00", "attestation": 1}',
        '{"example": "00", "attestation": "00", "source": 5}',
        "[" * 100_000,
        "\x00",
    ],
)
def test_a_bad_row_is_named(tmp_path, line):
    file = tmp_path / "bad.jsonl"
    file.write_text('{"example": "00", "attestation": "00", "source": "a"}\n' + line + "\n")
    with pytest.raises(FormatError, match="line 2"):
        corpus.of_file(file)


def test_names_that_mean_nothing(ledger, tmp_path):
    with pytest.raises(NotFoundError):
        corpus.read_corpus(str(tmp_path / "missing"), None)
    with pytest.raises(ConfigError):
        corpus.read_corpus("seal:x", None)
    with pytest.raises(ConfigError):
        corpus.read_corpus("checkpoint:many", ledger)
    with pytest.raises(NotFoundError):
        corpus.read_corpus("checkpoint:999", ledger)
