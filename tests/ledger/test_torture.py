"""A writer is killed at any instant and system call, and given errors by the disk: nothing acknowledged is lost.

`make torture` (LICET_TORTURE=full) goes through every write-related system call in turn; the short round takes a
sample. A kill leaves the kernel's memory as it is, so this proves order and atomicity of the writes, not what a power
cut leaves of them; that an acknowledgement comes after the sync is what the errors injected into the sync show.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

import pytest

from licet.ledger import codec, tree
from licet.ledger.directory import LogDirectory
from licet.ledger.fsck import fsck
from licet.ledger.keys import save_key
from licet.ledger.log import Ledger
from licet.ledger.note import SigningKey, open_checkpoint
from licet.ledger.reader import LogReader
from licet.ledger.records import LogOpened, Opaque
from tests.ledger.torture_child import BODY_KIND, KINDS, body_of
from tests.ledger.training import Brute

FULL = os.environ.get("LICET_TORTURE") == "full"
CALLS = (
    "write",
    "pwrite64",
    "writev",
    "fsync",
    "fdatasync",
    "sync_file_range",
    "fallocate",
    "ftruncate",
    "rename",
    "renameat",
    "renameat2",
    "unlink",
    "unlinkat",
    "mkdir",
    "link",
)
LOG_LIVES = 12
"""After so many deaths a log is given up for a fresh one, so that checking it stays cheap."""

pytestmark = [pytest.mark.torture, pytest.mark.timeout(7200 if FULL else 300)]


@dataclass
class Victim:
    """A log that is written to by one child after another, and what they acknowledged."""

    folder: Path
    kind: str
    key: SigningKey = field(default_factory=lambda: SigningKey.generate("example.org/tortured"))
    acknowledged: dict[int, str] = field(default_factory=dict)
    signed: int = 0
    deaths: int = 0

    def __post_init__(self) -> None:
        self.folder.mkdir()
        save_key(self.folder / "key", self.key)
        Ledger.create(self.log, self.key).close()

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def run(
        self, seed: int, commits: int, *, strace: tuple[str, ...] = (), kill_after: tuple[int, float] | None = None
    ) -> str:
        """Let a child live until it ends, dies, or is killed some acknowledgements and seconds on; how it ended."""
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "tests.ledger.torture_child", self.kind, self.log, self.folder / "key"]
        command = [*strace, *map(str, [*command, seed, commits])]
        quiet = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
        child = subprocess.Popen(command, stdout=theirs.fileno(), stderr=subprocess.PIPE, env=quiet)
        theirs.close()
        with ours, ours.makefile() as lines:
            last = ["nothing", "-", "-"]
            for number, line in enumerate(lines):
                last = line.split()
                self._take_in(last)
                if kill_after is not None and number == kill_after[0]:
                    time.sleep(kill_after[1])
                    child.kill()
        complaint = child.communicate()[1].decode()
        assert last[0] != "untyped", complaint
        self.deaths += 1
        if child.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL):
            return "killed"
        assert (child.returncode, last[0]) in ((0, "closed"), (3, "error")), complaint
        return last[0] if last[0] != "error" else f"error {last[1]}"

    def _take_in(self, words: list[str]) -> None:
        if words and words[0] in ("opened", "committed", "signed"):
            self.acknowledged[int(words[1])] = words[2]
            if words[0] == "signed":
                self.signed = max(self.signed, int(words[1]))

    def check(self, *, thoroughly: bool) -> None:
        """Reopen as after a crash: everything acknowledged, nothing torn, and it goes on."""
        with Ledger.open(self.log, self.key) as ledger:
            entries = [entry for _, entry in ledger.entries()]
            assert ledger.size == len(entries) >= max(self.acknowledged, default=1)
            offsets = list(accumulate(map(len, entries), initial=0))
            edge, _ = tree.Edge().extended(tree.leaf_hashes(b"".join(entries), offsets))
            assert edge.root() == ledger.head.root
            for size, root in self.acknowledged.items():
                assert ledger.root_at(size).hex() == root, f"the {size} entries acknowledged are not those of now"
            self._check_entries(entries)
            anchor = open_checkpoint(LogDirectory(self.log).anchor.read_bytes(), [self.key.verifier])
            assert self.signed <= anchor.size <= ledger.size
            if thoroughly:
                _check_exposure(ledger, entries)
            ledger.append(Opaque(BODY_KIND, 1, body_of(ledger.size)))
            assert ledger.commit().size == len(entries) + 1
            ledger.checkpoint()
            self.signed = ledger.size
            self.acknowledged = {ledger.size: ledger.head.root.hex()}
        if thoroughly:
            fsck(self.log, self.key.verifier)
            with LogReader.open(self.log) as reader:
                assert reader.size == self.signed

    def _check_entries(self, entries: list[bytes]) -> None:
        assert isinstance(codec.decode(entries[0]), LogOpened)
        for index, entry in enumerate(entries[1:], start=1):
            if entry[0] == BODY_KIND:
                assert entry[2:] == body_of(index)
            else:
                assert self.kind == "training"


def _check_exposure(ledger: Ledger, entries: list[bytes]) -> None:
    brute = Brute(entries)
    if not any(event.run == max(brute.runs) for event in brute.events):
        return
    blocks = brute.blocks(None, None)
    ours = [(share.source, share.total, share.share) for share in ledger.exposure.reverse(blocks, top=None)]
    assert ours == brute.reverse(blocks)
    example = brute.chosen(None, None)[-1].example
    assert ledger.exposure.events_of(example) == brute.events_of(example)


class Cell:
    """Logs to kill writers of, one after another."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder = folder
        self.kind = kind
        self.logs = 0
        self.outcomes: Counter[str] = Counter()
        self._victim: Victim | None = None

    def victim(self) -> Victim:
        if self._victim is None or self._victim.deaths >= LOG_LIVES:
            if self._victim is not None:
                shutil.rmtree(self._victim.folder)
            self._victim = Victim(self.folder / f"{self.kind} {self.logs}", self.kind)
            self.logs += 1
        return self._victim

    def checked(self, outcome: str) -> str:
        """After a death: count it and hold the log to its word."""
        self.outcomes[outcome] += 1
        victim = self.victim()
        victim.check(thoroughly=victim.deaths % 4 == 0 or self.kind == "training")
        return outcome


@pytest.fixture(params=KINDS)
def cell(request, tmp_path, monkeypatch):
    """The parent checks with the same small segments that its children write."""
    monkeypatch.setattr("licet.ledger.run_exposure.SEGMENT_EVENTS_MIN", 12)
    monkeypatch.setattr("licet.ledger.run_exposure.SEGMENT_EVENTS_MAX", 12)
    made = Cell(tmp_path, request.param)
    yield made
    print(f"{sum(made.outcomes.values())} deaths of {made.kind} writers: {dict(sorted(made.outcomes.items()))}")


def _rounds(kind: str, *, full: int, short: int) -> int:
    share = {"plain": 1.0, "flushing": 1.0, "training": 0.4}[kind]
    return max(1, int((full if FULL else short) * share))


def test_a_child_that_is_left_alone_writes_what_it_says(cell):
    assert cell.victim().run(seed=0, commits=30) == "closed"
    assert len(cell.victim().acknowledged) > 25
    cell.checked("closed")


def test_killed_at_random_instants(cell):
    chance = random.Random(f"kill {cell.kind}")
    rounds = _rounds(cell.kind, full=100, short=5)
    for number in range(rounds):
        moment = (chance.randrange(40), chance.random() ** 2 * 0.02)
        cell.checked(cell.victim().run(seed=number, commits=10_000, kill_after=moment))
    assert cell.outcomes == {"killed": rounds}


# ---- at every system call --------------------------------------------------------------------------------------

_STRACE = ("strace", "-f", "-qq")
_FAST = ("--seccomp-bpf",)
"""Stops a child at the calls traced only. Signals cannot be injected this way."""
_FAULTS = {"kill": "signal=KILL", "io-error": "error=EIO", "disk-full": "error=ENOSPC"}
_SEED, _COMMITS = 7, 12


def _strace_works() -> bool:
    if shutil.which("strace") is None:
        return False
    trial = [*_STRACE, *_FAST, "-o", os.devnull, "-e", "trace=fsync", "-e", "inject=fsync:error=EIO", "true"]
    return subprocess.run(trial, capture_output=True, check=False).returncode == 0


def _calls_made(cell: Cell, listing: Path) -> list[tuple[str, int]]:
    """Each write-related call that a child makes, with its number among those of its thread."""
    strace = (*_STRACE, *_FAST, "-o", str(listing), "-e", f"trace={','.join(CALLS)}")
    assert cell.victim().run(_SEED, _COMMITS, strace=strace) == "closed"
    cell.checked("closed")
    counts: dict[tuple[str, str], int] = defaultdict(int)
    for thread, call in re.findall(r"^(\d+) +(\w+)\(", listing.read_text(), flags=re.MULTILINE):
        counts[call, thread] += 1
    most = {call: max(n for (c, _), n in counts.items() if c == call) for call, _ in counts}
    assert {"write", "fdatasync", "fsync", "rename"} <= set(most), "the calls that make commits durable are there"
    return [(call, number) for call in sorted(most) for number in range(1, most[call] + 1)]


@pytest.mark.parametrize("fault", _FAULTS)
def test_a_fault_at_every_system_call(cell, fault, tmp_path):
    if not _strace_works():
        pytest.skip("strace is not installed, or may not trace here")
    places = _calls_made(cell, tmp_path / "listing")
    if not FULL or cell.kind == "training":
        wanted = _rounds(cell.kind, full=60, short=4)
        places = random.Random(f"{cell.kind} {fault}").sample(places, min(wanted, len(places)))
    for call, number in places:
        strace = (*_STRACE, *(_FAST if fault != "kill" else ()), "-o", os.devnull, "-e", f"trace={call}")
        inject = ("-e", f"inject={call}:{_FAULTS[fault]}:when={number}")
        outcome = cell.checked(cell.victim().run(_SEED, _COMMITS, strace=(*strace, *inject)))
        assert fault == "kill" or outcome != "killed", f"{call} {number} crashed it"
    if fault == "kill":  # how many calls each thread makes varies a little from life to life
        assert cell.outcomes["killed"] > len(places) // 2
    elif FULL:
        assert cell.outcomes["error StorageError"] > len(places) // 4


@pytest.mark.parametrize("call", ["write", "fsync", "fdatasync"])
@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
def test_a_disk_that_fails_for_good(cell, call, error):
    """From some call on, every call fails: there must be an error, and no acknowledgement after it."""
    if not _strace_works():
        pytest.skip("strace is not installed, or may not trace here")
    chance = random.Random(f"{cell.kind} {call} {error}")
    for _ in range(_rounds(cell.kind, full=5, short=1)):
        first = chance.randrange(1, 20 if call != "fsync" else 4)
        strace = (*_STRACE, *_FAST, "-o", os.devnull, "-e", f"trace={call}")
        inject = ("-e", f"inject={call}:error={error}:when={first}+")
        outcome = cell.checked(cell.victim().run(_SEED, 40, strace=(*strace, *inject)))
        assert outcome == "error StorageError" or (call == "fsync" and outcome == "closed")
