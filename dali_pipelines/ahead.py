"""Work that runs ahead of whoever waits for it, in a thread that ends when nobody does."""

import queue
import threading
from collections.abc import Callable, Generator
from contextlib import closing
from typing import Any, TypeVar

Item = TypeVar("Item")

_END = object()


def run_ahead(
    produce: Callable[[threading.Event], Generator[Item, None, None]], *, ahead: int
) -> Generator[Item, None, None]:
    """Iterate over `produce(stop)` in a thread, up to `ahead` items before they are asked for.

    What it raises is raised here. When this iterator is left, `stop` is set and the thread joined;
    `produce` may set it too, to end what works for it.
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

    thread = threading.Thread(target=work, name="ahead", daemon=True)
    thread.start()
    try:
        while True:
            item, error = made.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item
    finally:
        left.set()
        stop.set()
        thread.join()


def put_unless(made: "queue.Queue[Any]", item: Any, stop: threading.Event) -> bool:
    """False where nobody waits for it any more."""
    while not stop.is_set():
        try:
            made.put(item, timeout=0.1)
        except queue.Full:
            continue
        return True
    return False
