"""Background threads of the loaders: a prefetch thread for batches, and a pool for decoding."""

import queue
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextlib import closing, suppress
from typing import Any, Generic, TypeVar

from dali_pipelines.errors import Stopped

Item = TypeVar("Item")

_END = object()
JOIN_S = 5.0
"""Seconds to wait for threads to stop."""


def prefetch(
    produce: Callable[[threading.Event], Generator[Item, None, None]],
    *,
    ahead: int,
    is_stopped: Callable[[], bool] = lambda: False,
) -> Generator[Item, None, None]:
    """Iterate over `produce(stop)` in a background thread.

    Exceptions of `produce` are raised here. When the iteration ends, `stop` is set and the thread
    joined.

    Args:
        produce: Returns the items. It may set its argument `stop` itself, to stop its own workers.
        ahead: Number of items to prefetch.
        is_stopped: Polled while waiting; once true, `Stopped` is raised. A signal handler sets it,
            because raising an exception in the handler could leave locks held.

    Raises:
        Stopped: `is_stopped` returned true.
    """
    stop, abandoned = threading.Event(), threading.Event()
    results: queue.Queue[Any] = queue.Queue(ahead)

    def work() -> None:
        try:
            with closing(produce(stop)) as items:
                for item in items:
                    if not put_unless_stopped(results, (item, None), abandoned):
                        return
            put_unless_stopped(results, (_END, None), abandoned)
        except BaseException as error:
            put_unless_stopped(results, (None, error), abandoned)

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            item, error = _get_unless_stopped(results, is_stopped)
            if error is not None:
                raise error
            if item is _END:
                return
            yield item
    finally:
        abandoned.set()
        stop.set()
        thread.join()


def _get_unless_stopped(results: "queue.Queue[Any]", is_stopped: Callable[[], bool]) -> Any:
    while not is_stopped():
        with suppress(queue.Empty):
            return results.get(timeout=0.1)
    raise Stopped


def put_unless_stopped(results: "queue.Queue[Any]", item: Any, stop: threading.Event) -> bool:
    """Put an item into a queue; returns False if `stop` was set first."""
    while not stop.is_set():
        try:
            results.put(item, timeout=0.1)
        except queue.Full:
            continue
        return True
    return False


class Task(Generic[Item]):
    """A function call in a thread of the pool, with its result."""

    def __init__(self, work: Callable[[threading.Event], Item]) -> None:
        self.stop = threading.Event()
        self.done: Future[Item] = Future()
        self._work = work

    def run(self) -> None:
        try:
            self.done.set_result(self._work(self.stop))
        except BaseException as error:
            self.done.set_exception(error)


class ThreadPool:
    """Up to `size` threads that run tasks in order; each task starts one until there are enough.

    A thread that hangs in a library can't be stopped: `abandon` leaves it running until the process
    exits, and starts another thread in its place.
    """

    def __init__(self, size: int) -> None:
        self._waiting: queue.SimpleQueue[Task[Any] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._size = size

    def submit(self, task: Task[Any]) -> None:
        self._waiting.put(task)
        if len(self._threads) < self._size:
            self._add()

    def abandon(self, task: Task[Any]) -> None:
        task.stop.set()
        self._size += 1
        self._add()

    def shut_down(self) -> None:
        for _ in self._threads:
            self._waiting.put(None)
        deadline = time.monotonic() + JOIN_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _add(self) -> None:
        thread = threading.Thread(target=self._run, name="decode", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _run(self) -> None:
        while (task := self._waiting.get()) is not None:
            if not task.stop.is_set():
                task.run()
