"""A log as other processes see it: opened for reading, followed as it grows."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from licet.ledger.directory import Description, LogDirectory
from licet.ledger.errors import RollbackError
from licet.ledger.exposure import Exposure
from licet.ledger.note import VerifierKey, open_checkpoint
from licet.ledger.records import KeyRotated
from licet.ledger.store import Store
from licet.ledger.succession import Succession
from licet.ledger.view import View, read_head


class LogReader(View):
    """A log as another process sees it. It never blocks the writer and never writes."""

    def __init__(self, directory: LogDirectory, description: Description, store: Store) -> None:
        super().__init__(description.origin, store, read_head(store))
        self.directory = directory
        self.first_key = description.verifier_key
        self._exposure: Exposure | None = None

    @classmethod
    def open(cls, path: Path) -> Self:
        directory = LogDirectory(path)
        description = directory.describe()
        return cls(directory, description, Store.open_reader(directory.database))

    @property
    def exposure(self) -> Exposure:
        """The exposure index; building it is put off until it is asked for."""
        if self._exposure is None:
            index = Exposure(self)
            index.load()
            self._exposure = index
        return self._exposure

    def verifier_keys(self) -> list[VerifierKey]:
        """The keys that sign this log, oldest first: the first one, then each that its forerunner announced."""
        succession = Succession(self.origin, self.first_key)
        for index, rotation in self.all_of(KeyRotated):
            succession.rotate(index, rotation)
        return succession.keys

    def check_anchor(self, note: bytes) -> None:
        """Raise unless this log holds what `note`, a checkpoint of it that was signed before, stands for."""
        anchor = open_checkpoint(note, self.verifier_keys(), origin=self.origin)
        if anchor.size > self.size or self.root_at(anchor.size) != anchor.root:
            raise RollbackError(
                f"{self.directory.path} does not hold the {anchor.size} entries that were signed last: it was rolled "
                f"back to {self.size}, or altered.",
                remedy="Restore the newest copy, or make the log anew from a mirror with `licet ledger restore`.",
            )

    def refresh(self) -> bool:
        """Move on to what was committed since; whether there was anything."""
        self._store.catch_up()
        head = read_head(self._store)
        if head == self.head:
            return False
        before, self.head = self.head, head
        try:
            grew = head.size >= before.size and (not before.size or self.root_at(before.size) == before.root)
        except BaseException:
            self.head = before
            raise
        if not grew:
            self.head = before
            raise RollbackError(
                f"The log {self.origin} no longer begins with the {before.size} entries that were read from it.",
                remedy="Stop using it and compare it with a mirror.",
            )
        if self._exposure is not None:
            self._exposure.catch_up()
        return True

    def follow(
        self, start: int = 0, *, poll_s: float = 0.2, stop: threading.Event | None = None
    ) -> Iterator[tuple[int, bytes]]:
        """Entries from `start` on, waiting for more until `stop` is set (or for ever)."""
        position = start
        while stop is None or not stop.is_set():
            for index, entry in self.entries(position):
                yield index, entry
                position = index + 1
            if not self.refresh():
                if stop is None:
                    time.sleep(poll_s)
                else:
                    stop.wait(poll_s)

    def close(self) -> None:
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
