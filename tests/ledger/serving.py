"""Logs to publish and a web server to publish them with, both of which can be made to misbehave."""

from __future__ import annotations

import contextlib
import functools
import gzip
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np

from licet.ledger import tree
from licet.ledger.chunks import Chunk
from licet.ledger.note import Checkpoint, SigningKey
from licet.ledger.web import Patience
from tests.ledger.trees import Grown, entry_of

QUICK = Patience(timeout_s=2, total_s=5, attempts_max=3, pause_s=0.01)


class MemoryLog:
    """A log of `entry_of(0…)` in memory, for sizes that would take long to append."""

    def __init__(self, key: SigningKey) -> None:
        self.key = key
        self.origin = key.name
        self.grown = Grown()
        self.entries: list[bytes] = []
        self.note: bytes | None = None

    def grow(self, size: int, entry: Callable[[int], bytes] = entry_of) -> bytes:
        new = [entry(i) for i in range(len(self.entries), size)]
        offsets = np.cumsum([0, *map(len, new)])
        self.grown.grow(tree.leaf_hashes(b"".join(new), offsets))
        self.entries += new
        return self.sign()

    def sign(self, *keys: SigningKey) -> bytes:
        self.note = Checkpoint(self.origin, self.size, self.root_at(self.size)).sign(keys or [self.key])
        return self.note

    @property
    def size(self) -> int:
        return self.grown.size

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[Chunk]:
        stop = self.size if stop is None else min(stop, self.size)
        for first in range(start, stop, 100):  # not where bundles end
            entries = self.entries[first : min(first + 100, stop)]
            yield Chunk(first, b"".join(entries), np.cumsum([0, *map(len, entries)]))

    def hashes(self, level: int, start: int, count: int):
        return self.grown.hashes(level, start, count)

    def root_at(self, size: int) -> bytes:
        return tree.root_at(size, self.grown)

    def prove_consistency(self, size1: int, size2: int | None = None) -> list[bytes]:
        return tree.prove_consistency(size1, self.size if size2 is None else size2, self.grown)

    def latest_checkpoint(self) -> bytes | None:
        return self.note


class TileServer(ThreadingHTTPServer):
    """Serves a directory. `faults[path]` answers in its stead: (status, headers, body), as often as it stands there."""

    daemon_threads = True

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), functools.partial(_Handler))
        self.root = root
        self.faults: dict[str, list[tuple[int, dict[str, str], bytes]]] = {}
        self.asked: list[str] = []
        self.zipped = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request, client_address) -> None:
        pass


class _Handler(BaseHTTPRequestHandler):
    server: TileServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self.path.removeprefix("/")
        self.server.asked.append(path)
        faults = self.server.faults.get(path)
        if faults:
            self._send(*faults.pop(0))
            return
        file = self.server.root / path
        if not file.is_file():
            self._send(404, {}, b"")
        elif self.server.zipped:
            self._send(200, {"Content-Encoding": "gzip"}, gzip.compress(file.read_bytes()))
        else:
            self._send(200, {}, file.read_bytes())

    def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), "Connection": "close", **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextlib.contextmanager
def served(root: Path) -> Iterator[TileServer]:
    """A web server for a directory, for as long as the block lasts."""
    with running(TileServer(root)) as server:
        yield server


@contextlib.contextmanager
def running(server):
    """Any server, on a thread of its own."""
    thread = threading.Thread(target=functools.partial(server.serve_forever, poll_interval=0.01), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def files_of(folder: Path) -> set[str]:
    """The tile log's own files in a directory."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name != "lock"}
