"""Every parser of other people's bytes: whatever comes, it returns something true or raises one of our errors."""

from __future__ import annotations

import contextlib
import resource
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from licet.ledger.errors import LicetError
from tests.fuzz.targets import TARGETS


def _tried(name: str, raw: bytes) -> None:
    with contextlib.suppress(LicetError):
        TARGETS[name].run(raw)


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_are_accepted(name):
    for seed in TARGETS[name].seeds:
        TARGETS[name].run(seed)


@pytest.mark.parametrize("name", TARGETS)
def test_arbitrary_bytes(name):
    @settings(max_examples=150)
    @given(st.binary(max_size=400))
    def check(raw):
        _tried(name, raw)

    check()


@st.composite
def _mutated(draw, seeds):
    """A seed with a few changes: bytes altered, cut out, put in, doubled, or numbers made enormous."""
    raw = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(raw)))
        end = draw(st.integers(at, min(len(raw), at + 8)))
        change = draw(st.integers(0, 3))
        if change == 0:
            raw[at:end] = draw(st.binary(max_size=8))
        elif change == 1:
            raw[at:end] = b"\xff" * (end - at)
        elif change == 2:
            raw[at:at] = raw[at:end]
        else:
            raw[at:end] = draw(st.sampled_from([b"\n", b"\n\n", b" ", b"=", b"\x00", b"\xc3\xa9", b"9" * 25, b"-1"]))
    return bytes(raw)


@pytest.mark.parametrize("name", TARGETS)
def test_mutated_seeds(name):
    @settings(max_examples=300)
    @given(_mutated(TARGETS[name].seeds))
    def check(raw):
        _tried(name, raw)

    check()


@pytest.mark.parametrize("name", TARGETS)
def test_every_byte_of_a_seed_set_to_everything(name):
    seed = min(TARGETS[name].seeds, key=len)
    for at in range(len(seed)):
        for value in (0x00, 0x01, 0x0A, 0x20, 0x30, 0x7F, 0x80, 0xC3, 0xFE, 0xFF):
            _tried(name, seed[:at] + bytes([value]) + seed[at + 1 :])


def test_no_input_makes_a_parser_swallow_memory():
    """All targets over enormous claims, in a process that may not grow beyond what it has by half a gigabyte."""
    script = (
        "import contextlib, resource\n"
        "from licet.ledger.errors import LicetError\n"
        "from tests.fuzz.targets import TARGETS\n"
        "pages = int(open('/proc/self/statm').read().split()[0])\n"
        "most = pages * resource.getpagesize() + (512 << 20)\n"
        "resource.setrlimit(resource.RLIMIT_AS, (most, most))\n"
        "for target in TARGETS.values():\n"
        "    for seed in target.seeds:\n"
        "        for at in range(len(seed)):\n"
        "            for width in (1, 2, 4, 8, 9):\n"
        "                with contextlib.suppress(LicetError):\n"
        "                    target.run(seed[:at] + b'\\xff' * (width - 1) + b'\\x7f' + seed[at + width:])\n"
        "print('done')\n"
    )
    assert resource.getpagesize() > 0
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert told.stdout == "done\n", told.stderr
