"""Reads the metadata of video files with PyAV, and checks whether all frames decode."""

import dataclasses
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from threading import Event
from typing import NamedTuple

import av
import numpy as np
from av.video.stream import VideoStream
from numpy.typing import NDArray

from dali_pipelines.decode.all_frames import (
    DisplayedFrame,
    OtherOrder,
    frames_by_counting,
    frames_by_index,
)
from dali_pipelines.decode.clip_facts import ClipFacts, ClipHealth, judge
from dali_pipelines.decode.indexed_video import IndexedVideo, open_indexed
from dali_pipelines.decode.pixels import quarter_turns
from dali_pipelines.decode.video_stream import picture_streams
from dali_pipelines.errors import VideoError
from dali_pipelines.frame_plan import IntArray

SHORTEST_FRAME_S = 1e-3
BT601 = frozenset({2, 5, 6})
"""FFmpeg's color space ids: unspecified, BT.470 BG (the same matrix), SMPTE 170M."""


def probe(path: Path) -> ClipFacts:
    """See clip_file.probe.

    Decodes one frame, to make sure that the file can be decoded. Decodes all frames if the packets
    don't give the number of frames.
    """
    with open_indexed(path) as video:
        if video.index is not None:
            with suppress(OtherOrder):
                first = next(frames_by_index(video, Event()), None)
                if first is not None:
                    return _facts(video, _Frames.of(video), first.frame)
                raise VideoError(path, "none of its frames decode")
    return _decode_all(path).facts


def check(path: Path) -> ClipHealth:
    """See clip_file.check."""
    try:
        decoded = _decode_all(path)
    except VideoError as error:
        return ClipHealth(status="bad", reason=error.reason, facts=None)
    return judge(decoded.facts, expected=decoded.expected, damaged=decoded.damaged)


class Timeline(NamedTuple):
    """Display times of a video's frames."""

    times_s: NDArray[np.float64]
    """Display time of each frame; the first one is at 0."""
    end_s: float
    """End of the last frame."""
    expected: int
    """Number of frames expected from the duration in the file."""
    num_streams: int = 1
    """Number of video streams in the file; the first one is read."""


def timeline(path: Path, *, default_fps: float, video: IndexedVideo | None = None) -> Timeline:
    """Read the display times of all frames.

    Args:
        path: The video file.
        default_fps: Frame rate for files with neither timestamps nor a frame rate.
        video: The file, if it is open already.

    Raises:
        VideoError: The file can't be read.
    """
    with open_indexed(path, video) as opened:
        found = _indexed_timeline(opened)
    if found is not None:
        return found
    decoded = _decode_all(path)
    rate = decoded.facts.fps or default_fps
    count = decoded.facts.frames
    times_s = np.arange(count) / rate
    return Timeline(times_s, count / rate, decoded.expected, decoded.facts.num_streams)


def _indexed_timeline(video: IndexedVideo) -> Timeline | None:
    clock = video.stream.time_base
    index_times = video.index.times() if video.index else None
    if index_times is None or clock is None:
        return None
    times, end = index_times
    times_s = (times - times[0]).astype(np.float64) * float(clock)
    end_s = max(float((end - times[0]) * clock), times_s[-1] + SHORTEST_FRAME_S)
    expected = _expected_frames(video, _Frames.of(video))
    return Timeline(times_s, end_s, expected, len(picture_streams(video.container)))


@dataclass(frozen=True, kw_only=True)
class _Frames:
    """Number and times of a file's frames."""

    count: int
    times: IntArray
    """Display times, ascending, in units of the stream's time base; empty if unknown."""
    gop: int
    """Largest distance between keyframes, in frames."""

    @classmethod
    def of(cls, video: IndexedVideo) -> "_Frames":
        index = video.index
        assert index is not None
        times = index.times()
        return cls(
            count=len(index),
            times=np.zeros(0, np.int64) if times is None else times[0],
            gop=int(np.diff([*index.keyframes, len(index.numbers)]).max()),
        )


@dataclass(frozen=True, kw_only=True)
class _Decoded:
    facts: ClipFacts
    """Metadata; `frames` counts the frames that decode."""
    expected: int
    """Number of frames that should decode, without the lost frames counted in `damaged`."""
    damaged: int
    """Number of frames that don't decode, decode with errors, or refer to damaged frames."""


def _decode_all(path: Path) -> _Decoded:
    with open_indexed(path) as video:
        if video.index is not None:
            try:
                return _examine(video, _Frames.of(video), frames_by_index(video, Event()), [])
            except OtherOrder:
                pass
        with video.packets() as (context, packets):
            failed: list[int] = []
            frames = frames_by_counting(context, packets, Event(), failed=failed)
            return _examine(video, None, frames, failed)


def _examine(
    video: IndexedVideo,
    frames: _Frames | None,
    frames_in_order: Iterator[DisplayedFrame],
    failed: list[int],
) -> _Decoded:
    """Compare the decoded frames with the expected `frames` (None: unknown before decoding)."""
    first: av.VideoFrame | None = None
    count = damaged = 0
    times: list[int] = []
    keyframes: list[int] = []
    for number, frame, is_damaged in frames_in_order:
        first = first or frame
        count += 1
        damaged += is_damaged
        if frames is None:
            if frame.key_frame:
                keyframes.append(number)
            if frame.pts is not None:
                times.append(frame.pts)
    if first is None:
        raise VideoError(video.path, "none of its frames decode")
    if frames is None:
        frames = _Frames(
            count=count,
            times=np.sort(np.array(times if len(times) == count else [], np.int64)),
            gop=int(np.diff([*(keyframes or [0]), count]).max()),
        )
    facts = _facts(video, frames, first)
    lost = frames.count - count + len(failed)
    return _Decoded(
        facts=dataclasses.replace(facts, frames=count),
        expected=_expected_frames(video, frames) - lost,
        damaged=damaged + lost + (not video.is_whole),
    )


def _facts(video: IndexedVideo, frames: _Frames, first: av.VideoFrame) -> ClipFacts:
    stream = video.stream
    num_turns = quarter_turns(first)
    width, height = first.width, first.height
    if num_turns % 2:
        width, height = height, width
    return ClipFacts(
        codec=stream.codec_context.codec.canonical_name,
        pixel_format=first.format.name,
        width=width,
        height=height,
        rotation=90 * num_turns if num_turns < 3 else -90,
        bt601=int(first.colorspace) in BT601,
        fps=_rate(stream, frames),
        variable_rate=_is_variable(frames.times),
        frames_claimed=stream.frames,
        frames=frames.count,
        gop=frames.gop,
        is_packed=video.is_packed,
        num_streams=len(picture_streams(video.container)),
    )


def _expected_frames(video: IndexedVideo, frames: _Frames) -> int:
    """Number of frames expected from the stream's duration at the average rate so far.

    The frame count in the header isn't used: it includes frames hidden by an edit list and, in AVI,
    clock ticks without a frame. In AVI it gives the duration in ticks, which FFmpeg shortens to the
    data that is present.
    """
    times, duration = frames.times, video.stream.duration or 0
    is_avi = video.container.format.name == "avi"
    if is_avi:
        duration = max(duration, video.stream.frames)
    if not duration or len(times) < (1 if is_avi else 2):
        return frames.count
    gap = float(np.median(np.diff(times))) if len(times) > 1 else 1.0
    covered_duration = float(times[-1] - times[0]) + gap
    return round(frames.count * max(1.0, duration / max(covered_duration, 1.0)))


def _rate(stream: VideoStream, frames: _Frames) -> float:
    rate: Fraction | None = stream.average_rate or stream.guessed_rate
    if rate:
        return round(float(rate), 3)
    if len(frames.times) < 2 or stream.time_base is None:
        return 0.0
    span = float(frames.times[-1] - frames.times[0]) * float(stream.time_base)
    return round((len(frames.times) - 1) / span, 3) if span else 0.0


def _is_variable(times: IntArray) -> bool:
    """Whether the frame rate varies by more than rounding and a few dropped frames."""
    gaps = np.diff(times)
    if len(gaps) < 2:
        return False
    median_gap = np.median(gaps)
    is_irregular = np.abs(gaps - median_gap) > max(min(1.5, 0.5 * median_gap), 0.05 * median_gap)
    return int(is_irregular.sum()) > max(1, 0.02 * len(gaps))
