"""The queue in front of a log: blocks, never drops, and fails only what failed."""

import random
import threading
import time

import pytest

from licet.ledger.background import BackgroundWriter
from licet.ledger.errors import ClosedError, LicetError, StorageError
from licet.ledger.log import Ledger
from licet.ledger.reader import LogReader
from licet.ledger.records import AttestationMentioned, Opaque
from tests.ledger.training import Trainer


def mention(number):
    return AttestationMentioned(bytes(32), f"source {number}")


def test_what_is_submitted_stands_in_the_log_in_order(ledger):
    with BackgroundWriter(ledger) as writer:
        futures = [writer.submit([mention(i), mention(-i)]) for i in range(200)]
        indices = [future.result(30) for future in futures]
    assert indices == list(range(indices[0], indices[0] + 400, 2))
    assert [ledger.record(i).source for i in indices] == [f"source {i}" for i in range(200)]


def test_an_acknowledged_submission_is_durable(ledger, path):
    with BackgroundWriter(ledger) as writer:
        index = writer.submit([mention(7)]).result(30)
        with LogReader.open(path) as reader:
            assert reader.record(index) == mention(7)


def test_a_refused_submission_leaves_nothing_behind_and_harms_no_other(ledger):
    bad = Opaque(37, 2, b"an event of the future")
    with BackgroundWriter(ledger) as writer:
        good = writer.submit([mention(1)])
        refused = writer.submit([mention(2), bad])
        after = writer.submit([mention(3)])
        with pytest.raises(LicetError):
            refused.result(30)
        assert after.result(30) == good.result(30) + 1
    assert [r.source for _, r in ledger.all_of(AttestationMentioned)] == ["source 1", "source 3"]


def test_a_full_queue_blocks_instead_of_dropping(ledger, monkeypatch):
    gate = threading.Event()
    commit = Ledger.commit
    monkeypatch.setattr(Ledger, "commit", lambda self: gate.wait(30) and commit(self))
    with BackgroundWriter(ledger, queue_max=2, group_max=1) as writer:
        futures = []

        def submit_all():
            futures.extend(writer.submit([mention(i)]) for i in range(10))

        thread = threading.Thread(target=submit_all)
        thread.start()
        time.sleep(0.3)
        assert thread.is_alive()  # it waits for a place
        gate.set()
        thread.join(30)
        assert not thread.is_alive()
        assert len({future.result(30) for future in futures}) == 10


def test_a_failed_write_reaches_everybody_and_later_submissions_are_refused(ledger, monkeypatch):
    def fail(self):
        raise StorageError("The disk is full.", remedy="Make room.")

    monkeypatch.setattr(Ledger, "_commit", fail)
    writer = BackgroundWriter(ledger)
    with pytest.raises(StorageError):
        writer.submit([mention(1)]).result(30)
    with pytest.raises(ClosedError, match="disk is full"):
        writer.submit([mention(2)])
    writer.close()


def test_a_closed_writer_refuses_and_closing_twice_is_harmless(ledger):
    writer = BackgroundWriter(ledger)
    writer.submit([mention(1)])
    writer.close()
    writer.close()
    assert len(ledger.all_of(AttestationMentioned)) == 1
    with pytest.raises(ClosedError):
        writer.submit([mention(2)])


def test_flush_waits_for_everything_before_it(ledger):
    with BackgroundWriter(ledger) as writer:
        for i in range(50):
            writer.submit([mention(i)])
        writer.flush()
        assert len(ledger.all_of(AttestationMentioned)) == 50


def test_a_refused_batch_takes_back_what_it_declared(ledger):
    """References of a refused submission must not look valid when other records take their places."""
    trainer = Trainer(ledger, random.Random(1))
    trainer.start(2)
    trainer.declare([15, 15])
    trainer.admit(1)
    ledger.commit()
    size = ledger.size
    with pytest.raises(LicetError):
        ledger.append_all([mention(99), Opaque(37, 2, b"")])
    assert ledger.append(Opaque(200, 1, b"")) == size
    with pytest.raises(LicetError):
        ledger.exposure.source_of(size)


def test_a_log_that_is_written_to_is_signed_when_due(ledger, path):
    with BackgroundWriter(ledger, checkpoint_s=0.0) as writer:
        writer.submit([mention(1)]).result(30)
        size = ledger.size
        writer.flush()
        assert max(signed for signed, _ in ledger.checkpoint_notes()) == size
    with BackgroundWriter(ledger, checkpoint_s=3600.0) as writer:
        writer.submit([mention(2)]).result(30)
        writer.flush()
        assert max(signed for signed, _ in ledger.checkpoint_notes()) == size
