"""Windows that slide over a video, read so that each frame is decoded once.

Overlapping windows share frames: the file is walked through from front to back, and a frame is kept
until the last window that wants it has gone. So memory is bounded by the windows that overlap, not
by the length of the video. Times are those at which the frames are shown, also at a variable rate.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import NamedTuple

import numpy as np

from dali_pipelines.augment import ClipView
from dali_pipelines.decode import frame_folder
from dali_pipelines.decode.clip_facts import is_too_many
from dali_pipelines.decode.pixels import Frame, resize_short, to_pixels
from dali_pipelines.decode.video_file import Timeline, timeline
from dali_pipelines.decode.wanted_frames import decode_wanted
from dali_pipelines.errors import SpecError, VideoError
from dali_pipelines.frame_plan import FramePlan, IntArray
from dali_pipelines.sampling import plan_frames
from dali_pipelines.spec import ClipSpec

MAX_WINDOWS = 1_000_000
"""Of one file: eleven days, one a second."""


@dataclass(frozen=True, kw_only=True)
class Window:
    path: Path
    start_s: float
    end_s: float
    first: int
    """Number of its first frame."""
    frames: int
    fps: float
    number: int = 0
    """Its place among the file's windows."""
    is_last: bool = True
    flaw: str = ""
    """What is wrong with the file, as far as it shows without decoding."""
    num_streams: int = 1
    """Videos in the file, of which the first is read."""


class ReadWindow(NamedTuple):
    window: Window
    view: ClipView
    frames: list[Frame]
    """T frames, their short side resized."""
    num_damaged: int


def plan_windows(
    path: Path, *, window_s: float | None, stride_s: float | None = None, folder_fps: float = 25.0
) -> list[Window]:
    """Windows of `window_s`, one each `stride_s`; the last one ends with the video.

    Without `window_s`, or for a video that is no longer, one window holds the whole. `folder_fps`
    is the rate of extracted frames, which don't tell it.
    """
    if window_s is not None and not 0 < window_s < float("inf"):
        raise SpecError(f"the window must be above 0 seconds, not {window_s}")
    if stride_s is None:
        stride_s = window_s
    if stride_s is not None and not 0 < stride_s < float("inf"):
        raise SpecError(f"the stride must be above 0 seconds, not {stride_s}")
    times, end_s, expected, num_streams = _timeline(path, folder_fps)
    flaw = ""
    if is_too_many(expected - len(times), expected):
        flaw = f"cut short: {len(times):,} of {expected:,} frames are there"
    gap = float(np.median(np.diff(times))) if len(times) > 1 else end_s
    starts = np.zeros(1)
    length_s = end_s
    if window_s is not None and stride_s is not None and window_s < end_s - gap / 2:
        length_s = window_s
        if end_s / stride_s > MAX_WINDOWS:
            raise VideoError(path, f"it claims to last {end_s:,.0f} s, more than can be true")
        starts = np.arange(0, end_s - window_s + min(gap, window_s) / 2, stride_s)
        if starts[-1] + window_s < end_s - gap / 2:
            starts = np.append(starts, end_s - window_s)
    windows = []
    for number, start_s in enumerate(starts):
        first, stop = np.searchsorted(times, [start_s - gap / 2, start_s + length_s - gap / 2])
        if first and (first == len(times) or times[first] > start_s + gap / 2):
            first -= 1  # the frame before is still shown when the window begins
        windows.append(
            Window(
                path=path,
                start_s=round(float(start_s), 3),
                end_s=round(min(float(start_s) + length_s, end_s), 3),
                first=int(first),
                frames=max(1, int(stop - first)),
                fps=round(1 / gap, 3),
                number=number,
                is_last=number == len(starts) - 1,
                flaw=flaw,
                num_streams=num_streams,
            )
        )
    return windows


def read_windows(
    windows: list[Window], spec: ClipSpec, *, stop: Event | None = None
) -> Iterator[ReadWindow]:
    """Yield the windows of one file, in order of time, each as soon as its frames are there.

    A file that is seen as a whole is refused where `check` would call it bad; of one in several
    windows, those are given that are there.
    """
    if not windows:
        return
    is_whole = windows[0].is_last and not windows[0].number
    if is_whole and windows[0].flaw:
        raise VideoError(windows[0].path, windows[0].flaw)
    views = [ClipView(plan=_shift(plan_frames(w.frames, w.fps, spec), w.first)) for w in windows]
    sources = [view.plan.source_indices for view in views]
    last_use: dict[int, int] = {}
    for place, numbers in enumerate(sources):
        last_use.update(dict.fromkeys(numbers.tolist(), place))
    wanted = np.array(sorted(last_use), np.int64)
    held: dict[int, tuple[Frame, bool]] = {}
    place = 0
    for number, frame, is_damaged in _decode(windows[0].path, wanted, spec.resize, stop):
        held[number] = frame, is_damaged
        while place < len(windows) and sources[place][-1] <= number:
            found = [held[each] for each in sources[place].tolist()]
            if len({frame.shape for frame, _ in found}) > 1:
                raise VideoError(windows[place].path, "its picture changes size midway")
            pixels = views[place].plan.compose(np.stack([frame for frame, _ in found]))
            num_damaged = sum(damaged for _, damaged in found)
            if is_whole and is_too_many(num_damaged, len(found)):
                raise VideoError(
                    windows[place].path,
                    f"damaged: {num_damaged} of the {len(found)} frames that are wanted don't "
                    "decode cleanly",
                )
            yield ReadWindow(windows[place], views[place], list(pixels), num_damaged)
            held = {each: kept for each, kept in held.items() if last_use[each] > place}
            place += 1


def _decode(
    path: Path, wanted: IntArray, short: int, stop: Event | None
) -> Iterator[tuple[int, Frame, bool]]:
    if path.is_dir():
        for number, frame in zip(wanted, frame_folder.each_frame(path, wanted), strict=True):
            yield int(number), resize_short(frame, short), False
        return
    for item in decode_wanted(path, wanted, stop=stop):
        yield item.number, resize_short(to_pixels(item.frame), short), item.is_damaged


def _timeline(path: Path, folder_fps: float) -> Timeline:
    if not path.is_dir():
        return timeline(path, default_fps=folder_fps)
    count = frame_folder.probe(path).frames
    return Timeline(np.arange(count) / folder_fps, count / folder_fps, count)


def _shift(plan: FramePlan, first: int) -> FramePlan:
    return FramePlan(left=plan.left + first, right=plan.right + first, gain=plan.gain)
