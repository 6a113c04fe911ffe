"""How a run is watched: a live view where somebody looks at a terminal, plain lines elsewhere, JSON lines in a file.

metrics.jsonl   one object for each step, beside the run's other files
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from licet.ledger import terminal
from licet.ledger.errors import StorageError
from licet.train.run.loop import StepResult

PLAIN_EVERY_S = 5.0


class Progress:
    """Tells of a run's steps as they are taken."""

    def __init__(self, name: str, steps: int, bands: Sequence[Sequence[str]], metrics: Path, *, live: bool) -> None:
        self._name = name
        self._steps = steps
        self._bands = bands
        self._metrics = metrics
        try:
            self._file = metrics.open("a", encoding="utf-8")
        except OSError as error:
            raise self._unwritable(error) from error
        self._live: Any = None
        self._wants_live = live
        self._said_at = 0.0
        self._recent: deque[StepResult] = deque(maxlen=20)
        self._exposure = [0.0] * len(bands)
        self._counts = {"shown": 0, "withheld": 0, "flagged": 0}
        self._held_out: float | None = None

    def __enter__(self) -> Self:
        if self._wants_live:
            from rich.console import Console  # noqa: PLC0415
            from rich.live import Live  # noqa: PLC0415

            self._live = Live(console=Console(stderr=True), refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
        with contextlib.suppress(OSError):  # each line was flushed, and of one that failed was told
            self._file.close()

    def step(self, result: StepResult) -> None:
        self._recent.append(result)
        self._exposure = [a + b for a, b in zip(self._exposure, result.exposure, strict=True)]
        for name in self._counts:
            self._counts[name] += getattr(result, name)
        self._write(self._facts(result))
        if self._live is not None:
            self._live.update(self._view(result))
        elif time.monotonic() - self._said_at >= PLAIN_EVERY_S or result.step + 1 == self._steps:
            self._said_at = time.monotonic()
            terminal.say(self._line(result))

    def held_out(self, step: int, loss: float) -> None:
        self._held_out = loss
        self._write({"step": step, "held_out_loss": loss})
        self.say(f"held-out loss after {step} steps: {loss:.4f}")

    def sealed(self, step: int, directory: Path) -> None:
        self._write({"step": step, "sealed": directory.name})
        self.say(f"sealed after {step} steps: {directory}")

    def say(self, text: str) -> None:
        if self._live is not None:
            self._live.console.print(text, highlight=False, markup=False)
        else:
            terminal.say(text)

    def _write(self, facts: dict[str, Any]) -> None:
        try:
            self._file.write(json.dumps(facts) + "\n")
            self._file.flush()
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> StorageError:
        return StorageError(
            f"{self._metrics} could not be written: {error.strerror or error}.",
            remedy="Look at free space and permissions; the same command goes on from the last seal.",
        )

    def _facts(self, result: StepResult) -> dict[str, Any]:
        return {
            "step": result.step,
            "loss": None if math.isnan(result.loss) else result.loss,
            "learning_rate": result.learning_rate,
            "tokens": result.tokens,
            "tokens_per_s": self._rate(),
            "shown": result.shown,
            "withheld": result.withheld,
            "flagged": result.flagged,
            "exposure": self._by_band(result.exposure),
            "replayed": result.replayed,
        }

    def _rate(self) -> float:
        seconds = sum(one.seconds for one in self._recent)
        return sum(one.tokens for one in self._recent) / seconds if seconds else 0.0

    def _mean_loss(self) -> float:
        losses = [one.loss for one in self._recent if not math.isnan(one.loss)]
        return sum(losses) / len(losses) if losses else math.nan

    def _by_band(self, exposure: Sequence[float]) -> dict[str, float]:
        found: dict[str, float] = {}
        for bands, value in zip(self._bands, exposure, strict=True):
            for band in bands:
                found[band] = found.get(band, 0.0) + value
        return found

    def _line(self, result: StepResult) -> str:
        counts = ", ".join(f"{count} {name}" for name, count in self._counts.items())
        again = " (again)" if result.replayed else ""
        return (
            f"{self._name}: step {result.step + 1}/{self._steps}{again}, loss {self._mean_loss():.3f}, "
            f"{self._rate():,.0f} tokens/s, slots: {counts}"
        )

    def _view(self, result: StepResult) -> Any:
        from rich.console import Group  # noqa: PLC0415
        from rich.progress_bar import ProgressBar  # noqa: PLC0415
        from rich.table import Table  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        bands = self._by_band(self._exposure)
        most = max(bands.values(), default=0.0) or 1.0
        table = Table.grid(padding=(0, 2))
        for band, value in bands.items():
            table.add_row(band, ProgressBar(total=1.0, completed=value / most, width=30), f"{value:,.1f}")
        held = "" if self._held_out is None else f", held out {self._held_out:.3f}"
        left = (self._steps - result.step - 1) * sum(r.seconds for r in self._recent) / max(len(self._recent), 1)
        return Group(
            ProgressBar(total=self._steps, completed=result.step + 1),
            Text(f"{self._line(result)}{held}, {left:.0f} s left"),
            Text("exposure by band"),
            table,
        )


def watched() -> bool:
    """Whether somebody looks at a terminal."""
    return sys.stderr.isatty()
