"""Threads of the loaders: batches made before they are asked for, and a pool that decodes."""

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
"""How long threads that were told to stop are waited for."""


def prefetch(
    produce: Callable[[threading.Event], Generator[Item, None, None]],
    *,
    ahead: int,
    is_stopped: Callable[[], bool] = lambda: False,
) -> Generator[Item, None, None]:
    """Iterate over `produce(stop)` in a thread, up to `ahead` items before they are asked for.

    What it raises is raised here. When this iterator is left, `stop` is set and the thread joined;
    `produce` may set it too, to end what works for it. Whoever waits is asked for `is_stopped`, and
    gets `Stopped` once it is true: a signal's handler that raised here would leave locks as they
    were at that moment.
    """
    stop, left = threading.Event(), threading.Event()
    made: queue.Queue[Any] = queue.Queue(ahead)

    def work() -> None:
        try:
            with closing(produce(stop)) as items:
                for item in items:
                    if not put_unless(made, (item, None), left):
                        return
            put_unless(made, (_END, None), left)
        except BaseException as error:
            put_unless(made, (None, error), left)

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            item, error = _take_unless(made, is_stopped)
            if error is not None:
                raise error
            if item is _END:
                return
            yield item
    finally:
        left.set()
        stop.set()
        thread.join()


def _take_unless(made: "queue.Queue[Any]", is_stopped: Callable[[], bool]) -> Any:
    while not is_stopped():
        with suppress(queue.Empty):
            return made.get(timeout=0.1)
    raise Stopped


def put_unless(made: "queue.Queue[Any]", item: Any, stop: threading.Event) -> bool:
    """False where nobody waits for it any more."""
    while not stop.is_set():
        try:
            made.put(item, timeout=0.1)
        except queue.Full:
            continue
        return True
    return False


class Task(Generic[Item]):
    """One function call in a thread of the pool, and its result."""

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
    """Threads that run tasks in order. One that hangs inside a library can't be ended: it is left
    behind, another takes its place, and it ends with the process."""

    def __init__(self, size: int) -> None:
        self._waiting: queue.SimpleQueue[Task[Any] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        for _ in range(size):
            self._add()

    def submit(self, task: Task[Any]) -> None:
        self._waiting.put(task)

    def abandon(self, task: Task[Any]) -> None:
        task.stop.set()
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
