"""A second process for the tests of a log: `python -m tests.ledger.log_child COMMAND LOG [N]`.

hold        open the log for writing, say so, and keep it until standard input ends
write N     append and commit N entries one by one, and say each size
fill BYTES  append entries until the disk refuses, with no file allowed to grow beyond BYTES; say what was acknowledged
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

from licet.ledger.errors import ClosedError, StorageError
from licet.ledger.log import Ledger
from licet.ledger.records import Opaque


def hold(path: Path) -> None:
    with Ledger.open(path):
        print("held", flush=True)
        sys.stdin.read()


def write(path: Path, count: int) -> None:
    with Ledger.open(path) as ledger:
        for i in range(count):
            ledger.append(Opaque(200, 1, b"from the child %d" % i))
            print(ledger.commit().size, flush=True)


def fill(path: Path, file_bytes_max: int) -> None:
    ledger = Ledger.open(path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes_max, file_bytes_max))
    chance = open("/dev/urandom", "rb")  # noqa: SIM115  what does not compress fills a disk soonest
    while True:
        ledger.append(Opaque(200, 1, chance.read(20_000)))
        try:
            head = ledger.commit()
        except StorageError as error:
            print("refused", bool(error.remedy), flush=True)
            break
        print(head.size, head.root.hex(), flush=True)
    try:
        ledger.append(Opaque(200, 1, b""))
    except ClosedError as error:
        print("closed", bool(error.remedy), flush=True)
    ledger.close()


if __name__ == "__main__":
    command, log, *rest = sys.argv[1:]
    {"hold": hold, "write": write, "fill": fill}[command](Path(log), *map(int, rest))
