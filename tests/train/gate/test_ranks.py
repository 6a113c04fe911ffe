"""DDP and FSDP2 on two ranks equal one process."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.slow
def test_two_ranks_equal_one_process() -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, "-m", "tests.train.gate.ranks"], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
