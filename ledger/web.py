"""HTTP requests that end: every one has a time limit, a size limit and a limited number of attempts.

Only http and https are spoken. A redirect may not leave them, nor go from https back to http.
"""

from __future__ import annotations

import functools
import http.client
import ipaddress
import random
import time
import urllib.error
import urllib.parse
import urllib.request
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Any

from licet.ledger.errors import ConfigError, LimitError, RemoteError

REDIRECTS_MAX = 3
_READ_BYTES = 1 << 16
_ERROR_BYTES = 1 << 12
_RETRIED = frozenset({429, 500, 502, 503, 504})
_USER_AGENT = "licet-ledger"


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for a server, and how often to ask again."""

    timeout_s: float = 20.0
    total_s: float = 120.0
    attempts_max: int = 4
    pause_s: float = 0.5
    pause_s_max: float = 10.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered. Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def check_url(url: str) -> str:
    """A URL prefix without its trailing slash; anything but plain http or https is refused."""
    try:
        parts = urllib.parse.urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good or any(c.isspace() or ord(c) < 0x21 or ord(c) == 0x7F for c in url):
        raise ConfigError(f"{url!r} is not an http or https URL.", remedy="Write it as https://host/prefix.")
    if parts.username is not None or parts.query or parts.fragment:
        raise ConfigError(
            "A log's or witness's URL carries no user name, query or fragment.",
            remedy="Write it as https://host/prefix.",
        )
    return url.rstrip("/")


def get(url: str, *, bytes_max: int, patience: Patience) -> Answer:
    """Fetch a URL, following a few redirects."""
    request = urllib.request.Request(url, headers={"Accept-Encoding": "gzip, identity"})  # noqa: S310
    return _ask(request, _opener(redirects=True, proxies=not _is_this_machine(url)), bytes_max, patience)


def post(url: str, body: bytes, *, bytes_max: int, patience: Patience) -> Answer:
    """Post to a URL. Redirects are answers, not followed: the body was meant for one server."""
    headers = {"Content-Type": "application/octet-stream"}
    request = urllib.request.Request(url, data=body, headers=headers, method="POST")  # noqa: S310
    return _ask(request, _opener(redirects=False, proxies=not _is_this_machine(url)), bytes_max, patience)


class _Redirects(urllib.request.HTTPRedirectHandler):
    max_redirections = REDIRECTS_MAX

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        scheme = urllib.parse.urlsplit(newurl).scheme
        if scheme not in ("http", "https") or (req.type == "https" and scheme != "https"):
            raise RemoteError(
                f"{req.full_url} redirects to {newurl}, which is not followed.", remedy="Use the log's right URL."
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@functools.cache
def _opener(*, redirects: bool, proxies: bool) -> urllib.request.OpenerDirector:
    """Not `build_opener`, which would speak file: and ftp: as well. Kept: making one reads all certificates."""
    opener = urllib.request.OpenerDirector()
    opener.addheaders = [("User-Agent", _USER_AGENT)]
    handlers: list[urllib.request.BaseHandler] = [
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
    ]
    if redirects:
        handlers.append(_Redirects())
    if proxies:
        handlers.append(urllib.request.ProxyHandler())
    for handler in handlers:
        opener.add_handler(handler)
    return opener


def _is_this_machine(url: str) -> bool:
    host = urllib.parse.urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _ask(
    request: urllib.request.Request, opener: urllib.request.OpenerDirector, bytes_max: int, patience: Patience
) -> Answer:
    deadline = time.monotonic() + patience.total_s
    attempt = 1
    while True:
        problem: str
        try:
            answer = _once(request, opener, bytes_max, patience.timeout_s, deadline)
            if answer.status not in _RETRIED:
                return answer
            problem = f"status {answer.status}"
        except urllib.error.URLError as error:
            problem = str(error.reason)
        except (OSError, http.client.HTTPException, _Cut) as error:
            problem = str(error) or type(error).__name__
        # Many clients that failed together should not come back together.
        pause = min(patience.pause_s * 2 ** (attempt - 1), patience.pause_s_max) * random.uniform(0.5, 1.0)  # noqa: S311
        if attempt >= patience.attempts_max or time.monotonic() + pause >= deadline:
            raise RemoteError(
                f"{request.full_url} did not answer properly in {attempt} attempts: {problem}.",
                remedy="Check the URL and the network; what was done so far is kept.",
            )
        time.sleep(pause)
        attempt += 1


class _Cut(Exception):
    """An answer ended early, came too slowly, or was badly compressed."""


def _once(
    request: urllib.request.Request,
    opener: urllib.request.OpenerDirector,
    bytes_max: int,
    timeout_s: float,
    deadline: float,
) -> Answer:
    timeout_s = max(min(timeout_s, deadline - time.monotonic()), 0.01)
    try:
        response = opener.open(request, timeout=timeout_s)
    except urllib.error.HTTPError as error:
        with error:
            # Pages that explain an error may be long and compressed; nobody here needs more than their beginning.
            headers = {name.lower(): value for name, value in error.headers.items()}
            return Answer(error.code, headers, error.read(min(_ERROR_BYTES, bytes_max)))
    with response:
        headers = {name.lower(): value for name, value in response.headers.items()}
        return Answer(response.status, headers, _read(response, headers, bytes_max, deadline))


def _read(response: Any, headers: Mapping[str, str], bytes_max: int, deadline: float) -> bytes:
    too_large = LimitError(
        f"The answer has more than the {bytes_max} bytes that were expected at most.",
        remedy="Check that the URL is what you mean it to be.",
    )
    raw = bytearray()
    while part := response.read1(_READ_BYTES) if hasattr(response, "read1") else response.read(_READ_BYTES):
        raw += part
        if len(raw) > bytes_max:
            raise too_large
        if time.monotonic() > deadline:
            raise _Cut("it answers too slowly")
    length = headers.get("content-length", "")
    if length.isdigit() and len(raw) < int(length):
        raise _Cut("the answer was cut off")
    encoding = headers.get("content-encoding", "identity").lower()
    if encoding == "gzip":
        unzip = zlib.decompressobj(16 + zlib.MAX_WBITS)
        try:
            plain = unzip.decompress(bytes(raw), bytes_max + 1)
        except zlib.error as error:
            raise _Cut("the answer is badly compressed") from error
        if len(plain) > bytes_max:
            raise too_large
        if not unzip.eof:
            raise _Cut("the compressed answer was cut off")
        return plain
    if encoding != "identity":
        raise _Cut(f"the answer is compressed in a way that was not asked for ({encoding[:20]})")
    return bytes(raw)
