"""Writing to the registry: what would not count is not appended."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from licet.ledger.errors import ConfigError
from licet.ledger.home import Home
from licet.ledger.log import Ledger
from licet.ledger.reader import LogReader
from licet.ledger.records import Record
from licet.policies.registry import Registry


@dataclass(slots=True)
class Recorder:
    """The registry's log and what it says, in step."""

    log: Ledger
    registry: Registry

    def add(self, record: Record) -> int:
        """Append a record to the next commit; the entry it will be."""
        self.registry.check(record)
        index = self.log.append(record)
        self.registry.take_in(index, record)
        return index


@contextmanager
def recording(home: Home) -> Iterator[Recorder]:
    """The registry, for writing. All of what was added is committed and signed at the end, or none of it."""
    with home.open_log("registry") as log:
        recorder = Recorder(log, Registry.read(log))
        size = log.size
        yield recorder
        if recorder.registry.size > size:
            log.checkpoint()


@contextmanager
def reading(home: Home) -> Iterator[Registry]:
    """The registry as it is now, without keeping anybody from writing."""
    with LogReader.open(home.log("registry")) as log:
        yield Registry.read(log, home.verifier_key("registry"))


def check_authority(registry: Registry, authority: str) -> None:
    """Raise unless the active policy's taxonomy has this class."""
    known = registry.policy().document.authority
    if authority not in known:
        raise ConfigError(
            f"The active policy knows no authority class {authority[:256]!a}.",
            remedy=f"Its classes are {', '.join(sorted(known))}; `licet policy adopt` changes them.",
        )
