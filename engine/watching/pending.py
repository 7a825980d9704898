"""Pending: the windows that wait for the model, of all sources.

Windows of a live source that wait too long are dropped in favor of newer ones. Files and pipes wait
instead, so that all their windows are labelled.
"""

import time
from collections import deque
from collections.abc import Sequence
from threading import Condition
from typing import NamedTuple

from dali_pipelines.errors import Stopped
from dali_pipelines.loaders.stream_windows import StreamWindow

MAX_WAIT_S = 0.5
"""How long a window of a live source waits if there is a newer one."""
MAX_WINDOWS = 8
"""Waiting windows per source."""


class Waiting(NamedTuple):
    source: int
    window: StreamWindow
    since: float


class Pending:
    """Windows of several sources; each source is one thread, and one thread takes the windows."""

    def __init__(self, num_sources: int) -> None:
        self._condition = Condition()
        self._windows: list[deque[Waiting]] = [deque() for _ in range(num_sources)]
        self._num_open = num_sources
        self._is_stopped = False
        self._error: BaseException | None = None
        self.dropped = [0] * num_sources
        """Windows of each source that were not labelled."""

    def put(self, source: int, window: StreamWindow, *, may_drop: bool) -> None:
        """Add a window; waits for a place unless older windows may be dropped.

        Raises:
            Stopped: `stop` was called.
        """
        with self._condition:
            waiting = self._windows[source]
            if may_drop:
                self._drop_old(source, MAX_WINDOWS - 1)
            while len(waiting) >= MAX_WINDOWS and not self._is_stopped:
                self._condition.wait()
            if self._is_stopped:
                raise Stopped
            waiting.append(Waiting(source, window, time.monotonic() if may_drop else float("inf")))
            self._condition.notify_all()

    def take(self, max_windows: int) -> Sequence[Waiting]:
        """Take windows, the longest waiting of each source first; nothing once all have ended.

        Raises an error that a source has reported with `fail`.
        """
        with self._condition:
            while self._num_open and not any(self._windows) and self._error is None:
                self._condition.wait()
            if self._error is not None:
                raise self._error
            for source in range(len(self._windows)):
                self._drop_old(source, MAX_WINDOWS)
            taken: list[Waiting] = []
            while len(taken) < max_windows and any(self._windows):
                first = [waiting[0] for waiting in self._windows if waiting]
                first.sort(key=lambda waiting: waiting.window.arrived)
                for waiting in first[: max_windows - len(taken)]:
                    taken.append(self._windows[waiting.source].popleft())
            self._condition.notify_all()
            return taken

    def count_dropped(self, source: int, num_windows: int) -> None:
        with self._condition:
            self.dropped[source] += num_windows

    def finish(self) -> None:
        """A source has no more windows."""
        with self._condition:
            self._num_open -= 1
            self._condition.notify_all()

    def fail(self, error: BaseException) -> None:
        """A source has failed for a reason that no retry mends."""
        with self._condition:
            self._error = error
            self._condition.notify_all()

    def stop(self) -> None:
        """Make all sources stop that wait for a place."""
        with self._condition:
            self._is_stopped = True
            self._condition.notify_all()

    def _drop_old(self, source: int, max_windows: int) -> None:
        waiting, now = self._windows[source], time.monotonic()
        while len(waiting) > 1 and (
            now - waiting[0].since > MAX_WAIT_S or len(waiting) > max_windows
        ):
            waiting.popleft()
            self.dropped[source] += 1
