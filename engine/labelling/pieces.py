"""Divides files between the workers of a cluster: several short ones, or a piece of a long one.

A piece is a range of a file's windows. How many windows a long file has is estimated from its
header: the last piece reaches to the end, and a piece beyond the end is empty.
"""

import bisect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from dali_pipelines.errors import VideoError
from engine.labelling.discovery import Item

PARTS_EACH = 8
MIN, MAX = 16, 256
"""Limits for the number of files per part. A worker that dies loses one part; small parts are slow,
because prefetching starts again with each part."""
MAX_WINDOWS = 4096
"""Limit for the number of windows per part."""


@dataclass(frozen=True, kw_only=True)
class Pending:
    """A file that isn't labelled completely."""

    item: Item
    known: list[int]
    """Numbers of the windows that are labelled, ascending."""
    num_windows: int = 1
    """Estimated; 1 for a short file."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Windows [first, stop) of a file."""

    item: Item
    first: int = 0
    stop: int | None = None
    """None is the end of the file."""
    is_range: bool = False
    """Whether the file has other pieces."""
    num_windows: int = 1
    """Estimated."""


def estimated_windows(path: Path, window_s: float | None, stride_s: float | None) -> int:
    """The number of windows of a file, from its header; 1 if it is small, or can't be opened.

    Small are files whose packets are kept in memory: others are not read again to start in the
    middle, since their index is remembered.
    """
    from dali_pipelines.decode.indexed_video import KEEP_BELOW
    from dali_pipelines.decode.video_stream import open_video

    if window_s is None:
        return 1
    try:
        if not path.is_file() or path.stat().st_size <= KEEP_BELOW:
            return 1
        with open_video(path) as (container, _):
            duration_s = (container.duration or 0) / 1e6
    except (VideoError, OSError):
        return 1  # the worker says why
    return max(1, round((duration_s - window_s) / (stride_s or window_s)) + 1)


def parts_of(files: list[Pending], *, num_workers: int, num_threads: int) -> list[list[Piece]]:
    """Divide files into parts, each for one call of a worker, in the order of the files.

    A file is cut only if its windows are more than a part's share. Its pieces are as many as the
    threads of a worker can read at a time, since a thread reads a piece from start to end.

    Args:
        files: The files.
        num_workers: Number of workers.
        num_threads: Threads of each worker that read files.
    """
    total = sum(file.num_windows for file in files)
    size = min(MAX_WINDOWS, max(MIN, total // (PARTS_EACH * num_workers)))
    length = max(MIN, size // num_threads)
    parts: list[list[Piece]] = [[]]
    num_windows = 0
    for file in files:
        for piece in _cut(file, length) if file.num_windows > size else _whole(file):
            if num_windows >= size or len(parts[-1]) == MAX:
                parts.append([])
                num_windows = 0
            parts[-1].append(piece)
            num_windows += piece.num_windows
    return parts if parts[0] else []


def _whole(file: Pending) -> list[Piece]:
    first = next((n for n, number in enumerate(file.known) if n != number), len(file.known))
    return [Piece(item=file.item, first=first, num_windows=file.num_windows)]


def _cut(file: Pending, length: int) -> Iterator[Piece]:
    """The pieces that aren't labelled completely; the last one is never known to be."""
    starts = range(0, file.num_windows - length + 1, length)
    for first in starts:
        stop = first + length if first != starts[-1] else None
        if stop is not None and _count_in(file.known, first, stop) == length:
            continue
        num_windows = (stop or file.num_windows) - first
        yield Piece(item=file.item, first=first, stop=stop, is_range=True, num_windows=num_windows)


def _count_in(numbers: list[int], first: int, stop: int) -> int:
    return bisect.bisect_left(numbers, stop) - bisect.bisect_left(numbers, first)


def ranges_of(pieces: Iterable[Piece]) -> dict[str, list[tuple[int, int | None]]]:
    """The windows to label of each file, by its name."""
    ranges: dict[str, list[tuple[int, int | None]]] = {}
    for piece in pieces:
        ranges.setdefault(piece.item.name, []).append((piece.first, piece.stop))
    return ranges
