"""All frames of a video, one after the other, with their numbers and whether they are damaged.

FFmpeg hides damage: it guesses what is missing, and what builds on a guess counts as sound. Here a
frame is damaged where anything between its keyframe and itself is.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from itertools import chain
from threading import Event
from typing import NamedTuple

import av
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType

from dali_pipelines.decode.indexed_video import IndexedVideo
from dali_pipelines.errors import Stopped


class DisplayedFrame(NamedTuple):
    number: int
    frame: av.VideoFrame
    is_damaged: bool


class Damaged(Exception):
    """Something doesn't decode, so that counting frames no longer gives their numbers."""


class OtherOrder(Exception):
    """Frames come out in another order than the index says, though nothing is damaged."""

    def __init__(self, right_until: int) -> None:
        super().__init__()
        self.right_until = right_until


def frames_by_index(video: IndexedVideo, stop: Event) -> Iterator[DisplayedFrame]:
    """All frames that decode, with the numbers that the index gives them."""
    index = video.index
    assert index is not None
    spoiled: list[int] = []
    """Positions of damaged pictures that others may refer to, ascending."""
    count = 0
    packets = chain(video.all(), [None])
    for group in _groups(_decode(video.stream.codec_context, packets, stop, failed=spoiled)):
        for frame in group:
            if frame.is_corrupt and not is_b_frame(frame):
                insort(spoiled, frame.pts or 0)
        damaged_b = min((frame.pts or 0 for frame in group if frame.is_corrupt), default=None)
        for frame in group:
            position, number = frame.pts or 0, index.number_of(frame.pts)
            if number < 0:
                continue
            if not spoiled and damaged_b is None and number != count:
                raise OtherOrder(count)
            count += 1
            first = bisect_left(spoiled, index.keyframe_for(position))
            is_spoiled = first < len(spoiled) and spoiled[first] <= position
            builds_on_b = damaged_b is not None and is_b_frame(frame) and position >= damaged_b
            yield DisplayedFrame(number, frame, is_spoiled or builds_on_b or bool(frame.is_corrupt))


def frames_by_counting(
    context: VideoCodecContext,
    packets: Iterable[av.Packet | None],
    stop: Event,
    *,
    until_damaged: bool = False,
    failed: list[int] | None = None,
) -> Iterator[DisplayedFrame]:
    """All frames that decode, numbered as they come; `failed` takes the packets that don't."""
    failed = [] if failed is None else failed
    num_failed = count = 0
    is_spoiled: bool | None = None
    for group in _groups(_decode(context, packets, stop, failed=failed)):
        last = group[-1]
        if is_spoiled is None:  # without a keyframe, it builds on pictures that are not there
            is_spoiled = not last.key_frame and not group[0].key_frame
        spoils = last.is_corrupt or len(failed) > num_failed
        was_spoiled, num_failed = is_spoiled, len(failed)
        if not is_b_frame(last):
            is_spoiled = spoils or (is_spoiled and not last.key_frame)
        if until_damaged and (is_spoiled or any(frame.is_corrupt for frame in group)):
            raise Damaged
        for frame in group:
            builds_on_b = is_b_frame(frame) and (was_spoiled or is_spoiled)
            is_damaged = bool(frame.is_corrupt or builds_on_b)
            yield DisplayedFrame(count, frame, is_damaged or (frame is last and is_spoiled))
            count += 1


def is_b_frame(frame: av.VideoFrame) -> bool:
    return frame.pict_type == PictureType.B


def _decode(
    context: VideoCodecContext,
    packets: Iterable[av.Packet | None],
    stop: Event,
    *,
    failed: list[int],
) -> Iterator[av.VideoFrame]:
    context.skip_frame = "DEFAULT"
    for place, packet in enumerate(packets):
        if stop.is_set():
            raise Stopped
        try:
            frames = context.decode(packet)
        except av.FFmpegError:
            insort(failed, place)
            continue
        yield from frames


def _groups(frames: Iterator[av.VideoFrame]) -> Iterator[list[av.VideoFrame]]:
    """B-frames with the frame shown after them, on which they may build."""
    group: list[av.VideoFrame] = []
    for frame in frames:
        group.append(frame)
        if not is_b_frame(frame):
            yield group
            group = []
    if group:
        yield group
