"""Turns predictions of overlapping windows into labelled segments of time."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Windows = Sequence[tuple[float, float, NDArray[np.float32]]]
"""(start, end, probabilities) of each window, sorted by start."""


@dataclass(frozen=True, kw_only=True)
class Segment:
    start_s: float
    end_s: float
    label: int
    confidence: float
    """Mean probability of the label in the segment."""


def segments(windows: Windows, *, smooth_s: float = 0.0) -> list[Segment]:
    """Merge windows into segments with one label each.

    At each point in time, the probabilities of all windows that cover it are averaged, then
    smoothed over time. Neighboring intervals with the same label are joined.

    Args:
        windows: Windows sorted by start; they may overlap.
        smooth_s: Width in seconds of the moving average; 0 for none.

    Returns:
        Segments in order of time.
    """
    starts, ends, probabilities_NC = _cells(windows)
    if smooth_s > 0:
        probabilities_NC = _smoothed(starts, ends, probabilities_NC, smooth_s)
    labels = probabilities_NC.argmax(axis=1)
    lengths = ends - starts
    joined: list[Segment] = []
    first = 0
    for index in range(1, len(labels) + 1):
        continues = (
            index < len(labels)
            and labels[index] == labels[first]
            and starts[index] == ends[index - 1]
        )
        if continues:
            continue
        part, label = slice(first, index), int(labels[first])
        confidence = np.average(probabilities_NC[part, label], weights=lengths[part])
        joined.append(
            Segment(
                start_s=float(starts[first]),
                end_s=float(ends[index - 1]),
                label=label,
                confidence=float(confidence),
            )
        )
        first = index
    return joined


Cells = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]


def _cells(windows: Windows) -> Cells:
    """Split time at all window edges; returns starts, ends and mean probabilities (N, C)."""
    edges = sorted({edge for start, end, _ in windows for edge in (start, end)})
    waiting = deque(windows)
    open_: deque[tuple[float, float, NDArray[np.float32]]] = deque()
    kept: list[tuple[float, float, NDArray[np.float64]]] = []
    for start, end in pairwise(edges):
        while waiting and waiting[0][0] <= start:
            open_.append(waiting.popleft())
        while open_ and open_[0][1] <= start:
            open_.popleft()
        if open_:
            kept.append((start, end, np.mean([p for _, _, p in open_], axis=0, dtype=float)))
    return (
        np.array([start for start, _, _ in kept]),
        np.array([end for _, end, _ in kept]),
        np.array([mean_C for _, _, mean_C in kept]),
    )


def _smoothed(
    starts: NDArray[np.float64],
    ends: NDArray[np.float64],
    probabilities_NC: NDArray[np.float64],
    smooth_s: float,
) -> NDArray[np.float64]:
    """Moving average over time that ignores gaps between windows."""
    lengths = ends - starts
    times = np.stack([starts, ends], axis=1).ravel()
    covered = np.stack([np.zeros(len(starts)), lengths], axis=1).ravel().cumsum()
    sums = np.zeros((2 * len(starts), probabilities_NC.shape[1]))
    sums[1::2] = probabilities_NC * lengths[:, None]
    sums = sums.cumsum(axis=0)
    middles = (starts + ends) / 2
    low, high = middles - smooth_s / 2, middles + smooth_s / 2
    weight = np.interp(high, times, covered) - np.interp(low, times, covered)
    columns = [np.interp(high, times, sum_) - np.interp(low, times, sum_) for sum_ in sums.T]
    return np.stack(columns, axis=1) / np.maximum(weight, 1e-9)[:, None]
