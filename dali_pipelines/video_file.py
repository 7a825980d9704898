"""Video files through PyAV: probing, checking, and decoding wanted frames.

Frames are counted in the order in which they are shown, so that B-frames and variable frame rates
need no special care anywhere else. PyAV releases the GIL while it decodes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream
from numpy.typing import NDArray

from dali_pipelines.clip_facts import ClipFacts, ClipHealth, judge, with_frames
from dali_pipelines.errors import VideoError
from dali_pipelines.frame_plan import IntArray


def probe(path: Path) -> ClipFacts:
    """Facts from the container and the packets; one frame is decoded, to prove that any does."""
    with _open(path) as (container, stream):
        pts: list[int] = []
        keyframes: list[int] = []
        first_frame: av.VideoFrame | None = None
        for packet in container.demux(stream):
            if packet.size == 0 or packet.is_discard:
                continue
            if packet.is_keyframe:
                keyframes.append(len(pts))
            pts.append(packet.pts if packet.pts is not None else packet.dts or 0)
            if first_frame is None:
                first_frame = _first_of(packet)
        if first_frame is None:
            first_frame = next(iter(stream.decode(None)), None)
        if first_frame is None:
            raise VideoError(path, "none of its frames decodes")
        return _facts(stream, first_frame, pts, keyframes)


def check(path: Path) -> ClipHealth:
    """Decode every frame. A bad file is a finding here, not an error."""
    try:
        facts = probe(path)
        with _open(path) as (container, stream):
            decoded, damaged = _decode_all(container, stream)
    except VideoError as error:
        return ClipHealth(status="bad", reason=error.reason, facts=None)
    expected = max(facts.frames_claimed, facts.frames)
    return judge(with_frames(facts, decoded), expected=expected, damaged=damaged)


def read_frames(
    path: Path, indices: IntArray, *, size: tuple[int, int] | None = None, grey: bool = False
) -> NDArray[np.uint8]:
    """See clip_file.read_frames. Stops decoding after the last wanted frame."""
    wanted = set(indices.tolist())
    last = max(wanted)
    width, height = size or (None, None)
    frames: list[NDArray[np.uint8]] = []
    shown = 0
    try:
        with _open(path) as (container, stream):
            for shown, frame in enumerate(container.decode(stream)):
                if shown in wanted:
                    pixels = frame.to_ndarray(
                        format="gray" if grey else "rgb24", width=width, height=height
                    )
                    frames.append(np.rot90(pixels, frame.rotation // 90))
                if shown == last:
                    break
    except (av.FFmpegError, ValueError) as error:
        raise VideoError(path, _plain(error)) from error
    if len(frames) < len(wanted):
        raise VideoError(path, f"frame {last} is wanted but only {shown + 1} frames decode")
    return np.stack(frames)


@contextmanager
def _open(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    if not path.is_file():
        raise VideoError(path, "there is no such file")
    if path.stat().st_size == 0:
        raise VideoError(path, "the file is empty")
    try:
        container = av.open(str(path), metadata_errors="replace")
    except (av.FFmpegError, ValueError) as error:
        raise VideoError(path, f"can't be opened as video ({_plain(error)})") from error
    with container:
        streams = [  # FFmpeg presents a song's cover picture as a video of one frame
            stream
            for stream in container.streams.video
            if not stream.disposition & Disposition.attached_pic
        ]
        if not streams:
            raise VideoError(path, "it holds no video stream")
        stream = streams[0]
        if stream.codec_context is None:
            raise VideoError(path, "no decoder for its codec is installed")
        stream.codec_context.thread_count = 1  # files are read in parallel, not one file's frames
        yield container, stream


def _first_of(packet: av.Packet) -> av.VideoFrame | None:
    try:
        frames = cast(list[av.VideoFrame], packet.decode())
    except av.FFmpegError:
        return None  # a damaged packet; a later one may do
    return frames[0] if frames else None


def _decode_all(container: InputContainer, stream: VideoStream) -> tuple[int, int]:
    """Counts the frames that decode, and the packets and frames that are damaged."""
    decoded = damaged = 0
    for packet in container.demux(stream):
        try:
            for frame in packet.decode():
                decoded += 1
                damaged += bool(frame.is_corrupt)
        except av.FFmpegError:
            damaged += 1
    return decoded, damaged


def _facts(
    stream: VideoStream, first_frame: av.VideoFrame, pts: list[int], keyframes: list[int]
) -> ClipFacts:
    rotation = first_frame.rotation
    width, height = first_frame.width, first_frame.height
    if rotation % 180:
        width, height = height, width
    gaps = np.diff([*keyframes, len(pts)]) if keyframes else np.array([len(pts)])
    return ClipFacts(
        codec=stream.codec_context.codec.canonical_name,
        pixel_format=first_frame.format.name,
        width=width,
        height=height,
        rotation=rotation,
        fps=_rate(stream, pts),
        variable_rate=_is_variable(pts),
        frames_claimed=stream.frames,
        frames=len(pts),
        gop=int(gaps.max()),
    )


def _rate(stream: VideoStream, pts: list[int]) -> float:
    rate: Fraction | None = stream.average_rate or stream.guessed_rate
    if rate:
        return round(float(rate), 3)
    span = (max(pts) - min(pts)) * (stream.time_base or 0)
    return round(float((len(pts) - 1) / span), 3) if span else 0.0


def _is_variable(pts: list[int]) -> bool:
    """Rounding to a coarse clock, and a frame dropped here and there, are not a variable rate."""
    gaps = np.diff(np.sort(np.array(pts, np.int64)))
    if len(gaps) < 2:
        return False
    usual = np.median(gaps)
    off = np.abs(gaps - usual) > max(1.5, 0.05 * usual)
    return int(off.sum()) > max(1, 0.02 * len(gaps))


def _plain(error: Exception) -> str:
    """FFmpeg's words without its error number and the path, which the caller names."""
    return getattr(error, "strerror", None) or str(error)
