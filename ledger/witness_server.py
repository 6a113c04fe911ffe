"""The HTTP side of a witness: one route, small bodies, short patience.

It is meant to stand behind a reverse proxy that speaks TLS; by default only this machine can reach it.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from licet.ledger.errors import ConfigError, LicetError
from licet.ledger.witness import REQUEST_BYTES_MAX, Reply, Witness

IDLE_S_MAX = 10.0
REQUEST_S_MAX = 20.0
CONNECTIONS_MAX = 64
REQUESTS_PER_CONNECTION_MAX = 1000

_log = logging.getLogger(__name__)


class WitnessServer(ThreadingHTTPServer):
    """Serves a witness until `shutdown`."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, witness: Witness, host: str = "127.0.0.1", port: int = 0) -> None:
        self.witness = witness
        self._places = threading.BoundedSemaphore(CONNECTIONS_MAX)
        if ":" in host:
            self.address_family = socket.AF_INET6
        try:
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError) as error:
            raise ConfigError(
                f"The witness cannot listen on {host} port {port}: {error}.", remedy="Choose another host or port."
            ) from error

    @property
    def url(self) -> str:
        host, port = self.server_address[:2]
        text = host if isinstance(host, str) else bytes(host).decode()
        return f"http://[{text}]:{port}" if ":" in text else f"http://{text}:{port}"

    def process_request(self, request: Any, client_address: Any) -> None:
        """Turn connections away when all places are taken, rather than starting ever more threads."""
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._places.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        _log.warning("connection of %s failed", client_address, exc_info=True)


def serve(witness: Witness, host: str = "127.0.0.1", port: int = 8642, *, stop: threading.Event | None = None) -> None:
    """Serve until `stop` is set, or for ever."""
    with WitnessServer(witness, host, port) as server:
        if stop is not None:
            threading.Thread(target=_shut_down_after, args=(server, stop), daemon=True).start()
        server.serve_forever()


def _shut_down_after(server: WitnessServer, stop: threading.Event) -> None:
    stop.wait()
    server.shutdown()


class _Handler(BaseHTTPRequestHandler):
    server: WitnessServer
    protocol_version = "HTTP/1.1"
    server_version = "licet-witness"
    sys_version = ""
    timeout = IDLE_S_MAX

    def do_POST(self) -> None:
        self._served = getattr(self, "_served", 0) + 1
        if self._served >= REQUESTS_PER_CONNECTION_MAX:
            self.close_connection = True
        if self.path.rstrip("/") != "/add-checkpoint":
            self._refuse(404, "There is only add-checkpoint here.")
            return
        body = self._body()
        if body is None:
            return
        try:
            reply = self.server.witness.add_checkpoint(body)
        except LicetError as error:
            # The caller learns only that it failed: paths and state are the operator's business.
            _log.error("add-checkpoint failed: %s", error)
            reply = Reply.text(500, "The witness cannot decide now; its operator finds the reason in the log.")
        self._send(reply)

    def do_GET(self) -> None:
        self._refuse(405, "Checkpoints are posted to add-checkpoint.")

    do_HEAD = do_PUT = do_DELETE = do_GET

    def _body(self) -> bytes | None:
        """The body, if it is announced, small and quick; else the reason was sent."""
        length = self.headers.get("Content-Length", "")
        if self.headers.get("Transfer-Encoding") is not None or not (length.isascii() and length.isdigit()):
            self._refuse(411, "Say the length of the body.")
            return None
        if len(length) > 9 or int(length) > REQUEST_BYTES_MAX:
            self._refuse(413, f"A request may have {REQUEST_BYTES_MAX} bytes.")
            return None
        body = self._read(int(length))
        if body is None:
            self._refuse(408, "The body did not come.")
        return body

    def _read(self, length: int) -> bytes | None:
        deadline = time.monotonic() + REQUEST_S_MAX
        body = bytearray()
        while len(body) < length:
            try:
                part = self.rfile.read1(length - len(body))
            except OSError:
                return None
            if not part or time.monotonic() > deadline:
                return None
            body += part
        return bytes(body)

    def _refuse(self, status: int, message: str) -> None:
        """Answer and hang up: what else the client may send is not read."""
        self.close_connection = True
        self._send(Reply.text(status, message))

    def _send(self, reply: Reply) -> None:
        try:
            self.send_response(reply.status)
            for name, value in reply.headers:
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(reply.body)))
            if self.close_connection:
                self.send_header("Connection", "close")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(reply.body)
        except OSError:
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        _log.info("%s " + format, self.address_string(), *args)
