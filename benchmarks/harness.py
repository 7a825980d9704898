"""Timing: pipelines run in turn (A B A B), results are medians with their spread."""

import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

WIDE = 0.15
"""Spread, (max - min) / median, above which a result is marked as wide."""


def interleaved(
    pipelines: dict[str, Callable[[], int]],
    *,
    repeats: int,
    on_done: Callable[[], None] = lambda: None,
) -> dict[str, list[float]]:
    """Time pipelines in turn.

    Args:
        pipelines: Functions that process items and return their number.
        repeats: How often each pipeline runs.
        on_done: Called after each run.

    Returns:
        Items per second of each pipeline, for each repeat.
    """
    timed = {name: partial(_rate, pipeline) for name, pipeline in pipelines.items()}
    return interleaved_figures(timed, repeats=repeats, on_done=on_done)


def interleaved_figures(
    pipelines: Mapping[str, Callable[[], float]],
    *,
    repeats: int,
    on_done: Callable[[], None] = lambda: None,
) -> dict[str, list[float]]:
    """Like `interleaved`, for pipelines that return their own rate."""
    rates: dict[str, list[float]] = {name: [] for name in pipelines}
    for _ in range(repeats):
        for name, pipeline in pipelines.items():
            rates[name].append(pipeline())
            on_done()
    return rates


def repeated(function: Callable[[], int], min_s: float) -> Callable[[], int]:
    """A function that calls `function` for at least `min_s`, and returns the sum of its results."""

    def call() -> int:
        ends_at = time.perf_counter() + min_s
        count = function()
        while time.perf_counter() < ends_at:
            count += function()
        return count

    return call


def _rate(pipeline: Callable[[], int]) -> float:
    started = time.perf_counter()
    count = pipeline()
    return count / (time.perf_counter() - started)


def summary(name: str, rates: list[float]) -> dict[str, Any]:
    """Make a row of results: median, all repeats, spread, and whether the spread is wide."""
    median = statistics.median(rates)
    spread = (max(rates) - min(rates)) / median
    return {
        "name": name,
        "clips_per_s": rounded(median),
        "repeats": [rounded(rate) for rate in rates],
        "spread": round(spread, 3),
        "wide": spread > WIDE,
    }


def rounded(rate: float) -> float:
    """With one decimal, or with three digits below ten."""
    return round(rate, 1) if rate >= 10 else float(f"{rate:.3g}")
