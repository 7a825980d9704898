"""Video files through PyAV: what a file says of itself, and whether all of it decodes."""

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
"""FFmpeg's numbers for: not stated, BT.470 BG (the same matrix), SMPTE 170M."""


def probe(path: Path) -> ClipFacts:
    """Facts from the container and the packets.

    One frame is decoded, to prove that any does; all are where the packets don't give their number.
    """
    with open_indexed(path) as video:
        if video.index is not None:
            with suppress(OtherOrder):
                first = next(frames_by_index(video, Event()), None)
                if first is not None:
                    return _facts(video, _Frames.of(video), first.frame)
                raise VideoError(path, "none of its frames decodes")
    return _decode_all(path).facts


def check(path: Path) -> ClipHealth:
    """Decode every frame. A bad file is a finding here, not an error."""
    try:
        found = _decode_all(path)
    except VideoError as error:
        return ClipHealth(status="bad", reason=error.reason, facts=None)
    return judge(found.facts, expected=found.expected, damaged=found.damaged)


class Timeline(NamedTuple):
    times_s: NDArray[np.float64]
    """When each frame is shown, from the first one on."""
    end_s: float
    """When the last one is no longer shown."""
    expected: int
    """How many frames there should be by what the file says of its length."""
    num_streams: int = 1
    """Of video, of which this is the first."""


def timeline(path: Path, *, default_fps: float) -> Timeline:
    """Where frames are in time; where the file doesn't say, they are at its rate."""
    with open_indexed(path) as video:
        clock = video.stream.time_base
        found = video.index.times() if video.index else None
        if found is not None and clock is not None:
            times, end = found
            times_s = (times - times[0]).astype(np.float64) * float(clock)
            end_s = max(float((end - times[0]) * clock), times_s[-1] + SHORTEST_FRAME_S)
            expected = _expected_frames(video, _Frames.of(video))
            return Timeline(times_s, end_s, expected, len(picture_streams(video.container)))
    decoded = _decode_all(path)
    rate = decoded.facts.fps or default_fps
    count = decoded.facts.frames
    times_s = np.arange(count) / rate
    return Timeline(times_s, count / rate, decoded.expected, decoded.facts.num_streams)


@dataclass(frozen=True, kw_only=True)
class _Frames:
    """How many frames a file has, and where they lie."""

    count: int
    times: IntArray
    """When they are shown, ascending in the stream's clock; empty where the file doesn't say."""
    gop: int
    """Most frames from one keyframe to the next."""

    @classmethod
    def of(cls, video: IndexedVideo) -> "_Frames":
        index = video.index
        assert index is not None
        found = index.times()
        return cls(
            count=len(index),
            times=np.zeros(0, np.int64) if found is None else found[0],
            gop=int(np.diff([*index.keyframes, len(index.numbers)]).max()),
        )


@dataclass(frozen=True, kw_only=True)
class _Decoded:
    facts: ClipFacts
    """With the frames that decode."""
    expected: int
    """How many frames should be there, without those of `damaged` that are lost."""
    damaged: int
    """Frames that don't decode, or with errors, or build on such."""


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
    video: IndexedVideo, frames: _Frames | None, shown: Iterator[DisplayedFrame], failed: list[int]
) -> _Decoded:
    """`frames`: as they should be; None where only decoding says."""
    first: av.VideoFrame | None = None
    count = damaged = 0
    times: list[int] = []
    keyframes: list[int] = []
    for number, frame, is_damaged in shown:
        first = first or frame
        count += 1
        damaged += is_damaged
        if frames is None:
            if frame.key_frame:
                keyframes.append(number)
            if frame.pts is not None:
                times.append(frame.pts)
    if first is None:
        raise VideoError(video.path, "none of its frames decodes")
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
    turns = quarter_turns(first)
    width, height = first.width, first.height
    if turns % 2:
        width, height = height, width
    return ClipFacts(
        codec=stream.codec_context.codec.canonical_name,
        pixel_format=first.format.name,
        width=width,
        height=height,
        rotation=90 * turns if turns < 3 else -90,
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
    """The frames there would be if the stream went on to its stated end as it goes so far.

    The header's own count won't do: it also counts what an edit list hides and, in AVI, ticks of
    the clock that show nothing. But these tell an AVI's length, where FFmpeg shortens it to what
    is there.
    """
    times, duration = frames.times, video.stream.duration or 0
    if video.container.format.name == "avi":
        duration = max(duration, video.stream.frames)
    if not duration or len(times) < 2:
        return frames.count
    covered = float(times[-1] - times[0]) + float(np.median(np.diff(times)))
    return round(frames.count * max(1.0, duration / max(covered, 1.0)))


def _rate(stream: VideoStream, frames: _Frames) -> float:
    rate: Fraction | None = stream.average_rate or stream.guessed_rate
    if rate:
        return round(float(rate), 3)
    if len(frames.times) < 2 or stream.time_base is None:
        return 0.0
    span = float(frames.times[-1] - frames.times[0]) * float(stream.time_base)
    return round((len(frames.times) - 1) / span, 3) if span else 0.0


def _is_variable(times: IntArray) -> bool:
    """Rounding to a coarse clock, and a frame dropped here and there, are not a variable rate."""
    gaps = np.diff(times)
    if len(gaps) < 2:
        return False
    usual = np.median(gaps)
    off = np.abs(gaps - usual) > max(min(1.5, 0.5 * usual), 0.05 * usual)
    return int(off.sum()) > max(1, 0.02 * len(gaps))
