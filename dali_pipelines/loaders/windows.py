"""Sliding windows over a video; each frame is decoded once.

Overlapping windows share frames: the file is decoded from start to end, and a frame is kept until
the last window that uses it. So memory depends on the overlap, not on the length of the video.
Times are the display times of the frames, which also holds for variable frame rates.
"""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dali_pipelines.augment import ClipView
from dali_pipelines.decode import frame_folder
from dali_pipelines.decode.clip_facts import is_too_many
from dali_pipelines.decode.fast_decode import FastDecode
from dali_pipelines.decode.indexed_video import IndexedVideo, open_indexed
from dali_pipelines.decode.pixels import Frame, resize_short, to_resized_pixels
from dali_pipelines.decode.video_file import Timeline, timeline
from dali_pipelines.decode.wanted_frames import decode_wanted
from dali_pipelines.errors import SpecError, VideoError
from dali_pipelines.frame_plan import FramePlan, IntArray
from dali_pipelines.sampling import plan_frames
from dali_pipelines.spec import ClipSpec

MAX_WINDOWS = 1_000_000
"""Largest number of windows of one file: eleven days with one window per second."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """A time range of a video."""

    path: Path
    start_s: float
    end_s: float
    first: int
    """Number of its first frame."""
    frames: int
    fps: float
    number: int = 0
    """Index of the window in its file."""
    is_last: bool = True
    flaw: str = ""
    """Problem of the file that was found without decoding; empty if none."""
    num_streams: int = 1
    """Number of video streams in the file; the first one is read."""


class WindowRange(NamedTuple):
    """Some of a file's windows, [first, stop) by their numbers; `stop` may lie beyond the end."""

    path: Path
    first: int = 0
    stop: int | None = None


class WindowPart(NamedTuple):
    """A part of a file, cut out by remux."""

    encoded: NDArray[np.uint8]
    numbers: dict[int, int]
    """Frame number in the file → frame number in the part, as its decoder counts."""
    num_bytes: int
    """Size of its wanted frames when they are decoded."""


class ReadWindow(NamedTuple):
    """A window with its decoded frames, or with the parts of the file that hold them."""

    window: Window
    view: ClipView
    frames: list[Frame]
    """T frames with the short side resized; none if there are parts."""
    num_damaged: int
    parts: tuple[WindowPart, ...] = ()
    """Parts with frames that no earlier window has needed."""
    keep_from: int = 0
    """The first frame that later windows need."""


def plan_windows(
    path: Path,
    *,
    window_s: float | None,
    stride_s: float | None = None,
    folder_fps: float = 25.0,
    video: IndexedVideo | None = None,
) -> list[Window]:
    """Split a video into windows; the last one ends with the video.

    Args:
        path: Video file or frame folder.
        window_s: Length of a window in seconds. None, or a video that isn't longer, gives one
            window with the whole video.
        stride_s: Seconds from one window to the next; None means `window_s`.
        folder_fps: Frame rate of extracted frames.
        video: The file, if it is open already.

    Raises:
        SpecError: `window_s` or `stride_s` is invalid.
        VideoError: The video can't be read.
    """
    require_seconds(window_s, stride_s)
    if stride_s is None:
        stride_s = window_s
    times, end_s, expected, num_streams = _timeline(path, folder_fps, video)
    flaw = ""
    if is_too_many(expected - len(times), expected):
        flaw = f"cut short: {len(times):,} of {expected:,} frames are there"
    gap = float(np.median(np.diff(times))) if len(times) > 1 else end_s
    starts = np.zeros(1)
    length_s = end_s
    if window_s is not None and stride_s is not None and window_s < end_s - gap / 2:
        length_s = window_s
        if end_s / stride_s > MAX_WINDOWS:
            raise VideoError(path, f"it claims to last {end_s:,.0f} s, which is too long")
        starts = np.arange(0, end_s - window_s + min(gap, window_s) / 2, stride_s)
        if starts[-1] + window_s < end_s - gap / 2:
            starts = np.append(starts, end_s - window_s)
    windows = []
    for number, start_s in enumerate(starts):
        first, count = frames_between(times, float(start_s), float(start_s) + length_s, gap)
        windows.append(
            Window(
                path=path,
                start_s=round(float(start_s), 3),
                end_s=round(min(float(start_s) + length_s, end_s), 3),
                first=first,
                frames=count,
                fps=round(1 / gap, 3),
                number=number,
                is_last=number == len(starts) - 1,
                flaw=flaw,
                num_streams=num_streams,
            )
        )
    return windows


def frames_between(
    times_s: NDArray[np.float64], start_s: float, end_s: float, gap_s: float
) -> tuple[int, int]:
    """The first frame that is displayed between two times, and how many there are (at least 1).

    Args:
        times_s: Display times of the frames, ascending.
        start_s: Start of the window.
        end_s: End of the window.
        gap_s: Typical time between two frames.
    """
    first, stop = np.searchsorted(times_s, [start_s - gap_s / 2, end_s - gap_s / 2])
    if first and (first == len(times_s) or times_s[first] > start_s + gap_s / 2):
        first -= 1  # the previous frame is still displayed when the window starts
    return int(first), max(1, int(stop - first))


def read_windows(
    windows: list[Window],
    spec: ClipSpec,
    *,
    stop: Event | None = None,
    video: IndexedVideo | None = None,
) -> Iterator[ReadWindow]:
    """Read the windows of one file, in order of time; each is yielded once its frames are decoded.

    If one window covers the whole file, a damaged file is rejected, as in `clip_file.check`. If the
    file has several windows, all windows that can be decoded are yielded.

    Args:
        windows: Windows from `plan_windows`.
        spec: Preprocessing settings.
        stop: Set it to cancel decoding.
        video: The file, if it is open already.

    Raises:
        VideoError: The file can't be read to its end.
        Stopped: `stop` was set.
    """
    if not windows:
        return
    is_whole = require_whole(windows)
    views = views_of(windows, spec)
    sources = [view.plan.source_indices for view in views]
    last_use: dict[int, int] = {}
    for index, numbers in enumerate(sources):
        last_use.update(dict.fromkeys(numbers.tolist(), index))
    wanted = np.array(sorted(last_use), np.int64)
    decoded: dict[int, tuple[Frame, bool]] = {}
    index = 0
    for number, frame, is_damaged in _decode(windows[0].path, wanted, spec, stop, video):
        decoded[number] = frame, is_damaged
        while index < len(windows) and sources[index][-1] <= number:
            frames = [decoded[source] for source in sources[index].tolist()]
            if len({frame.shape for frame, _ in frames}) > 1:
                raise VideoError(windows[index].path, "its frames differ in size")
            pixels = views[index].plan.compose(np.stack([frame for frame, _ in frames]))
            num_damaged = sum(damaged for _, damaged in frames)
            if is_whole and is_too_many(num_damaged, len(frames)):
                raise VideoError(
                    windows[index].path,
                    f"damaged: {num_damaged} of the {len(frames)} frames that are wanted don't "
                    "decode cleanly",
                )
            yield ReadWindow(windows[index], views[index], list(pixels), num_damaged)
            decoded = {source: item for source, item in decoded.items() if last_use[source] > index}
            index += 1


def require_seconds(window_s: float | None, stride_s: float | None) -> None:
    """Raise SpecError if the length or the stride of windows is no positive number."""
    for name, seconds in (("window", window_s), ("stride", stride_s)):
        if seconds is not None and not 0 < seconds < float("inf"):
            raise SpecError(f"the {name} must be above 0 seconds, not {seconds}")


def windows_of(
    path: Path,
    spec: ClipSpec,
    window_s: float | None,
    stride_s: float | None,
    first: int = 0,
    end: int | None = None,
    max_duration_s: float | None = None,
    *,
    stop: Event | None = None,
) -> Iterator[ReadWindow]:
    """Plan the windows of a file and read those from `first` up to `end`; opens the file once.

    A video that is longer than `max_duration_s` is rejected before it is decoded.
    """
    with nullcontext() if path.is_dir() else open_indexed(path) as video:
        windows = plan_windows(path, window_s=window_s, stride_s=stride_s, video=video)
        duration_s = windows[-1].end_s
        if max_duration_s is not None and duration_s > max_duration_s:
            raise VideoError(
                path, f"it lasts {duration_s:,.0f} s, and {max_duration_s:,.0f} s is allowed"
            )
        yield from read_windows(windows[first:end], spec, stop=stop, video=video)


def require_whole(windows: list[Window]) -> bool:
    """Whether one window covers the whole file.

    Raises:
        VideoError: It does, and the file is incomplete.
    """
    is_whole = windows[0].is_last and not windows[0].number
    if is_whole and windows[0].flaw:
        raise VideoError(windows[0].path, windows[0].flaw)
    return is_whole


def views_of(windows: list[Window], spec: ClipSpec) -> list[ClipView]:
    """The frames to take from each window, by their numbers in the file."""
    return [view_of(w.first, w.frames, w.fps, spec) for w in windows]


def view_of(first: int, frames: int, fps: float, spec: ClipSpec) -> ClipView:
    """The frames to take from a window of `frames` frames that starts with the frame `first`."""
    return ClipView(plan=_shifted(plan_frames(frames, fps, spec), first))


def _decode(
    path: Path, wanted: IntArray, spec: ClipSpec, stop: Event | None, video: IndexedVideo | None
) -> Iterator[tuple[int, Frame, bool]]:
    if path.is_dir():
        for number, frame in zip(wanted, frame_folder.each_frame(path, wanted), strict=True):
            yield int(number), resize_short(frame, spec.resize), False
        return
    fast = FastDecode.of(spec)
    for item in decode_wanted(path, wanted, stop=stop, video=video, fast=fast):
        yield item.number, to_resized_pixels(item, spec.resize), item.is_damaged


def _timeline(path: Path, folder_fps: float, video: IndexedVideo | None) -> Timeline:
    if not path.is_dir():
        return timeline(path, default_fps=folder_fps, video=video)
    count = frame_folder.probe(path).frames
    return Timeline(np.arange(count) / folder_fps, count / folder_fps, count)


def _shifted(plan: FramePlan, first: int) -> FramePlan:
    return FramePlan(left=plan.left + first, right=plan.right + first, gain=plan.gain)
