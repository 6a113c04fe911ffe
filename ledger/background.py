"""Committing off a hot thread: a bounded queue in front of a log, which blocks when it is full and never drops.

RocksDB holds Python's interpreter lock while it writes (some ten microseconds) and releases it while it waits for the
disk (most of a millisecond). A trainer or server that hands its records to this thread pays the first, not the second.
Whatever has queued up meanwhile is committed at once, so that a slow disk costs fewer, larger commits.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Self

from licet.ledger.errors import ClosedError, LicetError
from licet.ledger.events import Events
from licet.ledger.log import Ledger
from licet.ledger.records import Opaque, Record

QUEUE_MAX = 32
GROUP_MAX = 16

Item = Record | Opaque | Events
_Job = tuple[Sequence[Item], "Future[int]"]


class BackgroundWriter:
    """Hands submissions to a log in their order. It does not own the log: close this first, then the log.

    With `checkpoint_s`, a log that is written to is also signed at least that often.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        queue_max: int = QUEUE_MAX,
        group_max: int = GROUP_MAX,
        checkpoint_s: float | None = None,
    ) -> None:
        self._ledger = ledger
        self._jobs: queue.Queue[_Job | None] = queue.Queue(queue_max)
        self._group_max = group_max
        self._checkpoint_s = checkpoint_s
        self._signed_at = time.monotonic()
        self._failure: BaseException | None = None
        self._closed = False
        self._submitting = threading.Lock()
        self._thread = threading.Thread(target=self._work, name=f"commit {ledger.origin}", daemon=True)
        self._thread.start()

    def submit(self, items: Sequence[Item]) -> Future[int]:
        """Queue some items to be appended together; blocks while the queue is full.

        The future gives the index of the first once all of them are durable. Items that the log refuses fail their
        own future and no other; a write that fails stops everything, and every later submission says so.
        """
        result: Future[int] = Future()
        with self._submitting:
            if self._failure is not None:
                raise ClosedError(
                    f"Nothing more is recorded in {self._ledger.origin}: {self._failure}",
                    remedy="Mend the cause and open the log again; everything acknowledged is in it.",
                ) from self._failure
            if self._closed:
                raise ClosedError(f"The writer of {self._ledger.origin} is closed.", remedy="Open it again.")
            self._jobs.put((items, result))
        return result

    def flush(self) -> None:
        """Wait until everything submitted so far is durable."""
        self.submit([]).result()

    def close(self) -> None:
        """Commit what is queued, then stop."""
        with self._submitting:
            if not self._closed:
                self._closed = True
                self._jobs.put(None)
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _work(self) -> None:
        open_ = True
        while open_:
            jobs = [self._jobs.get()]
            while jobs[-1] is not None and len(jobs) < self._group_max:
                try:
                    jobs.append(self._jobs.get_nowait())
                except queue.Empty:
                    break
            open_ = jobs[-1] is not None
            self._commit([job for job in jobs if job is not None])

    def _commit(self, jobs: list[_Job]) -> None:
        appended: list[tuple[Future[int], int]] = []
        for items, result in jobs:
            try:
                if self._failure is not None:
                    raise ClosedError(f"Nothing more is recorded in {self._ledger.origin}: {self._failure}")
                appended.append((result, self._ledger.append_all(items)))
            except LicetError as error:
                result.set_exception(error)
        try:
            self._ledger.commit()
            self._sign_if_due()
        except Exception as error:  # noqa: BLE001  whatever it is, those who wait must hear of it
            self._failure = error
            for result, _ in appended:
                result.set_exception(error)
        else:
            for result, index in appended:
                result.set_result(index)

    def _sign_if_due(self) -> None:
        if self._checkpoint_s is None or self._ledger.key is None:
            return
        if time.monotonic() - self._signed_at >= self._checkpoint_s:
            self._ledger.checkpoint()
            self._signed_at = time.monotonic()
