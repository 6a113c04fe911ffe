"""Fetching over HTTP: every answer is bounded, every wait ends, and only http and https are spoken."""

from __future__ import annotations

import gzip
import io
import socket
import ssl
import threading
import time
import urllib.request

import pytest

from licet.ledger import web
from licet.ledger.errors import ConfigError, LimitError, RemoteError
from licet.ledger.sources import DirectoryTiles, HttpTiles, open_source
from licet.ledger.web import Patience, check_url, get, post
from tests.ledger.serving import QUICK, served


@pytest.fixture
def server(tmp_path):
    (tmp_path / "checkpoint").write_bytes(b"a note")
    with served(tmp_path) as server:
        yield server


@pytest.fixture
def tiles(server):
    return HttpTiles(server.url, patience=QUICK)


def _closed_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture
def raw_server():
    """Answers each connection with these bytes, in these pieces, and hangs up."""
    listener = socket.create_server(("127.0.0.1", 0))
    pieces: list[bytes] = []
    ended = threading.Event()

    def run():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(65_536)
                for piece in pieces:
                    try:
                        connection.sendall(piece)
                    except OSError:
                        break
                    if ended.wait(0.05):
                        break

    threading.Thread(target=run, daemon=True).start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}", pieces
    ended.set()
    listener.close()


# ---- refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        *("", "example.org", "ftp://example.org", "file:///etc/passwd", "http://", "https:///path", "http://[::1"),
        *("http://user:word@example.org", "http://example.org/?q=1", "http://example.org/#x", "http://exa mple.org"),
        *("http://example.org/\nHost: other", "http://example.org:99999", "javascript:alert(1)", "HTTP+unix://x"),
    ],
)
def test_urls_that_are_none(url):
    with pytest.raises(ConfigError) as caught:
        check_url(url)
    assert caught.value.remedy
    assert "word" not in str(caught.value)


def test_connection_refused():
    started = time.monotonic()
    with pytest.raises(RemoteError, match="3 attempts") as caught:
        HttpTiles(f"http://127.0.0.1:{_closed_port()}", patience=QUICK).fetch("checkpoint", 100)
    assert caught.value.remedy
    assert time.monotonic() - started < 2


def test_no_such_host():
    with pytest.raises(RemoteError):
        HttpTiles("http://no-such-host.invalid", patience=QUICK).fetch("checkpoint", 100)


def test_too_large(server, tiles):
    server.faults["checkpoint"] = [(200, {}, bytes(101))]
    with pytest.raises(RemoteError, match="more than the 100 bytes"):
        tiles.fetch("checkpoint", 100)
    assert len(server.asked) == 1, "asking again would not make it smaller"


def test_compressed_bomb(server, tiles):
    bomb = gzip.compress(bytes(10_000_000), mtime=0)
    server.faults["checkpoint"] = [(200, {"Content-Encoding": "gzip"}, bomb)]
    with pytest.raises(RemoteError, match="more than"):
        tiles.fetch("checkpoint", 20_000)


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"Content-Encoding": "gzip"}, b"not gzip"),
        ({"Content-Encoding": "gzip"}, gzip.compress(bytes(1000), mtime=0)[:-12]),
        ({"Content-Encoding": "br"}, b"a note"),
    ],
)
def test_badly_compressed(server, tiles, headers, body):
    server.faults["checkpoint"] = [(200, headers, body)] * 3
    with pytest.raises(RemoteError, match="compressed"):
        tiles.fetch("checkpoint", 10_000)


def test_cut_off(raw_server):
    url, pieces = raw_server
    pieces.append(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this")
    with pytest.raises(RemoteError, match="cut off"):
        HttpTiles(url, patience=QUICK).fetch("checkpoint", 1000)


@pytest.mark.parametrize("answer", [b"", b"garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n"])
def test_not_http(raw_server, answer):
    url, pieces = raw_server
    pieces.append(answer)
    with pytest.raises(RemoteError):
        HttpTiles(url, patience=QUICK).fetch("checkpoint", 1000)


def test_slow_drip(raw_server):
    url, pieces = raw_server
    pieces.append(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    pieces.extend([b"x"] * 1000)
    started = time.monotonic()
    with pytest.raises(RemoteError):
        get(url, bytes_max=2000, patience=Patience(timeout_s=2, total_s=0.5, attempts_max=2, pause_s=0.01))
    assert time.monotonic() - started < 3


def test_silence(raw_server):
    url, pieces = raw_server
    pieces.extend([b""] * 100)
    with pytest.raises(RemoteError):
        get(url, bytes_max=2000, patience=Patience(timeout_s=0.1, total_s=1, attempts_max=2, pause_s=0.01))


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://x"])
def test_redirect_to_another_scheme(server, tiles, target):
    server.faults["checkpoint"] = [(302, {"Location": target}, b"")] * 3
    with pytest.raises(RemoteError):
        tiles.fetch("checkpoint", 100)


def test_redirect_from_https_to_http():
    request = urllib.request.Request("https://example.org/checkpoint")
    for target in ("http://example.org/checkpoint", "file:///etc/passwd"):
        with pytest.raises(RemoteError):
            web._Redirects().redirect_request(request, io.BytesIO(), 302, "", {}, target)
    assert web._Redirects().redirect_request(request, io.BytesIO(), 302, "", {}, "https://example.org/x")


def test_endless_redirects(server, tiles):
    server.faults["checkpoint"] = [(302, {"Location": "/checkpoint"}, b"")] * 50
    with pytest.raises(RemoteError):
        tiles.fetch("checkpoint", 100)
    assert len(server.asked) < 20


def test_post_is_not_redirected(server):
    server.RequestHandlerClass.func.do_POST = server.RequestHandlerClass.func.do_GET
    server.faults["add"] = [(307, {"Location": "/checkpoint"}, b"")]
    assert post(f"{server.url}/add", b"body", bytes_max=100, patience=QUICK).status == 307
    assert server.asked == ["add"]


def test_status_that_is_no_answer(server, tiles):
    for status in (403, 401, 204):
        server.faults["checkpoint"] = [(status, {}, b"")]
        with pytest.raises(RemoteError, match=str(status)):
            tiles.fetch("checkpoint", 100)


def test_server_that_stays_broken(server, tiles):
    server.faults["checkpoint"] = [(503, {}, b"")] * 10
    with pytest.raises(RemoteError, match="503"):
        tiles.fetch("checkpoint", 100)
    assert len(server.asked) == 3


def test_plain_http_where_tls_is_expected(server):
    with pytest.raises(RemoteError):
        HttpTiles(server.url.replace("http:", "https:"), patience=QUICK).fetch("checkpoint", 100)
    assert ssl.create_default_context().verify_mode is ssl.CERT_REQUIRED


def test_oversized_file_in_a_directory(tmp_path):
    (tmp_path / "checkpoint").write_bytes(bytes(101))
    with pytest.raises(LimitError):
        DirectoryTiles(tmp_path).fetch("checkpoint", 100)


# ---- accepted --------------------------------------------------------------------------------------------------


def test_fetch(server, tiles, tmp_path):
    assert tiles.fetch("checkpoint", 100) == b"a note"
    assert tiles.fetch("tile/0/000", 100) is None
    server.faults["tile/0/000"] = [(410, {}, b"gone")]
    assert tiles.fetch("tile/0/000", 100) is None
    server.zipped = True
    assert tiles.fetch("checkpoint", 100) == b"a note"
    assert DirectoryTiles(tmp_path).fetch("checkpoint", 6) == b"a note"
    assert DirectoryTiles(tmp_path).fetch("tile/0/000", 100) is None


def test_server_that_recovers(server, tiles):
    server.faults["checkpoint"] = [(503, {}, b"busy"), (500, {}, b"")]
    assert tiles.fetch("checkpoint", 100) == b"a note"


def test_long_error_pages_are_no_matter(server, tiles):
    """A partial tile that is gone must be told apart from a server that misbehaves, however long its apology."""
    page = bytes(200_000)
    server.faults["tile/0/000"] = [(404, {}, page), (404, {"Content-Encoding": "gzip"}, b"not gzip")]
    assert tiles.fetch("tile/0/000", 100) is None
    assert tiles.fetch("tile/0/000", 100) is None
    server.faults["checkpoint"] = [(503, {}, page)]
    assert tiles.fetch("checkpoint", 100) == b"a note"


def test_redirect_within_http(server, tiles):
    server.faults["checkpoint"] = [(302, {"Location": "/elsewhere"}, b"")]
    server.faults["elsewhere"] = [(200, {}, b"moved")]
    assert tiles.fetch("checkpoint", 100) == b"moved"


def test_open_source(tmp_path):
    assert isinstance(open_source("https://example.org/log/"), HttpTiles)
    assert str(open_source("https://example.org/log/")) == "https://example.org/log"
    assert str(open_source(str(tmp_path))) == str(tmp_path)
