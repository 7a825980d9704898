"""Rolling windows over a live stream: the same frames that windows.py takes from a file.

A window is ready when the first frame after it has come. Frames are resized as they come, or as
soon as a window needs them if they take less memory unresized; only those that a window can still
need are kept.
"""

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from dali_pipelines.augment import ClipView
from dali_pipelines.decode.live_stream import LiveFrame
from dali_pipelines.decode.pixels import Frame, quarter_turns, resized_size, to_resized_pixels
from dali_pipelines.decode.video_file import SHORTEST_FRAME_S
from dali_pipelines.loaders.windows import frames_between, view_of
from dali_pipelines.spec import ClipSpec

NUM_GAPS = 500
"""Recent frames from which the frame rate is measured."""

MAX_DISORDER_S = 0.5
"""A frame may have a time stamp so much before the last one's; further back, the clock was set."""


class StreamWindow(NamedTuple):
    """A window of a stream with its frames."""

    start_s: float
    end_s: float
    view: ClipView
    frames: list[Frame]
    """T frames with the short side resized."""
    num_damaged: int
    arrived: float
    """When its last frame arrived, as of time.monotonic."""
    part: int = 0
    """Index of the uninterrupted part of the stream that it lies in."""


class RollingWindows:
    """Windows of one uninterrupted part of a stream, whose frames have one size.

    Args:
        spec: Preprocessing settings.
        window_s: Length of a window in seconds.
        stride_s: Seconds from one window to the next.
        begins_s: Time of the first frame since the start of the stream.
        part: Index of this part.
    """

    def __init__(
        self,
        spec: ClipSpec,
        *,
        window_s: float,
        stride_s: float,
        begins_s: float = 0.0,
        part: int = 0,
    ) -> None:
        self._spec, self._part = spec, part
        self._window_s, self._stride_s, self._begins_s = window_s, stride_s, begins_s
        self._kept: deque[_Kept] = deque()
        self._gaps: deque[float] = deque(maxlen=NUM_GAPS)
        self._first_s = 0.0
        self._num_windows = 0

    def continues(self, frame: LiveFrame, max_gap_s: float) -> bool:
        """Whether a frame belongs to this part: same size, and soon after the last frame."""
        if not self._kept:
            return True
        last = self._kept[-1]
        gap_s = frame.time_s - self._first_s - last.time_s
        return -MAX_DISORDER_S < gap_s <= max_gap_s and _layout(frame) == last.layout

    @property
    def last_s(self) -> float:
        """Time of the last frame since the start of the stream."""
        return self._begins_s + (self._kept[-1].time_s if self._kept else 0.0)

    @property
    def last_stamp_s(self) -> float:
        """Time of the last frame as the stream counts."""
        return self._first_s + (self._kept[-1].time_s if self._kept else 0.0)

    @property
    def gap_s(self) -> float:
        """Typical time between two frames."""
        if self._gaps:
            return float(np.median(self._gaps))
        return (self._kept[-1].duration_s if self._kept else 0.0) or SHORTEST_FRAME_S

    def add(self, frame: LiveFrame) -> Iterator[StreamWindow]:
        """Add a frame; yields the windows that end before it."""
        if not self._kept:
            self._first_s = frame.time_s
        time_s = frame.time_s - self._first_s
        if self._kept:
            time_s = max(time_s, self._kept[-1].time_s)
            self._gaps.append(time_s - self._kept[-1].time_s)
        kept = _Kept(frame, time_s, self._spec.resize)
        self._kept.append(kept)
        if len(self._kept) == 1:
            return
        gap_s = self.gap_s
        while kept.time_s >= self._next_s + self._window_s - gap_s / 2:
            yield self._window(self._next_s, self._next_s + self._window_s, gap_s, kept.arrived)
            self._num_windows += 1
        # The last window ends with the stream, wherever that is.
        needed_s = min(self._next_s, kept.time_s - self._window_s) - gap_s
        while len(self._kept) > 2 and self._kept[1].time_s < needed_s:
            self._kept.popleft()

    def end(self, *, accepts_short: bool) -> Iterator[StreamWindow]:
        """Yield the last windows; one that is too short only if the stream has no other."""
        if not self._kept:
            return
        last = self._kept[-1]
        gap_s = self.gap_s
        end_s = max(last.time_s + (last.duration_s or gap_s), last.time_s + SHORTEST_FRAME_S)
        if not self._num_windows and self._window_s >= end_s - gap_s / 2:
            if accepts_short or end_s > self._window_s - gap_s / 2:
                yield self._window(0.0, end_s, gap_s, last.arrived)
            return
        while self._next_s < end_s - self._window_s + min(gap_s, self._window_s) / 2:
            stop_s = min(self._next_s + self._window_s, end_s)
            yield self._window(self._next_s, stop_s, gap_s, last.arrived)
            self._num_windows += 1
        if self._next_s - self._stride_s + self._window_s < end_s - gap_s / 2:
            yield self._window(end_s - self._window_s, end_s, gap_s, last.arrived)

    @property
    def _next_s(self) -> float:
        return self._num_windows * self._stride_s

    def _window(self, start_s: float, end_s: float, gap_s: float, arrived: float) -> StreamWindow:
        times_s = np.array([kept.time_s for kept in self._kept])
        first, count = frames_between(times_s, start_s, end_s, gap_s)
        view = view_of(first, count, round(1 / gap_s, 3), self._spec)
        sources = [self._kept[number] for number in view.plan.source_indices.tolist()]
        pixels = view.plan.compose(np.stack([kept.pixels() for kept in sources]))
        return StreamWindow(
            start_s=round(self._begins_s + start_s, 3),
            end_s=round(self._begins_s + end_s, 3),
            view=view,
            frames=list(pixels),
            num_damaged=sum(kept.is_damaged for kept in sources),
            arrived=arrived,
            part=self._part,
        )


class _Kept:
    """A frame, resized when it is needed or at once, whichever takes less memory."""

    def __init__(self, frame: LiveFrame, time_s: float, short: int) -> None:
        self.time_s, self.duration_s, self.arrived = time_s, frame.duration_s, frame.arrived
        self.is_damaged = frame.item.is_damaged
        self.layout = _layout(frame)
        self._short = short
        self._item = frame.item
        self._pixels: Frame | None = None
        decoded = frame.item.frame
        width, height = resized_size(decoded.width, decoded.height, short)
        if sum(plane.buffer_size for plane in decoded.planes) > 3 * width * height:
            self.pixels()

    def pixels(self) -> Frame:
        if self._pixels is None:
            self._pixels = to_resized_pixels(self._item, self._short)
            del self._item
        return self._pixels


def _layout(frame: LiveFrame) -> tuple[int, int, int]:
    decoded = frame.item.frame
    return decoded.width, decoded.height, quarter_turns(decoded)
