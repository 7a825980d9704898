"""Runs a function on many items: on all cores, in order, with a progress bar.

Each item runs in a worker process with a time limit. If a worker crashes or hangs, as video
decoders may on a broken file, only its item fails.
"""

import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from dali_pipelines.cores import num_cores
from engine.progress import progress_bar

Item = TypeVar("Item")
Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True)
class Outcome(Generic[Item, Value]):
    item: Item
    value: Value | None
    error: Exception | None


def run_each(
    function: Callable[[Item], Value],
    items: Sequence[Item],
    *,
    title: str,
    unit: str = "clips",
    timeout_s: float = 600.0,
) -> Iterator[Outcome[Item, Value]]:
    """Run `function` on each item in worker processes.

    Closing the iterator, for example by Ctrl-C, ends the workers.

    Args:
        function: A function that can be imported by name.
        items: Its arguments.
        title: Title of the progress bar.
        unit: Unit of the progress bar.
        timeout_s: Seconds after which an item fails with a TimeoutError.

    Yields:
        An outcome for each item, in the order of `items`.
    """
    from pebble import ProcessExpired, ProcessPool

    workers = num_cores()
    pool = ProcessPool(
        max_workers=max(1, min(workers, len(items))),
        context=multiprocessing.get_context("forkserver"),
        initializer=_ignore_interrupt,
    )
    finished = False
    try:
        with progress_bar(title, total=len(items), unit=unit) as advance:
            for item, future in _in_flight(pool, function, items, timeout_s, window=16 * workers):
                value: Value | None = None
                error: Exception | None = None
                try:
                    value = future.result()
                except FutureTimeoutError:
                    error = TimeoutError(f"took more than {timeout_s:g} s")
                except ProcessExpired as expired:
                    error = RuntimeError(f"crashed the decoder ({_cause(expired.exitcode)})")
                except Exception as raised:
                    error = raised
                yield Outcome(item=item, value=value, error=error)
                advance()
        finished = True
    finally:
        pool.close() if finished else pool.stop()
        pool.join()


def _in_flight(
    pool: Any,
    function: Callable[[Item], Value],
    items: Iterable[Item],
    timeout_s: float,
    *,
    window: int,
) -> Iterator[tuple[Item, Any]]:
    """Yield items with their futures; at most `window` items are scheduled ahead."""
    pending: deque[tuple[Item, Any]] = deque()
    for item in items:
        pending.append((item, pool.schedule(function, args=[item], timeout=timeout_s)))
        if len(pending) >= window:
            yield pending.popleft()
    yield from pending


def _cause(exit_code: int) -> str:
    return signal.Signals(-exit_code).name if exit_code < 0 else f"exit code {exit_code}"


def _ignore_interrupt() -> None:
    """Ignore Ctrl-C in workers, which would only print tracebacks; the parent handles it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
