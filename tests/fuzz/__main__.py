"""Coverage-guided fuzzing: `python -m tests.fuzz [TARGET …] [--seconds N]`.

Runs each target in a process of its own, with its coverage to guide it, and keeps what it found interesting under
`.fuzz/` for the next time. A crash is written there too, and ends the run with a non-zero status.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
from pathlib import Path

CORPUS = Path(".fuzz")
MEMORY_MIB_MAX = 1024
INPUT_BYTES_MAX = 4096
ONE_INPUT_S_MAX = 10


def fuzz_one(name: str, seconds: int) -> None:
    """Fuzz one target in this process; libFuzzer ends it."""
    import atheris

    with atheris.instrument_imports(include=["licet"]):
        from licet.ledger.errors import LicetError
        from tests.fuzz.targets import TARGETS
    target = TARGETS[name]
    folder = CORPUS / name
    folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds):
        (folder / f"seed {number}").write_bytes(seed)

    def one(raw: bytes) -> None:
        with contextlib.suppress(LicetError):
            target.run(raw)

    options = [
        f"-max_total_time={seconds}",
        f"-rss_limit_mb={MEMORY_MIB_MAX}",
        f"-max_len={INPUT_BYTES_MAX}",
        f"-timeout={ONE_INPUT_S_MAX}",
        f"-artifact_prefix={folder.parent}/crash {name} ",
        "-print_final_stats=1",
        "-verbosity=0",
    ]
    atheris.Setup([sys.argv[0], *options, str(folder)], one)
    atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", help="all of them if none is named")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    try:
        import atheris  # noqa: F401
    except ImportError:
        print(
            "Fuzzing needs atheris: `make fuzz` installs it, or `.venv/bin/python -m pip install atheris`.",
            file=sys.stderr,
        )
        print("Without it, tests/fuzz/test_parsers.py tries the same targets at random.", file=sys.stderr)
        return 2
    if arguments.here:
        fuzz_one(arguments.targets[0], arguments.seconds)
        return 0
    from tests.fuzz.targets import TARGETS

    unknown = set(arguments.targets) - set(TARGETS)
    if unknown:
        parser.error(f"there is no target {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    failed = []
    for name in arguments.targets or TARGETS:
        print(f"== {name}", flush=True)
        command = [sys.executable, "-m", "tests.fuzz", name, "--here", "--seconds", str(arguments.seconds)]
        if subprocess.run(command, check=False).returncode:
            failed.append(name)
    print(f"failed: {', '.join(failed)}" if failed else "nothing found")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
