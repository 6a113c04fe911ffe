"""The exposure index against plain Python over the entries, in every way that a log can have grown."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from licet.ledger import norms, segments
from licet.ledger.directory import LogDirectory
from licet.ledger.errors import CorruptError, NotFoundError
from licet.ledger.exposure import Exposure
from licet.ledger.log import Ledger
from licet.ledger.note import SigningKey
from licet.ledger.reader import LogReader
from licet.ledger.store import Table
from tests.ledger.training import Brute, Trainer, digest

KEY = SigningKey.generate("example.org/training")


@pytest.fixture
def small_segments(monkeypatch):
    """Segments of about ten events, so that hundreds of them arise, on several levels."""
    monkeypatch.setattr("licet.ledger.run_exposure.SEGMENT_EVENTS_MIN", 10)
    monkeypatch.setattr("licet.ledger.run_exposure.SEGMENT_EVENTS_MAX", 10)
    monkeypatch.setattr("licet.ledger.run_exposure._FOLD_EVENTS", 7)


def _forward(rows) -> list[tuple]:
    return [(row.block, row.total, row.events, row.first_step, row.last_step) for row in rows]


def _reverse(rows) -> list[tuple]:
    return [(row.source, row.total, row.share) for row in rows]


def _answers(index: Exposure, brute: Brute) -> list:
    """A broad set of questions, each answered by the index and checked against plain Python."""
    told = []

    def same(ours, theirs) -> None:
        assert ours == theirs
        told.append(ours)

    for run in [None, *brute.runs]:
        seen = [event.record.step for event in brute.events if event.run in brute.lineage(run)[:1]]
        last = max(seen, default=0)
        ranges = [None, (0, 0), (0, last), (last // 3, last // 2), (last, last), (last + 1, last + 9), (5, 4)]
        for steps in ranges:
            where = {"run": run, "steps": steps}
            for source in sorted({event.source for event in brute.events}):
                rows = brute.forward(lambda event, source=source: event.source == source, **where)
                same(_forward(index.forward(source=source, **where)), rows)
            for attestation in sorted({event.attestation for event in brute.events}):
                rows = brute.forward(lambda event, a=attestation: event.attestation == a, **where)
                same(_forward(index.forward(attestation=attestation, **where)), rows)
            blocks = brute.blocks(run, steps)
            for chosen in (blocks, blocks[:1], blocks[1:3], blocks[::2] * 2):
                if chosen:
                    ranked = brute.reverse(chosen, **where)
                    same(_reverse(index.reverse(chosen, top=None, **where)), ranked)
                    same(_reverse(index.reverse(chosen, top=2, **where)), ranked[:2])
        for example in sorted({event.example for event in brute.events})[:12]:
            same(index.events_of(example, run=run), brute.events_of(example, run))
            rows = brute.forward(lambda event, e=example: event.example == e, run=run)
            same(_forward(index.forward_example(example, run=run)), rows)
    return told


def _brute(ledger: LogReader) -> Brute:
    return Brute(entry for _, entry in ledger.entries())


def _one_run(ledger: Ledger, *, seed: int, steps: int, events: int, commit_every: int = 1) -> Trainer:
    trainer = Trainer(ledger, random.Random(seed))
    trainer.start(5)
    trainer.declare_some()
    trainer.admit(30)
    for number in range(steps):
        trainer.take_step(events)
        if number % commit_every == 0:
            ledger.commit()
    ledger.commit()
    return trainer


# ---- against plain Python --------------------------------------------------------------------------------------


def test_one_open_segment(path):
    with Ledger.create(path, KEY) as ledger:
        _one_run(ledger, seed=1, steps=20, events=6)
        assert not ledger.exposure.current.extents
        _answers(ledger.exposure, _brute(ledger))


def test_many_segments_on_several_levels(path, small_segments):
    with Ledger.create(path, KEY) as ledger:
        _one_run(ledger, seed=2, steps=90, events=11)
        extents = ledger.exposure.current.extents
        assert len(extents) > 64
        levels = {level for level, _ in segments.cover(0, len(extents))}
        assert max(levels) == 2
        told = _answers(ledger.exposure, _brute(ledger))
    with Ledger.open(path, KEY) as ledger:
        assert _answers(ledger.exposure, _brute(ledger)) == told


def test_several_runs_one_growing_from_another(path, small_segments):
    with Ledger.create(path, KEY) as ledger:
        trainer = Trainer(ledger, random.Random(3))
        parent = None
        for number, blocks in enumerate((4, 6, 3)):
            trainer.start(blocks, parent=parent if number != 1 else None)
            trainer.declare_some()
            trainer.admit(10)
            for _ in range(12):
                trainer.take_step(5, steps=2)
                ledger.commit()
            parent = trainer.seal(number)
            ledger.commit()
        brute = _brute(ledger)
        assert len(brute.lineage()) == 2
        told = _answers(ledger.exposure, brute)
        with LogReader.open(path) as reader:
            assert _answers(reader.exposure, brute) == told
    with Ledger.open(path, KEY) as ledger:
        assert _answers(ledger.exposure, brute) == told
        trainer = Trainer(ledger, random.Random(4), attestations=trainer.attestations, examples=trainer.examples)
        trainer.start(4, parent=parent)
        trainer.declare_some()
        trainer.take_step(30)
        ledger.commit()
        _answers(ledger.exposure, _brute(ledger))


def test_several_runs_in_one_commit(path, small_segments):
    with Ledger.create(path, KEY) as ledger:
        trainer = Trainer(ledger, random.Random(5))
        for _ in range(3):
            trainer.start(3)
            trainer.declare_some()
            trainer.admit(5)
            for _ in range(6):
                trainer.take_step(4)
        ledger.commit()
        told = _answers(ledger.exposure, _brute(ledger))
    with Ledger.open(path, KEY) as ledger:
        assert _answers(ledger.exposure, _brute(ledger)) == told


def test_a_run_that_goes_on_after_reopening(path, small_segments):
    with Ledger.create(path, KEY) as ledger:
        trainer = _one_run(ledger, seed=6, steps=7, events=6)
    for _ in range(4):
        with Ledger.open(path, KEY) as ledger:
            trainer.ledger = ledger
            trainer.admit(2)
            for _ in range(5):
                trainer.take_step(6)
                ledger.commit()
            _answers(ledger.exposure, _brute(ledger))


def test_a_reader_in_step_with_the_writer(path, small_segments):
    """It loaded the index early and keeps it in step; nothing is ever closed or merged on its side."""
    with Ledger.create(path, KEY) as ledger, LogReader.open(path) as reader:
        trainer = Trainer(ledger, random.Random(7))
        for _ in range(2):
            trainer.start(4)
            trainer.declare_some()
            trainer.admit(8)
            ledger.commit()
            for _ in range(9):
                trainer.take_step(7)
                ledger.commit()
                reader.refresh()
                reader.exposure  # noqa: B018  loaded at the first step, followed from then on
        brute = _brute(ledger)
        assert _answers(reader.exposure, brute) == _answers(ledger.exposure, brute)


@pytest.mark.parametrize("every", [3, 40])
def test_a_reader_that_meets_whole_runs_at_once(path, small_segments, every):
    """Their writer has closed segments, and the run, before the reader hears of them."""
    with Ledger.create(path, KEY) as ledger, LogReader.open(path) as reader:
        trainer = Trainer(ledger, random.Random(12))
        trainer.admit(9)
        for number in range(3):
            trainer.start(3, parent=digest("seal", number - 1))
            trainer.declare_some()
            for step in range(10):
                trainer.take_step(7)
                ledger.commit()
                if step % every == every - 1:
                    reader.refresh()
                    reader.exposure  # noqa: B018
            trainer.seal(number)
        ledger.commit()
        reader.exposure  # noqa: B018
        reader.refresh()
        brute = _brute(ledger)
        assert _answers(reader.exposure, brute) == _answers(ledger.exposure, brute)


def test_a_reader_in_another_process_agrees(path, small_segments):
    with Ledger.create(path, KEY) as ledger:
        _one_run(ledger, seed=8, steps=30, events=9)
        ours = _reverse(ledger.exposure.reverse(["layer.0", "layer.3"], top=None))
        script = (
            "import sys; from pathlib import Path; from licet.ledger.reader import LogReader\n"
            "with LogReader.open(Path(sys.argv[1])) as reader:\n"
            "    for row in reader.exposure.reverse(['layer.0', 'layer.3'], top=None):\n"
            "        print(row.source, row.total, row.share.hex(), sep='|')\n"
        )
        told = subprocess.run(
            [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True
        ).stdout
    assert told.splitlines() == [f"{source}|{total}|{share.hex()}" for source, total, share in ours]


def test_the_index_is_not_affected_by_what_was_asked_before(path, small_segments):
    """A run is loaded when it is first asked for; that must not change any later answer."""
    with Ledger.create(path, KEY) as ledger:
        first = Trainer(ledger, random.Random(9), sources=2)
        old_run = first.start(3)
        first.declare_some()
        first.admit(6)
        first.take_step(20)
        second = Trainer(ledger, random.Random(10), sources=7)
        new_run = second.start(3)
        second.declare_some()
        second.admit(20)
        second.take_step(40)
    answers = []
    for order in ([old_run, new_run], [new_run, old_run]):
        with LogReader.open(path) as reader:
            told = {}
            for run in order:
                for source in ("source 0", "source 6"):
                    told[run, source] = _forward(reader.exposure.forward(source=source, run=run))
            answers.append(told)
    assert answers[0] == answers[1]


@settings(max_examples=12)
@given(
    seed=st.integers(0, 2**32),
    batches=st.lists(st.integers(1, 9), min_size=1, max_size=14),
    cuts=st.sets(st.integers(0, 13)),
    closed=st.sets(st.integers(0, 13), max_size=2),
)
def test_grouping_of_commits_never_changes_an_answer(tmp_path_factory, seed, batches, cuts, closed):
    """One log commits and reopens where it is told, the other once at the end; and their segments differ in size."""
    with pytest.MonkeyPatch.context() as patch:
        told = []
        for variant in ("cut", "whole"):
            patch.setattr("licet.ledger.run_exposure.SEGMENT_EVENTS_MIN", 4 if variant == "cut" else 9)
            patch.setattr("licet.ledger.run_exposure.SEGMENT_EVENTS_MAX", 4 if variant == "cut" else 9)
            path = tmp_path_factory.mktemp("logs") / "log"
            ledger = Ledger.create(path, KEY)
            trainer = Trainer(ledger, random.Random(seed), sources=3)
            trainer.start(3)
            trainer.declare_some()
            trainer.admit(7)
            for number, events in enumerate(batches):
                trainer.take_step(events)
                if variant == "cut" and number in cuts:
                    ledger.commit()
                if variant == "cut" and number in closed:
                    ledger.commit()
                    ledger.close()
                    trainer.ledger = ledger = Ledger.open(path, KEY)
            ledger.commit()
            told.append(_answers(ledger.exposure, _brute(ledger)))
            ledger.close()
            shutil.rmtree(path)
            LogDirectory(path).anchor.unlink()
        assert told[0] == told[1]


# ---- particular values -----------------------------------------------------------------------------------------


@pytest.fixture
def trained(path):
    """One run of two blocks, `a` source with one event of norm 3 at half weight in the first block."""
    with Ledger.create(path, KEY) as ledger:
        trainer = Trainer(ledger, random.Random(0), sources=2)
        trainer.start(2)
        trainer.admit(4)
        yield trainer


def _apply(trainer: Trainer, example: int, profile: int, values: list[float], step: int = 0) -> None:
    from licet.ledger.events import Events

    ref, attestation = trainer.examples[example]
    trainer.ledger.append_events(
        Events.of(example=ref, attestation=attestation, profile=profile, step=step, slot=0, norms_raw=[values])
    )
    trainer.ledger.commit()


def test_magnitude_is_weight_times_norm(trained):
    profile = trained.declare([5, -30])
    _apply(trained, 0, profile, [3.0, 0.25])
    first, second = trained.ledger.exposure.forward(source="source 0")
    assert (first.magnitude, second.magnitude) == (1.0, 0.5)
    (share,) = trained.ledger.exposure.reverse(["layer.0", "layer.1"])
    assert (share.source, share.magnitude, share.share) == ("source 0", 1.5, 1.0)


def test_unlearning_counts_by_its_size(trained):
    """A negative weight shaped the block just as much; whose shaping it was is what is asked."""
    plus, minus = trained.declare([15, 15]), trained.declare([-15, -15])
    _apply(trained, 0, plus, [2.0, 2.0])
    _apply(trained, 1, minus, [2.0, 2.0])
    shares = trained.ledger.exposure.reverse(["layer.0"])
    assert [(share.source, share.share) for share in shares] == [("source 0", 0.5), ("source 1", 0.5)]


def test_a_profile_of_zeros_records_presence_only(trained):
    zeros = trained.declare([0, 0])
    _apply(trained, 0, zeros, [7.0, 7.0])
    index = trained.ledger.exposure
    assert _forward(index.forward(source="source 0")) == [("layer.0", 0, 0, None, None), ("layer.1", 0, 0, None, None)]
    assert index.reverse(["layer.0", "layer.1"]) == []
    assert len(index.events_of(digest("example", 0))) == 1
    assert trained.ledger.record(index.events_of(digest("example", 0))[0]).norms == ()


def test_a_norm_that_overflowed_is_counted_and_adds_nothing(trained):
    profile = trained.declare([15, 0])
    _apply(trained, 0, profile, [float("inf"), 0.0], step=4)
    assert _forward(trained.ledger.exposure.forward(source="source 0"))[0] == ("layer.0", 0, 1, 4, 4)


def test_ranking_tells_apart_what_floats_cannot(trained):
    """Totals that differ in the last of some seventy bits, and a tie broken by name."""
    huge, tiny = trained.declare([255, 0]), trained.declare([1, 0])
    largest = norms.decode(norms.CODE_MAX)
    for example in (0, 1, 2, 3):
        _apply(trained, example, huge, [largest, 0.0])
    index = trained.ledger.exposure
    assert [share.source for share in index.reverse(["layer.0"], top=1)] == ["source 0"]
    _apply(trained, 1, tiny, [2.0**-40, 0.0], step=1)
    first, second = index.reverse(["layer.0"], top=2)
    assert (first.source, first.total - second.total) == ("source 1", 1)
    assert [share.source for share in index.reverse(["layer.0"], top=1)] == ["source 1"]


# ---- refused ---------------------------------------------------------------------------------------------------


def test_a_log_without_a_run_has_no_answers(ledger):
    for question in (
        lambda: ledger.exposure.forward(source="s"),
        lambda: ledger.exposure.reverse(["a"]),
        lambda: ledger.exposure.events_of(bytes(32)),
    ):
        with pytest.raises(NotFoundError):
            question()


def test_what_is_not_in_the_log_is_said_so(trained):
    profile = trained.declare([15, 15])
    _apply(trained, 0, profile, [1.0, 1.0])
    index = trained.ledger.exposure
    for question in (
        lambda: index.forward(source="nobody"),
        lambda: index.forward(attestation=bytes(32)),
        lambda: index.reverse(["no such block"]),
        lambda: index.reverse(["layer.0", "layer.9"]),
        lambda: index.reverse([]),
    ):
        with pytest.raises(NotFoundError) as caught:
            question()
        assert caught.value.remedy
    for question in (
        lambda: index.events_of(bytes(32)),
        lambda: index.forward_example(bytes(32)),
        lambda: index.forward(source="source 0", run=0),
        lambda: index.reverse(["layer.0"], run=trained.run + 1),
        lambda: index.reverse(["layer.0"], run=10**9),
    ):
        with pytest.raises(NotFoundError):
            question()


def test_a_source_that_contributed_nothing_yet_is_known(trained):
    """Mentioned, and perhaps only ever rejected: the answer is zero, in this process and in every other."""
    profile = trained.declare([15, 15])
    _apply(trained, 0, profile, [1.0, 1.0])
    path = trained.ledger.directory.path
    with LogReader.open(path) as reader:
        for index in (trained.ledger.exposure, reader.exposure):
            assert [row.events for row in index.forward(source="source 1")] == [0, 0]


def test_a_missing_segment_is_noticed(path, small_segments):
    with Ledger.create(path, KEY) as ledger:
        _one_run(ledger, seed=11, steps=20, events=11)
        run = ledger.exposure.current.run
        batch = ledger._store.batch()
        batch.delete(Table.EXPOSURE, segments.segment_key(run, 1, 0))
        ledger._store.write(batch)
    with LogReader.open(path) as reader, pytest.raises(CorruptError) as caught:
        reader.exposure  # noqa: B018
    assert "fsck" in caught.value.remedy


def test_what_a_log_holds_does_not_depend_on_numpy_types(path):
    """Steps and references given as any whole-number type make the same entries."""
    with Ledger.create(path, KEY) as ledger:
        trainer = Trainer(ledger, random.Random(0))
        trainer.start(1)
        trainer.admit(1)
        profile = trainer.declare([15])
        example, attestation = trainer.examples[0]
        from licet.ledger.events import Events

        for kind in (np.int64, np.uint32, np.int16, int):
            columns = {"example": example, "attestation": attestation, "profile": profile, "step": 1, "slot": 2}
            table = np.array([[1.5]], np.float32 if kind is int else np.float64)
            ledger.append_events(Events.of(**{name: kind(v) for name, v in columns.items()}, norms_raw=table))
        ledger.commit()
        assert len({ledger.entry(index) for index in range(ledger.size - 4, ledger.size)}) == 1
