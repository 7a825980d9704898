"""Decoding of a video's wanted frames, and of nothing else where the file allows it.

Packets before the nearest keyframe and after the last wanted frame are left alone, and so are
frames that no other frame refers to, unless they are wanted themselves. Where time stamps are
missing, or what comes out isn't what was asked for, all frames are decoded in turn instead.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from threading import Event
from typing import NamedTuple, cast

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray

from dali_pipelines.clip_facts import TOLERATED_LOSS
from dali_pipelines.errors import VideoError
from dali_pipelines.frame_plan import IntArray
from dali_pipelines.packet_index import IndexMemory, PacketIndex, Run
from dali_pipelines.video_stream import demux, open_video, plain_words

KEEP_BELOW = 16 * 2**20
"""Bytes up to which a file's packets are held in memory, so that it is read once."""

_long_files = IndexMemory()


class Wanted(NamedTuple):
    number: int
    frame: av.VideoFrame
    stands_in: bool
    """The frame itself doesn't decode; this is its nearest neighbour."""


class Stopped(Exception):
    """The caller no longer wants the frames."""


def decode_wanted(path: Path, numbers: IntArray, *, stop: Event | None = None) -> Iterator[Wanted]:
    """Yield the frames `numbers` (ascending, each once), counted as they are shown."""
    wanted: list[int] = numbers.tolist()
    try:
        with open_video(path) as (container, stream):
            found = 0
            for item in _sparingly(path, container, stream, wanted, stop):
                yield item
                found += 1
        if found < len(wanted):
            with open_video(path) as (container, stream):
                index = _index(path, container, stream)
            with open_video(path) as (container, stream):
                yield from _in_turn(path, container, stream, index, wanted[found:], stop)
    except (av.FFmpegError, IndexError) as error:
        raise VideoError(path, plain_words(error)) from error


def decode_in_turn(path: Path, numbers: IntArray) -> Iterator[Wanted]:
    """The same by decoding and counting every frame: slow, and nothing to get wrong."""
    try:
        with open_video(path) as (container, stream):
            yield from _in_turn(path, container, stream, None, numbers.tolist(), None)
    except (av.FFmpegError, IndexError) as error:
        raise VideoError(path, plain_words(error)) from error


def packet_times(path: Path) -> NDArray[np.float64] | None:
    """Seconds at which each frame is shown; None where the file doesn't tell."""
    with open_video(path) as (container, stream):
        index = _index(path, container, stream)
        if index is None or stream.time_base is None:
            return None
        return index.shown_pts.astype(np.float64) * float(stream.time_base)


def _sparingly(
    path: Path,
    container: InputContainer,
    stream: VideoStream,
    wanted: list[int],
    stop: Event | None,
) -> Iterator[Wanted]:
    """Yields the first of `wanted` and ends early where the file defeats it."""
    packets: list[av.Packet] | None = None
    if path.stat().st_size <= KEEP_BELOW:
        packets = _packets(container, stream)
        index = PacketIndex.of(packets, reorders=stream.codec_context.has_b_frames)
    else:
        index = _index(path, container, stream)
    if index is None or wanted[-1] >= len(index):
        return
    missing = iter(wanted)
    number = next(missing)
    needed = {int(index.positions[each]) for each in wanted}
    for run in index.runs(wanted):
        if packets is not None:
            of_run: Iterable[av.Packet] = packets[run.start : run.stop]
        else:
            of_run = _seek(container, stream, index, run)
        for frame in _decode_run(stream, of_run, run.start, needed, stop):
            shown = index.number_of(frame.pts)
            if shown is None or shown < number:
                continue
            if shown > number or frame.is_corrupt:
                return
            yield Wanted(number, frame, False)
            number = next(missing, -1)
            if number < 0:
                return
        stream.codec_context.flush_buffers()


def _decode_run(
    stream: VideoStream,
    packets: Iterable[av.Packet],
    first: int,
    needed: set[int],
    stop: Event | None,
) -> Iterator[av.VideoFrame]:
    context = stream.codec_context
    try:
        for position, packet in enumerate(packets, first):
            if stop is not None and stop.is_set():
                raise Stopped
            context.skip_frame = "DEFAULT" if position in needed else "NONREF"
            yield from context.decode(packet)
        yield from context.decode(None)
    except av.FFmpegError:
        return  # what is missing is asked for again, frame by frame


def _seek(
    container: InputContainer, stream: VideoStream, index: PacketIndex, run: Run
) -> Iterator[av.Packet]:
    """Packets of a run of a long file; none where seeking misses its keyframe."""
    start_pts = int(index.keyframe_pts[index.keyframes.searchsorted(run.start)])
    container.seek(start_pts, stream=stream)
    packets = (packet for packet in demux(container, stream) if packet.size)
    for packet in packets:
        if packet.pts == start_pts:
            yield packet
            break
        if packet.is_keyframe and packet.pts is not None and packet.pts > start_pts:
            return
    yield from islice(packets, run.stop - run.start - 1)


def _in_turn(
    path: Path,
    container: InputContainer,
    stream: VideoStream,
    index: PacketIndex | None,
    wanted: list[int],
    stop: Event | None,
) -> Iterator[Wanted]:
    """Decode every frame; the neighbour of a frame that doesn't decode stands in for it."""
    missing = iter(wanted)
    number = next(missing)
    before: av.VideoFrame | None = None
    shown = -1
    for count, frame in enumerate(_all_frames(container, stream, stop)):
        shown = count if index is None else index.number_of(frame.pts)  # type: ignore[assignment]
        if shown is None:
            continue
        while number < shown:
            yield Wanted(number, before or frame, True)
            number = next(missing, -1)
            if number < 0:
                return
        if number == shown:
            yield Wanted(number, frame, False)
            number = next(missing, -1)
            if number < 0:
                return
        before = frame
    tolerated = max(1, int((shown + 1) * TOLERATED_LOSS))
    if before is None or wanted[-1] > shown + tolerated:
        raise VideoError(path, f"frame {wanted[-1]} is wanted but only {shown + 1} frames decode")
    while number >= 0:
        yield Wanted(number, before, True)
        number = next(missing, -1)


def _all_frames(
    container: InputContainer, stream: VideoStream, stop: Event | None
) -> Iterator[av.VideoFrame]:
    stream.codec_context.skip_frame = "DEFAULT"
    for packet in demux(container, stream):
        if stop is not None and stop.is_set():
            raise Stopped
        try:
            yield from cast(list[av.VideoFrame], packet.decode())
        except av.FFmpegError:
            continue


def _index(path: Path, container: InputContainer, stream: VideoStream) -> PacketIndex | None:
    known, index = _long_files.get(path)
    if not known:
        packets = (packet for packet in demux(container, stream) if packet.size)
        index = PacketIndex.of(packets, reorders=stream.codec_context.has_b_frames)
        _long_files.put(path, index)
    return index


def _packets(container: InputContainer, stream: VideoStream) -> list[av.Packet]:
    return [packet for packet in demux(container, stream) if packet.size]
