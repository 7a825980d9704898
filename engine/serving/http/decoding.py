"""Decodes the videos of requests in threads, with limits of time and duration."""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path
from threading import Event
from typing import Any, Generic, TypeVar

from dali_pipelines.cores import num_cores
from dali_pipelines.loaders.decode_processes import decode_processes
from dali_pipelines.loaders.prefetch import Task, ThreadPool
from dali_pipelines.loaders.windows import ReadWindow, windows_of
from dali_pipelines.spec import ClipSpec
from engine.serving.http.failures import too_late

Value = TypeVar("Value")

GRACE_S = 10.0
"""A thread that doesn't stop within this time is replaced; it ends with the process at the latest.
"""


class Decoder:
    """Two pools of threads: one for single clips, one for long videos, so that these can't keep
    single clips waiting."""

    def __init__(self) -> None:
        self._clips = ThreadPool(num_cores())
        self._films = ThreadPool(max(1, num_cores() // 2))
        self._processes = decode_processes(num_cores())

    async def clip(
        self, path: Path, spec: ClipSpec, *, max_duration_s: float, timeout_s: float
    ) -> ReadWindow:
        """Read a video as one window.

        Raises:
            VideoError: The video can't be read.
            RequestError: It took too long.
        """
        call = _Call(
            self._clips,
            lambda stop: next(self._windows(path, spec, None, None, max_duration_s, stop)),
        )
        return await call.result(timeout_s)

    async def windows(
        self,
        path: Path,
        spec: ClipSpec,
        window_s: float,
        stride_s: float | None,
        *,
        ahead: int,
        max_duration_s: float,
        timeout_s: float,
    ) -> AsyncGenerator[ReadWindow, None]:
        """Read the windows of a video, at most `ahead` before they are taken; see `clip`."""
        found: asyncio.Queue[ReadWindow] = asyncio.Queue()
        room = threading.Semaphore(ahead)
        loop = asyncio.get_running_loop()

        def work(stop: Event) -> None:
            for window in self._windows(path, spec, window_s, stride_s, max_duration_s, stop):
                while not room.acquire(timeout=0.1):
                    if stop.is_set():
                        return
                loop.call_soon_threadsafe(found.put_nowait, window)

        call = _Call(self._films, work)
        try:
            while True:
                next_one = asyncio.ensure_future(found.get())
                either: set[asyncio.Future[Any]] = {next_one, call.done}
                await asyncio.wait(either, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
                if next_one.done():
                    yield next_one.result()
                    room.release()
                    continue
                next_one.cancel()
                if not call.done.done():
                    raise too_late(timeout_s)
                call.done.result()
                if found.empty():
                    return
        finally:
            call.stop()

    def close(self) -> None:
        self._clips.shut_down()
        self._films.shut_down()

    def _windows(
        self,
        path: Path,
        spec: ClipSpec,
        window_s: float | None,
        stride_s: float | None,
        max_duration_s: float,
        stop: Event,
    ) -> Iterator[ReadWindow]:
        settings = (spec, window_s, stride_s, 0, None, max_duration_s)
        if self._processes is not None:
            return self._processes.iterate(windows_of, path, *settings, stop=stop)
        return windows_of(path, *settings, stop=stop)


class _Call(Generic[Value]):
    """A function call in a pool, and its result as a future of asyncio."""

    def __init__(self, pool: ThreadPool, work: Callable[[Event], Value]) -> None:
        self._pool = pool
        self._started_at = 0.0
        self._task: Task[Value] = Task(self._timed(work))
        self.done = asyncio.wrap_future(self._task.done)
        self.done.add_done_callback(lambda done: done.cancelled() or done.exception())
        pool.submit(self._task)

    async def result(self, timeout_s: float) -> Value:
        try:
            await asyncio.wait({self.done}, timeout=timeout_s)
        finally:
            self.stop()
        if not self.done.done():
            raise too_late(timeout_s)
        return self.done.result()

    def stop(self) -> None:
        """Let the call end soon, if it hasn't ended."""
        if not self.done.done():
            self._task.stop.set()
            asyncio.get_running_loop().call_later(GRACE_S, self._replace_thread)

    def _timed(self, work: Callable[[Event], Value]) -> Callable[[Event], Value]:
        def call(stop: Event) -> Value:
            self._started_at = time.monotonic()
            return work(stop)

        return call

    def _replace_thread(self) -> None:
        if self._started_at and not self._task.done.done():
            self._pool.abandon(self._task)
