"""Decoding of a video's wanted frames, and of nothing else where the file allows it.

Pictures before the nearest keyframe and after the last wanted frame are left alone, and so are
those that no other picture refers to, unless they are wanted themselves. Where the order of the
frames can't be known beforehand, or what comes out isn't what was asked for, all frames are decoded
in turn instead.

Frame n is the n-th one that decoding all of the file shows.
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
from dali_pipelines.decode.indexed_video import IndexedVideo, open_indexed
from dali_pipelines.decode.packet_index import PacketIndex, Run
from dali_pipelines.decode.video_stream import demux, open_video, plain_words
from dali_pipelines.errors import Stopped, VideoError
from dali_pipelines.frame_plan import IntArray

SKIPS_LATE = frozenset({"libdav1d"})
"""Decoders that take `skip_frame` once, as they are opened."""


class DecodedFrames(NamedTuple):
    number: int
    frame: av.VideoFrame
    is_damaged: bool
    """It is not what was encoded: the decoder guessed parts of it, or it builds on such a frame, or
    it doesn't decode at all and its neighbor stands in."""


def decode_wanted(
    path: Path, numbers: IntArray, *, stop: Event | None = None
) -> Iterator[DecodedFrames]:
    """Yield the frames `numbers` (ascending, each once), counted as they are shown."""
    wanted: list[int] = numbers.tolist()
    stop = stop or Event()
    with _naming(path):
        found = 0
        with open_indexed(path) as video:
            if video.index is None:
                with video.packets() as (context, packets):
                    yield from _fill(path, frames_by_counting(context, packets, stop), wanted)
                return
            for item in _sparsely(video, video.index, wanted, stop):
                yield item
                found += 1
        if found < len(wanted):
            yield from _behind_damage(path, wanted, found, stop)


def decode_in_turn(
    path: Path, numbers: IntArray, *, stop: Event | None = None
) -> Iterator[DecodedFrames]:
    """The same by decoding and counting every frame: slow, and nothing to get wrong."""
    wanted: list[int] = numbers.tolist()
    stop = stop or Event()
    with _naming(path):
        found = 0
        try:
            with open_video(path) as (container, stream):
                packets = demux(container, stream)
                frames = frames_by_counting(stream.codec_context, packets, stop, until_damaged=True)
                for item in _fill(path, frames, wanted):
                    yield item
                    found += 1
        except Damaged:
            yield from _behind_damage(path, wanted, found, stop)


def _behind_damage(
    path: Path, wanted: list[int], found: int, stop: Event
) -> Iterator[DecodedFrames]:
    """The rest of `wanted`, of which the first `found` are there.

    Where pictures are lost, counting frames no longer gives their numbers, but the index does.
    Where none are and the numbers differ all the same, the index is wrong.
    """
    with open_indexed(path) as video:
        if video.index is not None:
            try:
                for item in _fill(path, frames_by_index(video, stop), wanted[found:]):
                    yield item
                    found += 1
                return
            except OtherOrder as error:
                if found and wanted[found - 1] >= error.right_until:
                    raise VideoError(
                        path, "its frames come in another order than its packets say"
                    ) from error
        with video.packets() as (context, packets):
            yield from _fill(path, frames_by_counting(context, packets, stop), wanted[found:])


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except (av.FFmpegError, IndexError) as error:
        raise VideoError(path, plain_words(error)) from error


def _sparsely(
    video: IndexedVideo, index: PacketIndex, wanted: list[int], stop: Event
) -> Iterator[DecodedFrames]:
    """Yields the first of `wanted` and ends early where the file defeats it."""
    if wanted[-1] >= len(index):
        return
    missing = iter(wanted)
    number = next(missing)
    needed = {int(index.positions[each]) for each in wanted}
    for run in index.runs(wanted):
        found: list[DecodedFrames] = []
        has_begun = index.numbers[run.start] < 0  # an edit list hides its first frame
        for frame in _decode_run(video, index, run, needed, stop):
            shown = index.number_of(frame.pts)
            has_begun = has_begun or bool(frame.key_frame)
            if frame.is_corrupt or (shown > number >= 0) or not has_begun:
                return  # FFmpeg may begin anywhere, upon gray or what it decoded before
            if shown == number >= 0:
                found.append(DecodedFrames(number, frame, False))
                number = next(missing, -1)
            if found and not is_b_frame(frame):  # on which those before it may build
                yield from found
                found = []
                if number < 0:
                    return
        yield from found
        video.stream.codec_context.flush_buffers()


def _decode_run(
    video: IndexedVideo, index: PacketIndex, run: Run, needed: set[int], stop: Event
) -> Iterator[av.VideoFrame]:
    """Frames carry their positions as time stamps."""
    context = video.stream.codec_context
    can_skip = not index.kinds and context.name not in SKIPS_LATE
    context.skip_frame, skips = "DEFAULT", False
    try:
        for position, packet in enumerate(video.run(run), run.start):
            if stop.is_set():
                raise Stopped
            if position not in needed and index.may_be_left_out(position):
                continue
            if can_skip and skips == (position in needed):
                skips = not skips
                context.skip_frame = "NONREF" if skips else "DEFAULT"
            yield from context.decode(packet)
        yield from context.decode(None)
    except av.FFmpegError:
        return  # what is missing is asked for again, frame by frame


def _fill(
    path: Path, frames: Iterator[DisplayedFrame], wanted: list[int]
) -> Iterator[DecodedFrames]:
    """The wanted of all frames; a neighbor stands in for one that doesn't decode."""
    missing = iter(wanted)
    number = next(missing)
    before: av.VideoFrame | None = None
    shown = -1
    for shown, frame, is_damaged in frames:
        while number < shown:
            yield DecodedFrames(number, before or frame, True)
            number = next(missing, -1)
            if number < 0:
                return
        if number == shown:
            yield DecodedFrames(number, frame, is_damaged)
            number = next(missing, -1)
            if number < 0:
                return
        before = frame
    if before is None or is_too_many(wanted[-1] - shown, shown + 1):
        raise VideoError(path, f"frame {wanted[-1]} is wanted but only {shown + 1} frames decode")
    while number >= 0:
        yield DecodedFrames(number, before, True)
        number = next(missing, -1)
