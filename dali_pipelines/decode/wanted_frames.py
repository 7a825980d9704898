"""Decodes certain frames of a video, and as little else as possible.

Skipped are pictures before the nearest keyframe or after the last wanted frame, and unwanted
pictures that no other picture refers to. If the frame order can't be determined from the packets,
or the decoder returns other frames than expected, all frames are decoded instead.


Frame n is the n-th frame displayed when the whole file is decoded.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import NamedTuple

import av

from dali_pipelines.decode.all_frames import (
    Damaged,
    DisplayedFrame,
    OtherOrder,
    frames_by_counting,
    frames_by_index,
    is_b_frame,
)
from dali_pipelines.decode.clip_facts import is_too_many
from dali_pipelines.decode.fast_decode import FastDecode, Reduction, UnexpectedSize
from dali_pipelines.decode.indexed_video import IndexedVideo, open_indexed
from dali_pipelines.decode.packet_index import PacketIndex, Run
from dali_pipelines.decode.video_stream import demux, ffmpeg_message, open_video
from dali_pipelines.errors import Stopped, VideoError
from dali_pipelines.frame_plan import IntArray

SKIPS_LATE = frozenset({"libdav1d"})
"""Decoders that read `skip_frame` only when they are opened."""


class DecodedFrame(NamedTuple):
    number: int
    frame: av.VideoFrame
    is_damaged: bool
    """Whether the frame, or a frame that it refers to, was decoded with errors, or it didn't decode
    and a neighboring frame replaces it."""
    full_size: tuple[int, int] | None = None
    """(width, height) before rotation, if the frame was decoded at a reduced size."""


def decode_wanted(
    path: Path,
    numbers: IntArray,
    *,
    stop: Event | None = None,
    video: IndexedVideo | None = None,
    fast: FastDecode | None = None,
) -> Iterator[DecodedFrame]:
    """Decode some frames of a video file.

    Args:
        path: The video file.
        numbers: Frame numbers in display order, ascending and unique.
        stop: Set it to cancel decoding.
        video: The file, if it is open already and nothing of it was decoded.
        fast: Decode some codecs faster: the same frames, with slightly different pixels.

    Yields:
        The frames, ascending.

    Raises:
        VideoError: The file can't be read, or has too few frames.
        Stopped: `stop` was set.
    """
    wanted: list[int] = numbers.tolist()
    stop = stop or Event()
    num_yielded = 0
    with _ffmpeg_errors_as_video_errors(path):
        try:
            for item in _decode(path, wanted, stop, video, fast):
                yield item
                num_yielded += 1
        except UnexpectedSize:
            yield from _decode(path, wanted[num_yielded:], stop, None, None)


def _decode(
    path: Path,
    wanted: list[int],
    stop: Event,
    video: IndexedVideo | None,
    fast: FastDecode | None,
) -> Iterator[DecodedFrame]:
    num_yielded = 0
    with open_indexed(path, video) as opened:
        if opened.index is None:
            with opened.packets() as (context, packets):
                reduction = fast.set_up(context) if fast else None
                counted = _select(path, frames_by_counting(context, packets, stop), wanted)
                yield from _with_full_size(counted, reduction)
            return
        reduction = fast.set_up(opened.stream.codec_context) if fast else None
        sparse = _decode_sparsely(opened, opened.index, wanted, stop)
        for item in _with_full_size(sparse, reduction):
            yield item
            num_yielded += 1
    if num_yielded < len(wanted):
        yield from _decode_remaining(path, wanted, num_yielded, stop, fast)


def _with_full_size(
    items: Iterator[DecodedFrame], reduction: Reduction | None
) -> Iterator[DecodedFrame]:
    if reduction is None:
        yield from items
        return
    for item in items:
        if (item.frame.width, item.frame.height) != reduction.reduced:
            raise UnexpectedSize
        yield item._replace(full_size=reduction.full)


def decode_in_turn(
    path: Path, numbers: IntArray, *, stop: Event | None = None
) -> Iterator[DecodedFrame]:
    """Like `decode_wanted`, but decodes and counts every frame: slow and simple, as a reference."""
    wanted: list[int] = numbers.tolist()
    stop = stop or Event()
    with _ffmpeg_errors_as_video_errors(path):
        num_yielded = 0
        try:
            with open_video(path) as (container, stream):
                packets = demux(container, stream)
                frames = frames_by_counting(stream.codec_context, packets, stop, until_damaged=True)
                for item in _select(path, frames, wanted):
                    yield item
                    num_yielded += 1
        except Damaged:
            yield from _decode_remaining(path, wanted, num_yielded, stop)


def _decode_remaining(
    path: Path,
    wanted: list[int],
    num_yielded: int,
    stop: Event,
    fast: FastDecode | None = None,
) -> Iterator[DecodedFrame]:
    """Decode all frames to get the rest of `wanted`, without the first `num_yielded` ones.


    If pictures are lost, counting frames no longer gives their numbers, but the index does. If no
    picture is lost and the numbers still differ, the index is wrong.
    """
    with open_indexed(path) as video:
        if video.index is not None:
            reduction = fast.set_up(video.stream.codec_context) if fast else None
            shown = _select(path, frames_by_index(video, stop), wanted[num_yielded:])
            try:
                for item in _with_full_size(shown, reduction):
                    yield item
                    num_yielded += 1
                return
            except OtherOrder as error:
                if num_yielded and wanted[num_yielded - 1] >= error.right_until:
                    raise VideoError(
                        path, "its frames decode in another order than its packets say"
                    ) from error
        with video.packets() as (context, packets):
            reduction = fast.set_up(context) if fast else None
            counted = frames_by_counting(context, packets, stop)
            selected = _select(path, counted, wanted[num_yielded:])
            yield from _with_full_size(selected, reduction)


@contextmanager
def _ffmpeg_errors_as_video_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (av.FFmpegError, IndexError) as error:
        raise VideoError(path, ffmpeg_message(error)) from error


def _decode_sparsely(
    video: IndexedVideo, index: PacketIndex, wanted: list[int], stop: Event
) -> Iterator[DecodedFrame]:
    """Yield the wanted frames from the fewest pictures; stop early at unexpected output."""
    if wanted[-1] >= len(index):
        return
    remaining = iter(wanted)
    number = next(remaining)
    needed = {int(index.positions[number]) for number in wanted}
    for run in index.runs(wanted):
        pending: list[DecodedFrame] = []
        has_started = index.numbers[run.start] < 0  # an edit list hides its first frame
        for frame in _decode_run(video, index, run, needed, stop):
            shown = index.number_of(frame.pts)
            has_started = has_started or bool(frame.key_frame)
            if frame.is_corrupt or (shown > number >= 0) or not has_started:
                return  # FFmpeg may start anywhere, with gray or old frames as references
            if shown == number >= 0:
                pending.append(DecodedFrame(number, frame, False))
                number = next(remaining, -1)
            if pending and not is_b_frame(frame):  # earlier B-frames may refer to it
                yield from pending
                pending = []
                if number < 0:
                    return
        yield from pending
        video.stream.codec_context.flush_buffers()


def _decode_run(
    video: IndexedVideo, index: PacketIndex, run: Run, needed: set[int], stop: Event
) -> Iterator[av.VideoFrame]:
    """Decode a run; the timestamps of the frames are their positions."""
    context = video.stream.codec_context
    can_skip_nonref = not index.kinds and context.name not in SKIPS_LATE
    context.skip_frame, is_skipping = "DEFAULT", False
    try:
        for position, packet in enumerate(video.run(run), run.start):
            if stop.is_set():
                raise Stopped
            if position not in needed and index.may_be_left_out(position):
                continue
            if can_skip_nonref and is_skipping == (position in needed):
                is_skipping = not is_skipping
                context.skip_frame = "NONREF" if is_skipping else "DEFAULT"
            yield from context.decode(packet)
        yield from context.decode(None)
    except av.FFmpegError:
        return  # missing frames are decoded again, frame by frame


def _select(
    path: Path, frames: Iterator[DisplayedFrame], wanted: list[int]
) -> Iterator[DecodedFrame]:
    """Select the wanted frames; a neighboring frame replaces one that doesn't decode."""
    remaining = iter(wanted)
    number = next(remaining)
    previous: av.VideoFrame | None = None
    shown = -1
    for shown, frame, is_damaged in frames:
        while number < shown:
            yield DecodedFrame(number, previous or frame, True)
            number = next(remaining, -1)
            if number < 0:
                return
        if number == shown:
            yield DecodedFrame(number, frame, is_damaged)
            number = next(remaining, -1)
            if number < 0:
                return
        previous = frame
    if previous is None or is_too_many(wanted[-1] - shown, shown + 1):
        raise VideoError(path, f"frame {wanted[-1]} is wanted but only {shown + 1} frames decode")
    while number >= 0:
        yield DecodedFrame(number, previous, True)
        number = next(remaining, -1)
