"""Work that runs ahead, left at any moment."""

import random
import signal
import threading
import time
from collections.abc import Generator
from types import FrameType

import pytest

from dali_pipelines.errors import Stopped
from dali_pipelines.loaders.prefetch import prefetch


def numbers(stop: threading.Event) -> Generator[int, None, None]:
    number = 0
    while not stop.wait(1e-4):
        yield number
        number += 1


def test_a_signal_at_any_moment_ends_the_wait_and_the_thread() -> None:
    asked = False

    def ask(signum: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True

    def is_asked() -> bool:
        return asked

    before = signal.signal(signal.SIGALRM, ask)
    try:
        for seed in range(200):
            asked = False
            signal.setitimer(signal.ITIMER_REAL, random.Random(seed).uniform(1e-5, 3e-3))
            with pytest.raises(Stopped):
                for got, wanted in enumerate(prefetch(numbers, ahead=2, is_stopped=is_asked)):
                    assert got == wanted
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert not [each for each in threading.enumerate() if each.name == "ahead"]


def test_what_never_comes_is_no_longer_waited_for() -> None:
    def nothing(stop: threading.Event) -> Generator[int, None, None]:
        yield 1
        stop.wait(60)

    begun = time.monotonic()
    items = prefetch(nothing, ahead=2, is_stopped=lambda: time.monotonic() > begun + 0.3)
    assert next(items) == 1
    with pytest.raises(Stopped):
        next(items)
    assert not [each for each in threading.enumerate() if each.name == "ahead"]
