"""From answers to windows that slide and overlap, to who does what from when to when."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Windows = Sequence[tuple[float, float, NDArray[np.float32]]]
"""Start, end and probabilities, in the order of their starts."""


@dataclass(frozen=True, kw_only=True)
class Segment:
    start_s: float
    end_s: float
    label: int
    confidence: float
    """The mean probability of the label in it."""


def segments(windows: Windows, *, smooth_s: float = 0.0) -> list[Segment]:
    """Each moment gets the mean of all windows that cover it, then the mean of what lies `smooth_s`
    around it; neighboring moments with one label are joined."""
    starts, ends, found = _cells(windows)
    if smooth_s > 0:
        found = _smoothed(starts, ends, found, smooth_s)
    labels = found.argmax(axis=1)
    lengths = ends - starts
    joined: list[Segment] = []
    first = 0
    for place in range(1, len(labels) + 1):
        goes_on = (
            place < len(labels)
            and labels[place] == labels[first]
            and starts[place] == ends[place - 1]
        )
        if goes_on:
            continue
        part, label = slice(first, place), int(labels[first])
        confidence = np.average(found[part, label], weights=lengths[part])
        joined.append(
            Segment(
                start_s=float(starts[first]),
                end_s=float(ends[place - 1]),
                label=label,
                confidence=float(confidence),
            )
        )
        first = place
    return joined


Cells = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]


def _cells(windows: Windows) -> Cells:
    """The stretches of time in which the same windows overlap, and the mean of these."""
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
            kept.append((start, end, np.mean([each for _, _, each in open_], axis=0, dtype=float)))
    return (
        np.array([start for start, _, _ in kept]),
        np.array([end for _, end, _ in kept]),
        np.array([each for _, _, each in kept]),
    )


def _smoothed(
    starts: NDArray[np.float64],
    ends: NDArray[np.float64],
    found: NDArray[np.float64],
    smooth_s: float,
) -> NDArray[np.float64]:
    """A moving mean over time, of which only what windows cover counts."""
    lengths = ends - starts
    times = np.stack([starts, ends], axis=1).ravel()
    covered = np.stack([np.zeros(len(starts)), lengths], axis=1).ravel().cumsum()
    sums = np.zeros((2 * len(starts), found.shape[1]))
    sums[1::2] = found * lengths[:, None]
    sums = sums.cumsum(axis=0)
    middles = (starts + ends) / 2
    low, high = middles - smooth_s / 2, middles + smooth_s / 2
    weight = np.interp(high, times, covered) - np.interp(low, times, covered)
    columns = [np.interp(high, times, each) - np.interp(low, times, each) for each in sums.T]
    return np.stack(columns, axis=1) / np.maximum(weight, 1e-9)[:, None]
