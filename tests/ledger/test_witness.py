"""A witness never cosigns two histories of a log, whatever is sent to it and whenever it is stopped."""

from __future__ import annotations

import http.client
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from licet.ledger import witness as module
from licet.ledger.errors import (
    ConfigError,
    CorruptError,
    FormatError,
    LicetError,
    LimitError,
    LockedError,
    ProofError,
    RemoteError,
    RollbackError,
    SignatureError,
    StorageError,
)
from licet.ledger.note import SIGNATURES_MAX, Checkpoint, SigningKey, open_note_by
from licet.ledger.proof import make_receipt, verify_receipt
from licet.ledger.witness import REQUEST_BYTES_MAX, SIZE_TYPE, Submission, Witness, submit
from licet.ledger.witness_server import WitnessServer, serve
from tests.ledger.logs import append_opaque
from tests.ledger.serving import QUICK, MemoryLog, running

TIME = 1_700_000_000


@pytest.fixture
def log(key):
    log = MemoryLog(key)
    log.grow(10)
    return log


@pytest.fixture
def witness_key():
    return SigningKey.generate("witness.example/w")


@pytest.fixture
def witness(key, witness_key, tmp_path):
    witness = Witness(witness_key, {key.name: [key.verifier]}, tmp_path / "state", clock=lambda: TIME)
    yield witness
    witness.close()


@pytest.fixture
def server(witness):
    with running(WitnessServer(witness)) as server:
        yield server


def _ask(witness, log, old=0, note=None, hashes=None):
    if hashes is None:
        hashes = log.prove_consistency(old, log.size) if 0 < old < log.size else []
    return witness.add_checkpoint(Submission(old, tuple(hashes), note or log.note).format())


def _forked(key, size):
    forked = MemoryLog(key)
    forked.grow(size, lambda i: b"fork %d" % i)
    return forked


# ---- the state machine -----------------------------------------------------------------------------------------


def test_first_and_later_checkpoints(witness, log, witness_key, key):
    for old, size in ((0, 10), (10, 10), (10, 11), (11, 300), (300, 301)):
        if size > log.size:
            log.grow(size)
        reply = _ask(witness, log, old)
        assert reply.status == 200
        _, signed_by = open_note_by(log.note + reply.body, [key.verifier, witness_key.witness_verifier])
        assert signed_by == [key.verifier, witness_key.witness_verifier]
        assert witness.last(key.name).size == size


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"old 0\n",
        b"old 0\n\n",
        b"old 00\n\nNOTE",
        b"old -1\n\nNOTE",
        b"old +1\n\nNOTE",
        b"old 0 \n\nNOTE",
        b"Old 0\n\nNOTE",
        b"old 0\r\n\r\nNOTE",
        b"old 9223372036854775808\n\nNOTE",
        b"old 0\nnot base64!\n\nNOTE",
        b"old 0\nAA==\n\nNOTE",
        b"old 0\n" + b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n" * 64 + b"\nNOTE",
        b"old 0\nNOTE",
        b"old 0\n\nnonsense",
        b"old 0\n\norigin\n1\nAA==\n\n\xe2\x80\x94 o AAAAAAA=\n",
        b"\xff\xfe",
    ],
)
def test_malformed(witness, log, body):
    assert witness.add_checkpoint(body.replace(b"NOTE", log.note)).status == 400


def test_oversize(witness, log):
    assert witness.add_checkpoint(Submission(0, (), log.note + bytes(REQUEST_BYTES_MAX)).format()).status == 413


def test_unknown_log(witness, witness_key):
    other = MemoryLog(SigningKey.generate("example.org/other"))
    other.grow(10)
    assert _ask(witness, other).status == 404


def test_wrong_key(witness, log, key):
    stranger = SigningKey.generate(key.name)
    checkpoint = Checkpoint(key.name, 10, log.root_at(10))
    assert _ask(witness, log, note=checkpoint.sign([stranger])).status == 403
    assert _ask(witness, log, note=log.note.replace(b"\n10\n", b"\n11\n")).status == 403
    assert _ask(witness, log, note=checkpoint.body() + b"\n" + key.cosign(checkpoint.body(), 1)).status == 403
    assert witness.last(key.name) is None


def test_old_size_beyond_the_new(witness, log):
    assert _ask(witness, log, old=11).status == 400


def test_old_size_is_not_the_last(witness, log):
    for old in (1, 9, 10):
        reply = _ask(witness, log, old)
        assert (reply.status, reply.body, dict(reply.headers)) == (409, b"0\n", {"Content-Type": SIZE_TYPE})
    _ask(witness, log)
    log.grow(20)
    for old in (0, 9, 11, 20):
        reply = _ask(witness, log, old)
        assert (reply.status, reply.body, dict(reply.headers)) == (409, b"10\n", {"Content-Type": SIZE_TYPE})


def test_rollback(witness, log, key):
    early = log.note
    log.grow(20)
    _ask(witness, log)
    assert _ask(witness, log, note=early, hashes=[]).status == 409
    assert _ask(witness, log, old=10, note=early, hashes=[]).status == 409
    assert witness.last(key.name).size == 20


def test_fork(witness, log, key, tmp_path):
    _ask(witness, log)
    same = _forked(key, 10)
    assert _ask(witness, same, old=10).status == 409
    larger = _forked(key, 20)
    assert _ask(witness, larger, old=10).status == 422
    assert witness.last(key.name).root == log.root_at(10)
    kept = {path.read_bytes() for path in (tmp_path / "state/evidence").iterdir()}
    assert kept == {same.note, larger.note}


def test_evidence_is_bounded(witness, log, key, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "EVIDENCE_FILES_MAX", 3)
    _ask(witness, log)
    for size in range(11, 20):
        assert _ask(witness, _forked(key, size), old=10).status == 422
    assert len(list((tmp_path / "state/evidence").iterdir())) == 3


@pytest.mark.parametrize("change", [lambda p: [], lambda p: p[:-1], lambda p: [*p, bytes(32)], lambda p: p[::-1]])
def test_wrong_proof(witness, log, change):
    _ask(witness, log)
    log.grow(23)
    assert _ask(witness, log, old=10, hashes=change(log.prove_consistency(10))).status == 422
    assert _ask(witness, log, old=10).status == 200


def test_proof_where_none_belongs(witness, log):
    assert _ask(witness, log, hashes=[bytes(32)]).status == 422
    assert _ask(witness, log).status == 200
    assert _ask(witness, log, old=10, hashes=[bytes(32)]).status == 422


def test_empty_log(witness, key):
    empty = MemoryLog(key)
    wrong = Checkpoint(key.name, 0, bytes(32)).sign([key])
    assert _ask(witness, empty, note=wrong).status == 409
    empty.sign()
    assert _ask(witness, empty).status == 200
    empty.grow(5)
    assert _ask(witness, empty).status == 200


def test_state_outlives_the_process(witness, log, key, witness_key, tmp_path):
    _ask(witness, log)
    with pytest.raises(LockedError):
        Witness(witness_key, {key.name: [key.verifier]}, tmp_path / "state")
    witness.close()
    again = Witness(witness_key, {key.name: [key.verifier]}, tmp_path / "state")
    assert _ask(again, _forked(key, 20)).status == 409
    assert again.last(key.name).size == 10
    again.close()


def test_damaged_state_is_not_taken_for_a_new_log(witness, log, key, tmp_path):
    _ask(witness, log)
    (state,) = (tmp_path / "state").glob("*.checkpoint")
    whole = state.read_bytes()
    stranger = SigningKey.generate(key.name)
    for damage in (b"", whole[:-10], Checkpoint(key.name, 1, bytes(32)).sign([stranger]), bytes(10_000_000)):
        state.write_bytes(damage)
        with pytest.raises(CorruptError):
            _ask(witness, log)
    state.write_bytes(whole)
    assert _ask(witness, log, old=10).status == 200


def test_no_cosignature_before_the_state_is_stored(witness, log, monkeypatch):
    def full(*args, **kwargs):
        raise StorageError("full")

    monkeypatch.setattr(module, "write_whole", full)
    with pytest.raises(StorageError):
        _ask(witness, log)


def test_race(witness, log, key):
    """Of many different checkpoints that all follow the last, exactly one is cosigned."""
    forks = [_forked(key, 20 + i) for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(lambda fork: _ask(witness, fork).status, forks))
    assert sorted(statuses) == [200] + [409] * 7


def test_witness_without_keys(witness_key, tmp_path):
    for keys in ([], [witness_key.witness_verifier]):
        with pytest.raises(ConfigError):
            Witness(witness_key, {"example.org/log": keys}, tmp_path / "state")


def test_origin_is_never_a_path(witness_key, tmp_path):
    key = SigningKey.generate("../../escape")
    witness = Witness(witness_key, {key.name: [key.verifier]}, tmp_path / "state")
    log = MemoryLog(key)
    log.grow(3)
    assert _ask(witness, log).status == 200
    assert [path.parent for path in tmp_path.rglob("*.checkpoint")] == [tmp_path / "state"]
    witness.close()


@given(st.binary(max_size=200) | st.text(alphabet="old 0129\nAb=+/", max_size=120).map(str.encode))
def test_any_bytes_are_a_request_or_refused(raw):
    for body in (raw, b"old 5\n" + raw):
        try:
            submission = Submission.parse(body)
        except FormatError:
            continue
        assert submission.format() == body


# ---- over HTTP -------------------------------------------------------------------------------------------------


def _request(server, method="POST", path="/add-checkpoint", body=b"", headers=None):
    connection = http.client.HTTPConnection(*server.server_address[:2], timeout=5)
    connection.request(method, path, body, headers or {})
    response = connection.getresponse()
    return response.status, response.read(), response.headers


def test_server_refusals(server, log):
    assert _request(server, "GET")[0] == 405
    assert _request(server, "PUT")[0] == 405
    assert _request(server, path="/other")[0] == 404
    assert _request(server, body=b"nonsense")[0] == 400
    assert _request(server, headers={"Content-Length": str(REQUEST_BYTES_MAX + 1)})[0] == 413
    assert _request(server, headers={"Content-Length": "9" * 40})[0] == 413
    assert _request(server, headers={"Content-Length": "-1"})[0] == 411
    assert _request(server, headers={"Transfer-Encoding": "chunked"}, body=iter([b"x"]))[0] == 411
    status, body, headers = _request(server, body=Submission(5, (), log.note).format())
    assert (status, body, headers["Content-Type"]) == (409, b"0\n", SIZE_TYPE)


def test_body_that_never_comes(server, monkeypatch):
    monkeypatch.setattr(server.RequestHandlerClass, "timeout", 0.1)
    with socket.create_connection(server.server_address[:2], timeout=5) as connection:
        connection.sendall(b"POST /add-checkpoint HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nold")
        assert connection.recv(100).startswith(b"HTTP/1.1 408")


def test_places_are_limited(server, monkeypatch):
    idle = [socket.create_connection(server.server_address[:2], timeout=5) for _ in range(64)]
    try:
        for connection in idle:  # each has a place once it is answered
            connection.sendall(b"POST /add-checkpoint HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx")
            assert connection.recv(20).startswith(b"HTTP/1.1 400")
        with socket.create_connection(server.server_address[:2], timeout=5) as late:
            try:
                late.sendall(b"POST /add-checkpoint HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx")
                assert late.recv(20) == b""
            except ConnectionError:
                pass
    finally:
        for connection in idle:
            connection.close()


def test_keep_alive(server, log):
    connection = http.client.HTTPConnection(*server.server_address[:2], timeout=5)
    for _ in range(3):
        connection.request("POST", "/add-checkpoint", Submission(5, (), log.note).format())
        response = connection.getresponse()
        assert (response.status, response.read()) == (409, b"0\n")
    connection.close()


def test_failure_tells_strangers_nothing(server, log, tmp_path):
    submit(server.url, log.note, log, server.witness.verifier, patience=QUICK)
    (state,) = (tmp_path / "state").glob("*.checkpoint")
    state.write_bytes(b"")
    status, body, _ = _request(server, body=Submission(0, (), log.note).format())
    assert status == 500
    assert str(tmp_path).encode() not in body


def test_port_in_use(server, witness):
    with pytest.raises(ConfigError):
        WitnessServer(witness, port=server.server_address[1])
    with pytest.raises(ConfigError):
        WitnessServer(witness, port=70_000)
    assert server.server_address[0] == "127.0.0.1"


def test_serve_until_stopped(witness):
    stop = threading.Event()
    thread = threading.Thread(target=serve, args=(witness, "127.0.0.1", 0), kwargs={"stop": stop})
    thread.start()
    stop.set()
    thread.join(5)
    assert not thread.is_alive()


# ---- the log's side --------------------------------------------------------------------------------------------


def test_submit(server, ledger, key, witness_key):
    note = append_opaque(ledger, 20)
    cosigned = submit(server.url, note, ledger, witness_key.witness_verifier, patience=QUICK)
    assert cosigned.startswith(note)
    note = append_opaque(ledger, 300)
    cosigned = submit(server.url + "/", note, ledger, witness_key.witness_verifier, old_size=21, patience=QUICK)
    proof = make_receipt(ledger, 5, cosigned)
    verify_receipt(proof, [key.verifier], witnesses=[witness_key.witness_verifier], witnesses_min=1)
    again = submit(server.url, cosigned, ledger, witness_key.witness_verifier, patience=QUICK)
    assert again == cosigned, "its own older cosignature is replaced, not repeated"


def test_submit_learns_the_size(server, log, witness_key):
    submit(server.url, log.note, log, witness_key.witness_verifier, patience=QUICK)
    log.grow(20)
    for guess in (0, 3, 20):
        note = log.grow(log.size + 5)
        assert submit(server.url, note, log, witness_key.witness_verifier, old_size=guess, patience=QUICK)


def test_submit_after_a_rollback(server, log, key, witness_key):
    early = log.note
    log.grow(20)
    submit(server.url, log.note, log, witness_key.witness_verifier, patience=QUICK)
    with pytest.raises(RollbackError) as caught:
        submit(server.url, early, log, witness_key.witness_verifier, patience=QUICK)
    assert caught.value.remedy


@pytest.mark.parametrize(("size", "error"), [(10, RollbackError), (20, ProofError)])
def test_submit_a_fork(server, log, key, witness_key, size, error):
    submit(server.url, log.note, log, witness_key.witness_verifier, patience=QUICK)
    forked = _forked(key, size)
    with pytest.raises(error) as caught:
        submit(server.url, forked.note, forked, witness_key.witness_verifier, patience=QUICK)
    assert caught.value.remedy


def test_submit_unknown_log_or_key(server, log, witness_key, key):
    other = MemoryLog(SigningKey.generate("example.org/other"))
    other.grow(3)
    with pytest.raises(RemoteError, match="404"):
        submit(server.url, other.note, other, witness_key.witness_verifier, patience=QUICK)
    log.sign(SigningKey.generate(key.name))
    with pytest.raises(RemoteError, match="403"):
        submit(server.url, log.note, log, witness_key.witness_verifier, patience=QUICK)
    with pytest.raises(RemoteError):
        submit(server.url + "/wrong", log.note, log, witness_key.witness_verifier, patience=QUICK)


def test_submit_to_nobody(log, witness_key, server):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    with pytest.raises(RemoteError):
        submit(f"http://127.0.0.1:{port}", log.note, log, witness_key.witness_verifier, patience=QUICK)
    with pytest.raises(ConfigError):
        submit("ftp://witness.example", log.note, log, witness_key.witness_verifier)
    with pytest.raises(ConfigError):
        submit(server.url, log.note, log, witness_key.verifier)


def test_submit_to_an_impostor(server, log, witness_key):
    for stranger in (SigningKey.generate(witness_key.name), SigningKey.generate("witness.example/other")):
        with pytest.raises(SignatureError):
            submit(server.url, log.note, log, stranger.witness_verifier, patience=QUICK)


class _Lying:
    """A witness that answers as it is told."""

    def __init__(self, *replies):
        self.replies = list(replies)

    def add_checkpoint(self, body):
        return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]


def _lines(witness_key, log, count):
    body = log.note.partition(b"\n\n")[0] + b"\n"
    return b"".join(witness_key.cosign(body, i + 1) for i in range(count))


@pytest.mark.parametrize(
    "reply",
    [
        module.Reply(200, (), b""),
        module.Reply(200, (), b"thanks\n"),
        module.Reply(200, (), "— witness.example/w AAAA\n".encode()),
        module.Reply(200, (), b"\xff" * 1000),
        module.Reply(200, (), b"\n" * 60_000),
        module.Reply(409, (), b"not a number\n"),
        module.Reply(409, (), b"\xff"),
        module.Reply(409, (), b"99999999999999999999999\n"),
        module.Reply(409, (), b"5\n"),
        module.Reply(409, (), b"9223372036854775807\n"),
        module.Reply(301, (("Location", "file:///etc/passwd"),), b""),
        module.Reply(200, (), bytes(module.ANSWER_BYTES_MAX + 1)),
    ],
)
def test_submit_to_a_liar(log, witness_key, reply):
    with running(WitnessServer(_Lying(reply))) as server, pytest.raises(LicetError) as caught:
        submit(server.url, log.note, log, witness_key.witness_verifier, patience=QUICK)
    assert caught.value.remedy


def test_submit_to_one_who_changes_his_mind(log, witness_key):
    replies = [module.Reply.conflict(size) for size in range(1, 9)]
    with running(WitnessServer(_Lying(*replies))) as server, pytest.raises(RemoteError):
        submit(server.url, log.note, log, witness_key.witness_verifier, patience=QUICK)


def test_other_lines_of_an_answer_are_ignored(log, witness_key):
    stranger = SigningKey.generate("stranger.example")
    body = _lines(stranger, log, 1) + _lines(witness_key, log, 2) + _lines(stranger, log, 1)
    with running(WitnessServer(_Lying(module.Reply(200, (), body)))) as server:
        cosigned = submit(server.url, log.note, log, witness_key.witness_verifier, patience=QUICK)
    assert cosigned == log.note + _lines(witness_key, log, 1)


def test_note_that_carries_no_more(log, witness_key):
    others = [SigningKey.generate(f"witness.example/{i}") for i in range(SIGNATURES_MAX - 1)]
    full = log.note + b"".join(_lines(other, log, 1) for other in others)
    reply = module.Reply(200, (), _lines(witness_key, log, 1))
    with running(WitnessServer(_Lying(reply))) as server, pytest.raises(LimitError):
        submit(server.url, full, log, witness_key.witness_verifier, patience=QUICK)
