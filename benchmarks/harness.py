"""How a figure comes about: warm-up, ways run in turn (A B A B), medians with their spread."""

import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

WIDE = 0.15
"""Spread, (max - min) / median, from which a figure says that it is wide."""


def interleaved(
    variants: dict[str, Callable[[], int]],
    *,
    repeats: int,
    on_done: Callable[[], None] = lambda: None,
) -> dict[str, list[float]]:
    """Items per second of each way, in each repeat; a way returns how many items it handled."""
    timed = {name: partial(_rate, way) for name, way in variants.items()}
    return interleaved_figures(timed, repeats=repeats, on_done=on_done)


def interleaved_figures(
    variants: Mapping[str, Callable[[], float]],
    *,
    repeats: int,
    on_done: Callable[[], None] = lambda: None,
) -> dict[str, list[float]]:
    """What each way returns, in each repeat: for ways that time themselves."""
    figures: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(repeats):
        for name, way in variants.items():
            figures[name].append(way())
            on_done()
    return figures


def _rate(way: Callable[[], int]) -> float:
    started = time.perf_counter()
    count = way()
    return count / (time.perf_counter() - started)


def summary(name: str, rates: list[float]) -> dict[str, Any]:
    """A row of results: the median, every repeat, and whether they lie far apart."""
    median = statistics.median(rates)
    spread = (max(rates) - min(rates)) / median
    return {
        "name": name,
        "clips_per_s": round(median, 1),
        "repeats": [round(rate, 1) for rate in rates],
        "spread": round(spread, 3),
        "wide": spread > WIDE,
    }
