"""A log: what is committed stays, what is refused leaves nothing behind, and nobody else's log passes for ours."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from contextlib import contextmanager

import numpy as np
import pytest

from licet.ledger import chunks, codec, merkle, note
from licet.ledger.directory import LogDirectory
from licet.ledger.errors import (
    ClosedError,
    ConfigError,
    CorruptError,
    FormatError,
    KeyFileError,
    LedgerError,
    LicetError,
    LimitError,
    LockedError,
    NotALedgerError,
    NotFoundError,
    OrderError,
    ProofError,
    RollbackError,
    SignatureError,
    StorageError,
)
from licet.ledger.keys import rotation_statement
from licet.ledger.log import Ledger
from licet.ledger.note import Checkpoint, SigningKey
from licet.ledger.reader import LogReader
from licet.ledger.records import (
    Anchored,
    AttestationMentioned,
    Block,
    ContentErased,
    Determination,
    ExampleAdmitted,
    GradientApplied,
    KeyRotated,
    LogOpened,
    Opaque,
    PolicyAdopted,
    ProfileDeclared,
    RunStarted,
    SourceRegistered,
)
from licet.ledger.store import Store, Table
from licet.ledger.view import HEAD, Head

ORIGIN = "example.org/log"


def _entry(i: int) -> Opaque:
    return Opaque(200, 1, b"entry %d" % i)


def _append(ledger: Ledger, count: int) -> None:
    for i in range(count):
        ledger.append(_entry(ledger.size + i))
    ledger.commit()


def _record(name: str = "s") -> SourceRegistered:
    return SourceRegistered(name, name.title(), "key", "plain", 5)


def _state(ledger: LogReader) -> tuple[Head, list[bytes]]:
    return ledger.head, [entry for _, entry in ledger.entries()]


def _assert_whole(ledger: LogReader) -> None:
    """The head, the proofs and the chunks all say the same."""
    entries = [entry for _, entry in ledger.entries()]
    assert len(entries) == ledger.size
    assert ledger.root_at(ledger.size) == ledger.head.root
    for index in {0, ledger.size // 2, ledger.size - 1}:
        leaf = merkle.leaf_hash(entries[index])
        merkle.verify_inclusion(index, ledger.size, leaf, ledger.prove_inclusion(index), ledger.head.root)


def _says_what_to_do(caught) -> None:
    assert caught.value.message
    assert caught.value.remedy


# ---- making and opening ----------------------------------------------------------------------------------------


def test_a_new_log_says_whose_it_is(path, key):
    with Ledger.create(path, key) as ledger:
        assert (ledger.origin, ledger.size) == (ORIGIN, 1)
        opened = ledger.record(0)
        assert isinstance(opened, LogOpened)
        assert (opened.origin, opened.verifier_key) == (ORIGIN, str(key.verifier))
        assert ledger.verifier_keys() == [key.verifier]
        checkpoint = note.open_checkpoint(ledger.latest_checkpoint(), [key.verifier], origin=ORIGIN)
        assert (checkpoint.size, checkpoint.root) == (ledger.size, ledger.head.root)
    described = json.loads((path / "ledger.json").read_text())
    assert described == {"format": 1, "origin": ORIGIN, "verifier_key": str(key.verifier)}


def test_what_was_committed_is_there_after_reopening(path, key):
    with Ledger.create(path, key) as ledger:
        _append(ledger, 300)
        before = _state(ledger)
    with Ledger.open(path, key) as ledger:
        assert _state(ledger) == before
        _assert_whole(ledger)
        _append(ledger, 1)
        assert ledger.size == 302


def test_leaving_the_block_commits_and_leaving_by_an_error_does_not(path, key):
    with Ledger.create(path, key) as ledger:
        ledger.append(_entry(1))
    with Ledger.open(path, key) as ledger:
        assert ledger.size == 2
    with pytest.raises(ZeroDivisionError), Ledger.open(path, key) as ledger:
        ledger.append(_entry(2))
        raise ZeroDivisionError
    with Ledger.open(path, key) as ledger:
        assert ledger.size == 2


def test_an_existing_path_is_never_made_into_a_log(path, key):
    path.mkdir()
    (path / "kept").write_text("mine")
    with pytest.raises(ConfigError) as caught:
        Ledger.create(path, key)
    _says_what_to_do(caught)
    assert [file.name for file in path.parent.iterdir()] == ["log"]
    assert (path / "kept").read_text() == "mine"


def test_a_log_is_not_made_anew_under_the_anchor_of_a_lost_one(path, key):
    """Else deleting a log would be the one rollback that is not noticed."""
    Ledger.create(path, key).close()
    anchor = LogDirectory(path).anchor.read_bytes()
    shutil.rmtree(path)
    for other in (key, SigningKey.generate(ORIGIN)):
        with pytest.raises(ConfigError) as caught:
            Ledger.create(path, other)
        _says_what_to_do(caught)
    assert not path.exists()
    assert LogDirectory(path).anchor.read_bytes() == anchor


def test_making_a_log_goes_on_after_an_earlier_try_was_killed(path, key):
    half = path.with_name(f".{path.name}.creating")
    (half / "db").mkdir(parents=True)
    (half / "db" / "CURRENT").write_text("torn")
    with Ledger.create(path, key) as ledger:
        assert ledger.size == 1
    assert not half.exists()


@pytest.mark.parametrize("content", [None, "", "[]", "{}", "not json", '{"format": 1}', "\ud800"])
def test_a_directory_that_is_not_a_log_is_refused(path, content):
    path.mkdir()
    if content is not None:
        (path / "ledger.json").write_bytes(content.encode(errors="surrogatepass"))
    for opening in (Ledger.open, LogReader.open):
        with pytest.raises(NotALedgerError) as caught:
            opening(path)
        _says_what_to_do(caught)


def test_a_missing_directory_and_a_plain_file_are_refused(tmp_path):
    (tmp_path / "file").write_text("hello")
    for path in (tmp_path / "missing", tmp_path / "file"):
        for opening in (Ledger.open, LogReader.open):
            with pytest.raises(NotALedgerError) as caught:
                opening(path)
            _says_what_to_do(caught)
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_a_log_without_its_database_is_refused(path, key):
    Ledger.create(path, key).close()
    shutil.rmtree(path / "db")
    for opening in (Ledger.open, LogReader.open):
        with pytest.raises(LedgerError) as caught:
            opening(path)
        _says_what_to_do(caught)
    assert not (path / "db" / "CURRENT").exists(), "opening never makes an empty log where one is lost"


@pytest.mark.parametrize(
    ("field", "value"),
    [("verifier_key", "nonsense"), ("verifier_key", 5), ("verifier_key", None), ("origin", 5), ("origin", None)],
)
def test_a_description_that_makes_no_sense_is_refused(path, key, field, value):
    Ledger.create(path, key).close()
    _describe(path, **{field: value})
    with pytest.raises(NotALedgerError) as caught:
        Ledger.open(path)
    _says_what_to_do(caught)


def _describe(path, **fields) -> None:
    file = path / "ledger.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def test_a_later_format_is_refused_by_name(path, key):
    Ledger.create(path, key).close()
    _describe(path, format=2)
    with pytest.raises(LedgerError, match="format 2") as caught:
        Ledger.open(path)
    _says_what_to_do(caught)


def test_an_enormous_description_is_refused(path, key):
    Ledger.create(path, key).close()
    (path / "ledger.json").write_text(" " * 100_000)
    with pytest.raises(LimitError):
        Ledger.open(path)


# ---- another log's parts ---------------------------------------------------------------------------------------


@pytest.fixture
def other(tmp_path):
    """Another log, with another origin and key."""
    path = tmp_path / "other"
    with Ledger.create(path, SigningKey.generate("example.org/other")) as ledger:
        _append(ledger, 5)
        ledger.checkpoint()
    return path


def test_another_logs_description_is_refused(path, key, other):
    Ledger.create(path, key).close()
    shutil.copy(other / "ledger.json", path / "ledger.json")
    with pytest.raises(CorruptError) as caught:
        Ledger.open(path)
    _says_what_to_do(caught)


def test_another_logs_database_is_refused(path, key, other):
    Ledger.create(path, key).close()
    shutil.rmtree(path / "db")
    shutil.copytree(other / "db", path / "db")
    with pytest.raises(LedgerError) as caught:
        Ledger.open(path, key)
    _says_what_to_do(caught)


def test_another_logs_anchor_is_refused(path, key, other):
    Ledger.create(path, key).close()
    shutil.copy(LogDirectory(other).anchor, LogDirectory(path).anchor)
    with pytest.raises(SignatureError) as caught:
        Ledger.open(path, key)
    _says_what_to_do(caught)


def test_an_anchor_of_the_same_key_for_another_log_is_refused(path, key):
    with Ledger.create(path, key) as ledger:
        head = ledger.head
    LogDirectory(path).anchor.write_bytes(Checkpoint("example.org/else", head.size, head.root).sign([key]))
    with pytest.raises(SignatureError, match=r"example\.org/else") as caught:
        Ledger.open(path, key)
    _says_what_to_do(caught)


@pytest.mark.parametrize("content", [b"", b"torn", b"a\n\n\xe2\x80\x94 b AAAA\n", b"\xff" * 100])
def test_a_damaged_anchor_is_refused(path, key, content):
    Ledger.create(path, key).close()
    LogDirectory(path).anchor.write_bytes(content)
    with pytest.raises(SignatureError):
        Ledger.open(path, key)


def test_a_missing_anchor_is_refused(path, key):
    Ledger.create(path, key).close()
    LogDirectory(path).anchor.unlink()
    with pytest.raises(RollbackError) as caught:
        Ledger.open(path, key)
    _says_what_to_do(caught)


# ---- rollback --------------------------------------------------------------------------------------------------


def test_an_older_copy_of_the_database_is_refused(path, key, tmp_path):
    with Ledger.create(path, key) as ledger:
        _append(ledger, 10)
    shutil.copytree(path / "db", tmp_path / "older")
    with Ledger.open(path, key) as ledger:
        _append(ledger, 10)
        ledger.checkpoint()
    shutil.rmtree(path / "db")
    shutil.copytree(tmp_path / "older", path / "db")
    for signer in (key, None):
        with pytest.raises(RollbackError, match=r"21 entries.*rolled back") as caught:
            Ledger.open(path, signer)
        _says_what_to_do(caught)


def test_a_database_that_grew_differently_is_refused(path, key, tmp_path):
    """Not shorter, but with another history behind the same signed size."""
    Ledger.create(path, key).close()
    shutil.copytree(path, tmp_path / "fork")
    shutil.copy(LogDirectory(path).anchor, LogDirectory(tmp_path / "fork").anchor)
    with Ledger.open(path, key) as ledger:
        _append(ledger, 10)
        ledger.checkpoint()
    with Ledger.open(tmp_path / "fork", key) as fork:
        for i in range(20):
            fork.append(_entry(1000 + i))
    shutil.rmtree(path / "db")
    shutil.copytree(tmp_path / "fork" / "db", path / "db")
    with pytest.raises(RollbackError) as caught:
        Ledger.open(path, key)
    _says_what_to_do(caught)


def test_an_older_anchor_is_fulfilled_by_a_longer_log(path, key):
    """As after a crash between a commit and the next checkpoint."""
    with Ledger.create(path, key) as ledger:
        anchor = LogDirectory(path).anchor.read_bytes()
        _append(ledger, 10)
        ledger.checkpoint()
    LogDirectory(path).anchor.write_bytes(anchor)
    with Ledger.open(path, key) as ledger:
        assert ledger.size == 11


def test_a_changed_last_entry_is_noticed_on_opening(path, key):
    with Ledger.create(path, key) as ledger:
        _append(ledger, 10)
    _tamper(path, b"entry 10", b"entry 99")
    with pytest.raises(CorruptError) as caught:
        Ledger.open(path, key)
    _says_what_to_do(caught)


def _tamper(path, old: bytes, new: bytes) -> None:
    """Change entries in the database itself, checksums and all."""
    store = Store.open_writer(path / "db")
    batch = store.batch()
    for chunk_key, value in store.scan(Table.ENTRIES, b"", b"\xff" * 9):
        batch.put(Table.ENTRIES, chunk_key, value.replace(old, new))
    store.write(batch)
    store.close()


@pytest.mark.parametrize("value", [b"", b"short", Head(5, bytes(32)).pack(), Head(1, bytes(32)).pack()])
def test_a_damaged_head_is_refused(path, key, value):
    with Ledger.create(path, key) as ledger:
        _append(ledger, 1)
    store = Store.open_writer(path / "db")
    batch = store.batch()
    batch.put(Table.META, HEAD, value)
    store.write(batch)
    store.close()
    with pytest.raises(LedgerError) as caught:
        Ledger.open(path, key)
    _says_what_to_do(caught)


# ---- keys ------------------------------------------------------------------------------------------------------


def test_another_key_is_refused_and_no_key_may_append(path, key):
    Ledger.create(path, key).close()
    for wrong in (SigningKey.generate(ORIGIN), SigningKey("example.org/else", key.private)):
        with pytest.raises(KeyFileError) as caught:
            Ledger.open(path, wrong)
        _says_what_to_do(caught)
    with Ledger.open(path) as ledger:
        _append(ledger, 1)
        with pytest.raises(KeyFileError) as caught:
            ledger.checkpoint()
        _says_what_to_do(caught)
        _append(ledger, 1)


def test_rotation_passes_the_log_to_a_new_key(path, key):
    new = SigningKey.generate(ORIGIN)
    with Ledger.create(path, key) as ledger:
        signed = ledger.rotate_key(new, reason="yearly")
        for signer in (key, new):
            assert note.open_checkpoint(signed, [signer.verifier], origin=ORIGIN).size == 2
        assert ledger.verifier_keys() == [key.verifier, new.verifier]
        _append(ledger, 1)
        later = ledger.checkpoint()
        note.open_checkpoint(later, [new.verifier])
        with pytest.raises(SignatureError):
            note.open_checkpoint(later, [key.verifier])
    with pytest.raises(KeyFileError) as caught:
        Ledger.open(path, key)
    _says_what_to_do(caught)
    with Ledger.open(path, new) as ledger:
        assert ledger.verifier_keys() == [key.verifier, new.verifier]
        third = SigningKey.generate(ORIGIN)
        ledger.rotate_key(third, reason="again")
        assert ledger.verifier_keys()[-1] == third.verifier
    with LogReader.open(path) as reader:
        assert reader.verifier_keys() == [key.verifier, new.verifier, third.verifier]


def test_a_key_of_another_name_cannot_succeed(path, key):
    with Ledger.create(path, key) as ledger:
        with pytest.raises(ConfigError):
            ledger.rotate_key(SigningKey.generate("example.org/else"), reason="mistake")
        assert ledger.size == 1
        ledger.checkpoint()


def test_a_forged_rotation_is_never_appended(path, key):
    """It would make the log unopenable, or pass it to whoever forged it."""
    thief = SigningKey.generate(ORIGIN)
    statement = rotation_statement(ORIGIN, key.verifier, thief.verifier)
    by_thief, by_key = thief.sign_raw(statement), key.sign_raw(statement)
    old, new = str(key.verifier), str(thief.verifier)
    elsewhere = key.sign_raw(rotation_statement("example.org/else", key.verifier, thief.verifier))
    with Ledger.create(path, key) as ledger:
        for forged in (
            KeyRotated(old, new, by_thief, by_thief, "", 0),
            KeyRotated(old, new, by_key, by_key, "", 0),
            KeyRotated(old, new, b"", b"", "", 0),
            KeyRotated(old, new, elsewhere, by_thief, "", 0),
            KeyRotated(new, old, by_thief, by_key, "", 0),
            KeyRotated(old, "nonsense", by_key, by_thief, "", 0),
        ):
            with pytest.raises(LicetError):
                ledger.append(forged)
        ledger.commit()
        assert ledger.size == 1
    with Ledger.open(path, key) as ledger:
        assert ledger.verifier_keys() == [key.verifier]


# ---- appending -------------------------------------------------------------------------------------------------


def test_nothing_is_seen_before_the_commit(ledger):
    index = ledger.append(_entry(1))
    assert (index, ledger.size) == (1, 1)
    with pytest.raises(NotFoundError):
        ledger.entry(index)
    head = ledger.commit()
    assert head == ledger.head
    assert ledger.entry(index) == codec.encode(_entry(1))


def test_a_commit_of_nothing_changes_nothing(ledger):
    before = ledger.head
    assert ledger.commit() == before


def test_indices_run_on_over_commits(ledger):
    indices = [ledger.append(_entry(i)) for i in range(3)]
    ledger.commit()
    indices += [ledger.append(_entry(i)) for i in range(3)]
    assert indices == [1, 2, 3, 4, 5, 6]


def test_grouping_of_commits_never_changes_the_root(tmp_path, key):
    """Only the first entry's claimed time differs, so the roots are compared over copies of one log."""
    Ledger.create(tmp_path / "seed", key).close()
    heads = set()
    for group in (1, 7, 300, 700):
        path = tmp_path / f"by {group}"
        shutil.copytree(tmp_path / "seed", path)
        shutil.copy(tmp_path / "seed.anchor", LogDirectory(path).anchor)
        with Ledger.open(path, key) as ledger:
            for i in range(700):
                ledger.append(_entry(i))
                if i % group == 0:
                    ledger.commit()
            heads.add(ledger.commit())
            _assert_whole(ledger)
    assert len(heads) == 1


def test_entries_up_to_the_limit_and_none_beyond(ledger):
    largest = Opaque(200, 1, bytes(codec.ENTRY_BYTES_MAX - 2))
    for _ in range(40):  # more than one chunk
        ledger.append(largest)
    with pytest.raises(LimitError) as caught:
        ledger.append(Opaque(200, 1, bytes(codec.ENTRY_BYTES_MAX - 1)))
    _says_what_to_do(caught)
    ledger.commit()
    assert ledger.size == 41
    assert ledger.record(40) == largest
    _assert_whole(ledger)


def test_what_waits_for_a_commit_is_bounded(ledger, monkeypatch):
    monkeypatch.setattr("licet.ledger.log.PENDING_BYTES_MAX", 100)
    ledger.append(Opaque(200, 1, bytes(90)))
    with pytest.raises(LimitError) as caught:
        ledger.append(Opaque(200, 1, bytes(90)))
    _says_what_to_do(caught)
    assert ledger.commit().size == 2
    ledger.append(Opaque(200, 1, bytes(90)))


def test_a_closed_log_takes_no_more(path, key):
    ledger = Ledger.create(path, key)
    ledger.append(_entry(1))
    ledger.close()
    ledger.close()
    for refused in (lambda: ledger.append(_entry(1)), ledger.commit, ledger.checkpoint):
        with pytest.raises(ClosedError) as caught:
            refused()
        _says_what_to_do(caught)
    with Ledger.open(path, key) as ledger:
        assert ledger.size == 1


def test_several_threads_append_to_one_log(ledger):
    def work(number: int) -> None:
        for i in range(50):
            ledger.append(Opaque(200, 1, b"%d/%d" % (number, i)))
            if i % 5 == 0:
                ledger.commit()

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ledger.commit()
    bodies = [ledger.record(i).body for i in range(1, ledger.size)]
    assert sorted(bodies) == sorted(b"%d/%d" % (n, i) for n in range(4) for i in range(50))
    for n in range(4):
        mine = [body for body in bodies if body.startswith(b"%d/" % n)]
        assert mine == [b"%d/%d" % (n, i) for i in range(50)]
    _assert_whole(ledger)


# ---- what must not be appended, and what a refusal leaves behind -----------------------------------------------

_RUN = RunStarted("run", "model", (Block("a", (), 1), Block("b", (), 1)), "scale", "enforce", None, None, None, 0)
_MENTION = AttestationMentioned(bytes(32), "s")


@pytest.mark.parametrize(
    "record",
    [
        LogOpened(ORIGIN, "key", 0),
        RunStarted("run", "model", (), "scale", "enforce", None, None, None, 0),
        RunStarted("r", "m", (Block("a", (), 1), Block("a", (), 1)), "scale", "enforce", None, None, None, 0),
        ProfileDeclared(1, (15, 15), ("", "")),
        GradientApplied(0, 0, 0, 0, 0, 0, 0, 0, ()),
        PolicyAdopted(b"short", "text", "by", 0),
        SourceRegistered("s", "d", "k", "a", -1),
        Opaque(GradientApplied.KIND, 99, b"an event of the future"),
        Opaque(LogOpened.KIND, LogOpened.VERSION, b""),
    ],
    ids=repr,
)
def test_a_refused_record_leaves_nothing_behind(path, key, record):
    with Ledger.create(path, key) as ledger:
        before = _state(ledger)
        with pytest.raises(LicetError):
            ledger.append(record)
        assert ledger.commit() == before[0]
        assert ledger.append(_entry(1)) == 1
        ledger.commit()
    with Ledger.open(path, key) as ledger:
        assert ledger.size == 2


def test_a_run_that_could_not_be_written_has_not_begun(ledger):
    broken = RunStarted("r", "m", (Block("a", (), 1),), "no technique", "enforce", None, None, None, 0)
    with pytest.raises(FormatError):
        ledger.append(broken)
    ledger.append(_entry(1))
    with pytest.raises(OrderError):
        ledger.append(ProfileDeclared(1, (15,), ("",)))


def test_an_attestation_that_could_not_be_written_was_not_mentioned(ledger):
    run = ledger.append(_RUN)
    profile = ledger.append(ProfileDeclared(run, (15, 0), ("", "")))
    with pytest.raises(FormatError):
        ledger.append(AttestationMentioned(b"short", "s"))
    index = ledger.append(_entry(1))
    with pytest.raises(LicetError):
        ledger.append(GradientApplied(0, 0, 0, 0, 0, run, index, profile, (1,)))
    assert ledger.commit().size == 4


def _admitted(attestation):
    admitted = Determination.ADMITTED
    return ExampleAdmitted(bytes(32), bytes(32), attestation, None, None, admitted, (), None, None, 0, (), None)


@pytest.mark.parametrize("before", ["same commit", "own commit", "reopened"])
def test_events_may_refer_to_what_was_just_appended(path, key, before):
    with Ledger.create(path, key) as ledger:
        run = ledger.append(_RUN)
        profile = ledger.append(ProfileDeclared(run, (15, 0), ("", "")))
    with Ledger.open(path, key) as ledger:
        mention = ledger.append(_MENTION)
        example = ledger.append(_admitted(mention))
        if before == "own commit":
            ledger.commit()
        if before == "reopened":
            ledger.commit()
            ledger.close()
            ledger = Ledger.open(path, key)  # noqa: PLW2901
        newer = ledger.append(_admitted(mention))
        for admitted in (example, newer):
            ledger.append(GradientApplied(0, 0, 0, 0, 0, admitted, mention, profile, (1,)))
        ledger.commit()
        assert ledger.exposure.forward(source="s")[0].events == 2
        ledger.close()


def test_the_order_of_a_run_is_kept(ledger):
    with pytest.raises(OrderError) as caught:
        ledger.append(ProfileDeclared(0, (), ()))
    _says_what_to_do(caught)
    run = ledger.append(_RUN)
    profile = ledger.append(ProfileDeclared(run, (15, -7), ("", "")))
    mention = ledger.append(_MENTION)
    example, other = ledger.append(_admitted(mention)), ledger.append(_MENTION)
    good = {"flags": 0, "step": 5, "epoch": 0, "microbatch": 0, "slot": 0, "example": example, "attestation": mention}
    good |= {"profile": profile, "norms": (1, 2)}
    ledger.append(GradientApplied(**good))
    for wrong in (
        {"step": 4},
        {"example": 99},
        {"example": mention},
        {"attestation": other},
        {"attestation": profile},
        {"attestation": 99},
        {"profile": mention},
        {"profile": 99},
        {"norms": (1,)},
        {"norms": (1, 2, 3)},
        {"flags": -1},
        {"slot": 2**16},
    ):
        with pytest.raises(LicetError):
            ledger.append(GradientApplied(**{**good, **wrong}))
    for declared in (
        ProfileDeclared(run, (15,), ("",)),
        ProfileDeclared(run, (15, 15), ("",)),
        ProfileDeclared(run, (15, 256), ("", "")),
        ProfileDeclared(run + 1, (15, 15), ("", "")),
    ):
        with pytest.raises(LicetError):
            ledger.append(declared)
    with pytest.raises(LicetError):
        ledger.append(_admitted(profile))
    assert ledger.commit().size == 7
    second = ledger.append(_RUN)
    with pytest.raises(OrderError) as caught:
        ledger.append(GradientApplied(**good))
    _says_what_to_do(caught)
    assert ledger.append(ProfileDeclared(second, (1, 1), ("", ""))) == second + 1


def test_append_all_is_all_or_nothing(ledger):
    before = ledger.head
    with pytest.raises(LicetError):
        ledger.append_all([_entry(1), _RUN, _MENTION, PolicyAdopted(b"short", "", "", 0)])
    assert ledger.commit() == before
    with pytest.raises(OrderError):
        ledger.append(ProfileDeclared(2, (1, 1), ("", "")))
    assert ledger.append_all([_entry(1), _entry(2)]) == 1
    assert ledger.commit().size == 3


# ---- reading and proving ---------------------------------------------------------------------------------------


def test_opaque_entries_of_an_unknown_kind_stay_provable(ledger):
    unknown = Opaque(250, 7, b"\x00\xffwhatever a later release writes")
    index = ledger.append(unknown)
    _append(ledger, 20)
    assert ledger.record(index) == unknown
    merkle.verify_inclusion(
        index,
        ledger.size,
        merkle.leaf_hash(b"\xfa\x07" + unknown.body),
        ledger.prove_inclusion(index),
        ledger.head.root,
    )


def test_every_entry_and_prefix_can_be_proved(ledger):
    heads = [ledger.head]
    for i in range(600):
        ledger.append(_entry(i))
        if i % 50 == 0:
            heads.append(ledger.commit())
    heads.append(ledger.commit())
    for index in range(0, ledger.size, 7):
        proof = ledger.prove_inclusion(index)
        merkle.verify_inclusion(index, ledger.size, merkle.leaf_hash(ledger.entry(index)), proof, ledger.head.root)
    for old in heads:
        assert ledger.root_at(old.size) == old.root
        for new in heads:
            if old.size <= new.size:
                proof = ledger.prove_consistency(old.size, new.size)
                merkle.verify_consistency(old.size, new.size, old.root, new.root, proof)


def test_nothing_beyond_the_log_is_read_or_proved(ledger):
    _append(ledger, 3)
    for index in (-1, 4, 2**40):
        with pytest.raises(NotFoundError):
            ledger.entry(index)
    for impossible in (lambda: ledger.prove_inclusion(4), lambda: ledger.prove_inclusion(-1)):
        with pytest.raises(ProofError):
            impossible()
    for impossible in (
        lambda: ledger.prove_inclusion(0, 5),
        lambda: ledger.prove_consistency(1, 5),
        lambda: ledger.root_at(5),
    ):
        with pytest.raises(NotFoundError):
            impossible()
    assert list(ledger.entries(4)) == []
    assert list(ledger.entries(2, 1)) == []


def test_any_stretch_of_entries_can_be_read(ledger):
    for size in (1, 3, 40, 1, 1100):
        _append(ledger, size)
    entries = [entry for _, entry in ledger.entries()]
    assert entries == [ledger.entry(i) for i in range(ledger.size)]
    for start, stop in [(0, 1), (1, 5), (4, 46), (44, 1146), (1000, 1100), (1145, 9999)]:
        assert [entry for _, entry in ledger.entries(start, stop)] == entries[start:stop]
        pieces = list(ledger.chunks(start, stop))
        assert [piece.first for piece in pieces] == [start, *(piece.end for piece in pieces[:-1])]


def test_records_are_found_by_what_they_are_about(ledger):
    ledger.append(_record("a"))
    ledger.append(_record("b"))
    ledger.commit()
    ledger.append(_record("a"))
    ledger.append(ContentErased(b"\x01" * 32, "r", "b", 5))
    ledger.commit()
    assert [index for index, _ in ledger.find(SourceRegistered, "a")] == [1, 3]
    assert [record.source for _, record in ledger.all_of(SourceRegistered)] == ["a", "b", "a"]
    assert ledger.find(SourceRegistered, "c") == []
    assert [index for index, _ in ledger.find(ContentErased, b"\x01" * 32)] == [4]
    assert ledger.find(ContentErased, b"\x01" * 16 + b"\x02" * 16) == [], "the part of the id that is cut off counts"


def test_logs_anchor_each_other(ledger, other):
    with LogReader.open(other) as reader:
        signed = reader.latest_checkpoint()
        checkpoint = note.open_checkpoint(signed, [reader.first_key])
    ledger.append(Anchored(checkpoint.origin, checkpoint.size, checkpoint.root, signed, 5))
    ledger.commit()
    ((_, anchored),) = ledger.find(Anchored, "example.org/other")
    assert anchored.note == signed


def test_checkpoints_are_kept_and_listed(ledger, key):
    for count in (3, 4):
        _append(ledger, count)
        ledger.checkpoint()
    _append(ledger, 1)
    assert [size for size, _ in ledger.checkpoint_notes()] == [1, 4, 8]
    assert [size for size, _ in ledger.checkpoint_notes(4)] == [4, 8]
    for size, signed in ledger.checkpoint_notes():
        checkpoint = note.open_checkpoint(signed, [key.verifier], origin=ORIGIN)
        assert (checkpoint.size, checkpoint.root) == (size, ledger.root_at(size))
    assert note.open_checkpoint(ledger.latest_checkpoint(), [key.verifier]).size == 8
    assert LogDirectory(ledger.directory.path).anchor.read_bytes() == ledger.latest_checkpoint()


# ---- several processes -----------------------------------------------------------------------------------------


@contextmanager
def _child(*arguments: object):
    command = [sys.executable, "-m", "tests.ledger.log_child", *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.stdin.close()
            process.kill()


def test_a_second_writer_is_refused_and_told_who_holds_the_log(path, key):
    Ledger.create(path, key).close()
    with _child("hold", path) as child:
        assert child.stdout.readline() == "held\n"
        with pytest.raises(LockedError) as caught:
            Ledger.open(path, key)
        assert caught.value.pid == child.pid
        assert str(child.pid) in str(caught.value)
        _says_what_to_do(caught)
        with LogReader.open(path) as reader:
            assert reader.size == 1
    with Ledger.open(path, key) as ledger:
        _append(ledger, 1)


def test_a_writer_of_the_same_process_is_refused_too(path, key):
    with Ledger.create(path, key), pytest.raises(LockedError):
        Ledger.open(path, key)
    Ledger.open(path, key).close()


def test_a_killed_writer_leaves_no_lock(path, key):
    Ledger.create(path, key).close()
    with _child("hold", path) as child:
        child.stdout.readline()
        child.kill()
        child.wait()
        with Ledger.open(path, key) as ledger:
            _append(ledger, 1)


def test_a_reader_follows_while_another_process_writes(path, key):
    Ledger.create(path, key).close()
    with LogReader.open(path) as reader, _child("write", path, 200) as child:
        stop = threading.Event()
        followed = []
        for index, entry in reader.follow(1, poll_s=0.01, stop=stop):
            assert index == len(followed) + 1
            followed.append(codec.decode(entry).body)
            if len(followed) == 200:
                stop.set()
        assert followed == [b"from the child %d" % i for i in range(200)]
        assert child.stdout.read().split() == [str(2 + i) for i in range(200)]
        _assert_whole(reader)


def test_a_reader_sees_the_end_of_a_log_whose_writer_is_gone(path, key):
    """What the writer moved into files on closing counts, though the reader read an older state before."""
    Ledger.create(path, key).close()
    with LogReader.open(path) as reader:
        for _ in range(3):
            with Ledger.open(path, key) as ledger:
                for _ in range(20):
                    _append(ledger, 1)
                    if ledger.size % 7 == 0:
                        reader.refresh()
            reader.refresh()
            assert reader.head == ledger.head
            _assert_whole(reader)


def test_a_reader_keeps_up_with_files_that_come_and_go(path, key, monkeypatch):
    """The writer's buffers are so small that its files are made, merged and removed all the time."""
    from licet.ledger import store

    usual = store._options

    def flushing(table):
        options = usual(table)
        options.set_write_buffer_size(16 << 10)
        options.set_max_total_wal_size(64 << 10)
        return options

    Ledger.create(path, key).close()
    monkeypatch.setattr(store, "_options", flushing)
    failures = []

    def write() -> None:
        try:
            for _ in range(2):
                with Ledger.open(path, key) as ledger, open("/dev/urandom", "rb") as chance:
                    for _ in range(400):
                        ledger.append(Opaque(200, 1, chance.read(1000)))
                        ledger.commit()
        except LicetError as error:
            failures.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    seen = set()
    while writer.is_alive():
        with LogReader.open(path) as reader:
            for _ in range(20):
                reader.refresh()
                seen.add(reader.size)
                assert len(list(reader.entries(max(0, reader.size - 100)))) == min(reader.size, 100)
    writer.join()
    assert not failures
    assert len(seen) > 3
    with LogReader.open(path) as reader:
        assert reader.size == 801
        _assert_whole(reader)


def test_a_reader_writes_nothing_beside_the_log(path, key):
    Ledger.create(path, key).close()

    def listing() -> list[tuple]:
        return sorted((file.name, file.stat().st_mtime_ns, file.stat().st_size) for file in path.rglob("*"))

    before = listing()
    with LogReader.open(path) as reader:
        reader.refresh()
        _assert_whole(reader)
    assert listing() == before


def test_a_reader_sees_only_what_it_moved_on_to(path, key):
    with Ledger.create(path, key) as ledger, LogReader.open(path) as reader:
        _append(ledger, 5)
        assert reader.size == 1
        with pytest.raises(NotFoundError):
            reader.entry(1)
        assert reader.refresh()
        assert not reader.refresh()
        assert _state(reader) == _state(ledger)
        signed = ledger.checkpoint()
        reader.refresh()
        assert reader.latest_checkpoint() == signed
        ledger.append(_entry(9))
        assert not reader.refresh()


@pytest.mark.parametrize("later", [Head(2, b"\x01" * 32), Head(6, b"\x01" * 32)])
def test_a_reader_notices_a_log_that_was_rewritten_under_it(path, key, later):
    with Ledger.create(path, key) as ledger:
        _append(ledger, 5)
    with LogReader.open(path) as reader:
        before = _state(reader)
        _tamper(path, b"entry 3", b"entry X")
        store = Store.open_writer(path / "db")
        batch = store.batch()
        batch.put(Table.META, HEAD, Head(later.size if later.size < 6 else 7, later.root).pack())
        if later.size == 6:
            batch.put(
                Table.ENTRIES,
                (6).to_bytes(8, "big"),
                chunks.pack(b"\xc8\x01", np.array([2]), np.zeros((1, 32), np.uint8)),
            )
        store.write(batch)
        store.close()
        with pytest.raises(RollbackError) as caught:
            reader.refresh()
        _says_what_to_do(caught)
        assert reader.head == before[0]


def test_readers_leave_nothing_behind(path, key, tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    Ledger.create(path, key).close()
    before = sorted(file.name for file in path.rglob("*"))
    with LogReader.open(path) as reader:
        assert list(scratch.iterdir())
        assert reader.size == 1
    assert list(scratch.iterdir()) == []
    assert sorted(file.name for file in path.rglob("*")) == before


# ---- disks that refuse -----------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 24 MiB; skipped where nobody may mount one."""
    point = tmp_path / "disk"
    point.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(point)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small disk is not allowed here")
    yield point
    subprocess.run(["umount", "-l", str(point)], check=True)


def _fill(ledger: Ledger) -> list[Head]:
    """Append what does not compress until the disk refuses; what was acknowledged before."""
    heads = [ledger.head]
    with open("/dev/urandom", "rb") as chance, pytest.raises(StorageError) as caught:
        while True:
            ledger.append(Opaque(200, 1, chance.read(60_000)))
            heads.append(ledger.commit())
    _says_what_to_do(caught)
    return heads


def test_a_full_disk_loses_nothing_that_was_acknowledged(small_disk, key):
    path = small_disk / "log"
    ledger = Ledger.create(path, key)
    (small_disk / "ballast").write_bytes(bytes(12 << 20))
    heads = _fill(ledger)
    assert len(heads) > 10
    for refused in (lambda: ledger.append(_entry(1)), ledger.commit, ledger.checkpoint):
        with pytest.raises(ClosedError) as caught:
            refused()
        _says_what_to_do(caught)
    assert ledger.head == heads[-1]
    ledger.close()
    try:
        Ledger.open(path, key).close()
    except LicetError as error:
        assert error.remedy, "opening may fail while the disk is full, and says so"
    (small_disk / "ballast").unlink()
    with Ledger.open(path, key) as ledger:
        assert ledger.size >= heads[-1].size
        for head in heads[:: max(1, len(heads) // 20)] + heads[-1:]:
            assert ledger.root_at(head.size) == head.root
        _assert_whole(ledger)
        _append(ledger, 1)
        ledger.checkpoint()


def test_a_disk_too_small_for_a_log_is_said_plainly(small_disk, key):
    (small_disk / "ballast").write_bytes(bytes((24 << 20) - 20_000))
    with pytest.raises(StorageError) as caught:
        Ledger.create(small_disk / "log", key)
    _says_what_to_do(caught)
    assert not (small_disk / "log").exists()
    (small_disk / "ballast").unlink()
    Ledger.create(small_disk / "log", key).close()


def test_a_read_only_disk_can_be_read_and_not_written(small_disk, key):
    path = small_disk / "log"
    with Ledger.create(path, key) as ledger:
        _append(ledger, 5)
        before = _state(ledger)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for refused in (lambda: Ledger.open(path, key), lambda: Ledger.create(small_disk / "new", key)):
        with pytest.raises(StorageError) as caught:
            refused()
        _says_what_to_do(caught)
    with LogReader.open(path) as reader:
        assert _state(reader) == before
        _assert_whole(reader)


def test_an_anchor_that_cannot_be_written_stops_the_signing_and_nothing_else(path, key):
    with Ledger.create(path, key) as ledger:
        before = LogDirectory(path).anchor.read_bytes()
        anchor = LogDirectory(path).anchor
        anchor.unlink()
        anchor.mkdir()  # a folder where the anchor should be: its rename fails
        ledger.append(_entry(1))
        with pytest.raises(StorageError) as caught:
            ledger.checkpoint()
        _says_what_to_do(caught)
        anchor.rmdir()
        anchor.write_bytes(before)
        assert ledger.size == 2, "what was to be signed is committed"
        note.open_checkpoint(ledger.checkpoint(), [key.verifier])
    with Ledger.open(path, key) as ledger:
        assert ledger.size == 2


def test_a_limit_on_file_sizes_loses_nothing_that_was_acknowledged(path, key):
    Ledger.create(path, key).close()
    with _child("fill", path, 3 << 20) as child:
        *acknowledged, refused, closed = child.stdout.read().splitlines()
        assert child.wait() == 0
    assert (refused, closed) == ("refused True", "closed True")
    assert len(acknowledged) > 50
    with Ledger.open(path, key) as ledger:
        assert ledger.size >= int(acknowledged[-1].split()[0])
        for line in acknowledged[::10] + acknowledged[-1:]:
            size, root = line.split()
            assert ledger.root_at(int(size)).hex() == root
        _assert_whole(ledger)
        _append(ledger, 1)
