"""Runs the installed command as a user does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LICET = str(Path(sys.executable).with_name("licet"))


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def licet(*arguments: object, home: Path | None = None, **environment: str) -> Result:
    settings = {k: v for k, v in os.environ.items() if not k.startswith("LICET_")}
    if home is not None:
        settings["LICET_HOME"] = str(home)
    command = [LICET, *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**settings, **environment}, timeout=240, check=False
    )
    assert "Traceback" not in done.stderr, done.stderr
    return Result(done.returncode, done.stdout, done.stderr)
