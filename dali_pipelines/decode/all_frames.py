"""Decodes all frames of a video in order and marks the damaged ones.

FFmpeg conceals errors and doesn't mark the frames that refer to a concealed frame. Here a frame
counts as damaged if any picture from its keyframe up to itself is damaged.
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
    """A packet doesn't decode, so counting frames no longer gives their numbers."""


class OtherOrder(Exception):
    """The decoded order differs from the index although no frame is damaged.

    Attributes:
        right_until: Number of frames that came in the expected order.
    """

    def __init__(self, right_until: int) -> None:
        super().__init__()
        self.right_until = right_until


def frames_by_index(video: IndexedVideo, stop: Event) -> Iterator[DisplayedFrame]:
    """Yield all frames that decode, numbered by the index.

    Raises:
        OtherOrder: The frames come in another order than the index says.
        Stopped: `stop` was set.
    """
    index = video.index
    assert index is not None
    damaged: list[int] = []
    """Positions of damaged reference pictures, ascending."""
    count = 0
    packets = chain(video.all(), [None])
    for group in _groups(_decode(video.stream.codec_context, packets, stop, failed=damaged)):
        for frame in group:
            if frame.is_corrupt and not is_b_frame(frame):
                insort(damaged, frame.pts or 0)
        damaged_b = min((frame.pts or 0 for frame in group if frame.is_corrupt), default=None)
        for frame in group:
            position, number = frame.pts or 0, index.number_of(frame.pts)
            if number < 0:
                continue
            if not damaged and damaged_b is None and number != count:
                raise OtherOrder(count)
            count += 1
            first = bisect_left(damaged, index.keyframe_for(position))
            is_spoiled = first < len(damaged) and damaged[first] <= position
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
    """Yield all frames that decode, numbered in output order.

    Args:
        context: The decoder.
        packets: All packets of the stream, then None.
        stop: Set it to cancel decoding.
        until_damaged: Raise `Damaged` at the first damaged frame.
        failed: Collects the positions of packets that don't decode.

    Raises:
        Damaged: `until_damaged` is set and a frame is damaged.
        Stopped: `stop` was set.
    """
    failed = [] if failed is None else failed
    num_failed = count = 0
    is_spoiled: bool | None = None
    for group in _groups(_decode(context, packets, stop, failed=failed)):
        last = group[-1]
        if is_spoiled is None:  # without a keyframe, the references are missing
            is_spoiled = not last.key_frame and not group[0].key_frame
        is_broken = last.is_corrupt or len(failed) > num_failed
        was_spoiled, num_failed = is_spoiled, len(failed)
        if not is_b_frame(last):
            is_spoiled = is_broken or (is_spoiled and not last.key_frame)
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
    for position, packet in enumerate(packets):
        if stop.is_set():
            raise Stopped
        try:
            frames = context.decode(packet)
        except av.FFmpegError:
            insort(failed, position)
            continue
        yield from frames


def _groups(frames: Iterator[av.VideoFrame]) -> Iterator[list[av.VideoFrame]]:
    """Group B-frames with the next displayed frame, which they may refer to."""
    group: list[av.VideoFrame] = []
    for frame in frames:
        group.append(frame)
        if not is_b_frame(frame):
            yield group
            group = []
    if group:
        yield group
