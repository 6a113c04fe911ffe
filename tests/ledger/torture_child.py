"""What the torture test kills: `python -m tests.ledger.torture_child KIND LOG KEY SEED COMMITS`.

It opens a log, appends, and says over the socket that is its standard output what was acknowledged, one line each:

    opened SIZE ROOT    committed SIZE ROOT    signed SIZE ROOT    closed - -

Acknowledgements go out by `sendto`, so that faults injected into `write` never hit them. A typed error ends it with
`error NAME -`; anything else that is raised ends it with `untyped NAME -`, which the test counts as a failure.
"""

from __future__ import annotations

import random
import socket
import sys
from pathlib import Path

from licet.ledger import run_exposure, store, tree
from licet.ledger.errors import LicetError
from licet.ledger.keys import load_key
from licet.ledger.log import Ledger
from licet.ledger.records import Opaque

KINDS = ("plain", "flushing", "training")
BODY_KIND = 200


def body_of(index: int) -> bytes:
    """What entry `index` must hold; its length varies from nothing to some kilobytes."""
    chance = random.Random(index)
    return chance.randbytes(chance.choice([0, 1, 40, 40, 300, 3000]))


def shape(kind: str) -> None:
    """Bend the library to the kind of run: everything that happens rarely shall happen all the time."""
    run_exposure.SEGMENT_EVENTS_MIN = run_exposure.SEGMENT_EVENTS_MAX = 12
    if kind != "training":
        tree._COMPILED_MIN = 10**9  # spares each child the import of the compiled loops
    if kind != "plain":
        usual = store._options

        def flushing(table: store.Table) -> store.rocksdict.Options:
            options = usual(table)
            options.set_write_buffer_size(16 << 10)
            options.set_max_total_wal_size(64 << 10)
            options.set_target_file_size_base(32 << 10)
            return options

        store._options = flushing


class Child:
    """One life of a writer."""

    def __init__(self, kind: str, log: Path, key: Path, seed: int) -> None:
        self.kind = kind
        self.log = log
        self.key = load_key(key)
        self.chance = random.Random(seed)
        self.parent = socket.socket(fileno=1)

    def say(self, what: str, first: object = "-", second: object = "-") -> None:
        self.parent.sendall(f"{what} {first} {second}\n".encode())

    def live(self, commits: int) -> None:
        """Append and commit, signing now and then, closing and reopening in between."""
        while commits > 0:
            lives = min(commits, self.chance.randrange(5, 40))
            commits -= lives
            with Ledger.open(self.log, self.key) as ledger:
                self.say("opened", ledger.size, ledger.head.root.hex())
                write = self._trainer(ledger) if self.kind == "training" else lambda: self._append(ledger)
                for _ in range(lives):
                    write()
                    head = ledger.commit()
                    self.say("committed", head.size, head.root.hex())
                    if self.chance.random() < 0.2:
                        ledger.checkpoint()
                        self.say("signed", head.size, head.root.hex())
            self.say("closed")

    def _append(self, ledger: Ledger) -> None:
        at = ledger.size
        for index in range(at, at + self.chance.randrange(1, 6)):
            ledger.append(Opaque(BODY_KIND, 1, body_of(index)))

    def _trainer(self, ledger: Ledger):
        from tests.ledger.training import Trainer

        trainer = Trainer(ledger, self.chance)
        trainer.start(3)
        trainer.declare_some()
        trainer.admit(6)

        def step() -> None:
            if self.chance.random() < 0.05:
                trainer.start(4)
                trainer.declare_some()
            trainer.take_step(self.chance.randrange(1, 20))

        return step


def main(kind: str, log: str, key: str, seed: str, commits: str) -> int:
    shape(kind)
    child = Child(kind, Path(log), Path(key), int(seed))
    try:
        child.live(int(commits))
    except LicetError as error:
        child.say("error", type(error).__name__)
        return 3
    except BaseException as error:
        child.say("untyped", type(error).__name__)
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
