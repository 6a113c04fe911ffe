"""Where the files of a static tile log are fetched from: a directory or a web server."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from licet.ledger.errors import LimitError, MissingFileError, RemoteError
from licet.ledger.files import read_whole
from licet.ledger.web import Patience, check_url, get


class TileSource(Protocol):
    """The files of one log. `parallel` says how many fetches at once speed things up."""

    @property
    def parallel(self) -> int: ...

    def fetch(self, path: str, bytes_max: int) -> bytes | None:
        """The file at this path below the log's prefix; None where there is none."""
        ...


class DirectoryTiles:
    """A tile log in a directory of this machine."""

    parallel = 1

    def __init__(self, root: Path) -> None:
        self.root = root

    def __str__(self) -> str:
        return str(self.root)

    def fetch(self, path: str, bytes_max: int) -> bytes | None:
        try:
            return read_whole(self.root / path, bytes_max=bytes_max)
        except MissingFileError:
            return None


class HttpTiles:
    """A tile log behind a URL prefix."""

    parallel = 4  # simple servers queue five connections, and drop what comes beyond

    def __init__(self, url: str, *, patience: Patience | None = None) -> None:
        self.url = check_url(url)
        self._patience = patience or Patience()

    def __str__(self) -> str:
        return self.url

    def fetch(self, path: str, bytes_max: int) -> bytes | None:
        url = f"{self.url}/{path}"
        try:
            answer = get(url, bytes_max=bytes_max, patience=self._patience)
        except LimitError as error:
            raise RemoteError(f"{url} is not what it should be. {error.message}", remedy=error.remedy) from error
        if answer.status in (404, 410):
            return None
        if answer.status != 200:
            raise RemoteError(
                f"{url} answered with status {answer.status}.", remedy="Check the URL, and whether it asks for a login."
            )
        return answer.body


def open_source(where: str) -> TileSource:
    """The log at a URL or in a directory."""
    if where.startswith(("http://", "https://")):
        return HttpTiles(where)
    return DirectoryTiles(Path(where))
