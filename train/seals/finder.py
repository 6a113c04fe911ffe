"""Finding a seal by its id among the folders of a home: models/NAME/SEAL."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path

from licet.ledger.errors import LicetError
from licet.ledger.files import read_whole
from licet.ledger.records import Digest
from licet.train.seals.seal import SEAL_BYTES_MAX, SEAL_FILE, claimed_id
from licet.train.seals.tensor_file import opened

FOLDERS_MAX = 100_000


def seals_in(*folders: Path) -> Callable[[Digest], bytes | None]:
    """A lookup over the seals in the folders inside these folders. They are listed once, when first asked."""

    @cache
    def places() -> dict[Digest, Path]:
        found: dict[Digest, Path] = {}
        for path in _seal_files(folders):
            raw = _read(path)
            if raw is not None:
                found.setdefault(raw[0], path)
        return found

    def look_up(wanted: Digest) -> bytes | None:
        path = places().get(wanted)
        read = _read(path) if path is not None else None
        return read[1] if read is not None else None

    return look_up


def _seal_files(folders: Sequence[Path]) -> Iterator[Path]:
    left = FOLDERS_MAX
    for folder in folders:
        if not folder.is_dir():
            continue
        with os.scandir(folder) as entries:
            for entry in entries:
                left -= 1
                if left < 0:
                    return
                path = Path(entry.path) / SEAL_FILE
                if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False) and path.is_file():
                    yield path


def _read(path: Path) -> tuple[Digest, bytes] | None:
    """A seal and what it is called; nothing of one that cannot be read, which then is not the one."""
    try:
        with opened(path):
            raw = read_whole(path, bytes_max=SEAL_BYTES_MAX)
        return claimed_id(raw), raw
    except LicetError:
        return None
