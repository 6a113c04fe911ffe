"""Ending a run well when somebody asks for it: the step is finished, the model sealed, and the run can go on later."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

from licet.ledger import terminal

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopper:
    """Hears the first request to stop, and lets the second one through."""

    def __init__(self) -> None:
        self.asked: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _hear(self, number: int, _frame: FrameType | None) -> None:
        self.asked = signal.Signals(number)
        self._restore()
        terminal.say("Stopping after this step; the model is sealed then. Ask again to stop at once.")

    def _restore(self) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        self._before.clear()
