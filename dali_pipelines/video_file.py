"""Video files through PyAV: probing, checking, and decoding wanted frames.

Frames are counted in the order in which they are shown, so that B-frames and variable frame rates
need no special care anywhere else. PyAV releases the GIL while it decodes.
"""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream
from numpy.typing import NDArray

from dali_pipelines.clip_facts import ClipFacts, ClipHealth, judge
from dali_pipelines.errors import VideoError
from dali_pipelines.frame_plan import IntArray


def probe(path: Path) -> ClipFacts:
    """Facts from the container and the packets; one frame is decoded, to prove that any does."""
    with _open(path) as (container, stream):
        scan = _scan(container, stream, decode_all=False)
        if scan.first_frame is None:
            raise VideoError(path, "none of its frames decodes")
        return _facts(stream, scan.first_frame, scan)


def check(path: Path) -> ClipHealth:
    """Decode every frame. A bad file is a finding here, not an error."""
    try:
        with _open(path) as (container, stream):
            scan = _scan(container, stream, decode_all=True)
            if scan.first_frame is None:
                raise VideoError(path, "none of its frames decodes")
            facts = _facts(stream, scan.first_frame, scan)
            expected = _expected_frames(stream, scan.pts)
    except VideoError as error:
        return ClipHealth(status="bad", reason=error.reason, facts=None)
    facts = dataclasses.replace(facts, frames=scan.decoded)
    return judge(facts, expected=expected, damaged=scan.damaged)


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
    except (av.FFmpegError, ValueError, IndexError) as error:
        raise VideoError(path, _plain(error)) from error
    if len({frame.shape for frame in frames}) > 1:
        raise VideoError(path, "its picture changes size midway")
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


@dataclass(kw_only=True)
class _Scan:
    """What a walk over all packets found."""

    pts: list[int] = field(default_factory=list)
    keyframes: list[int] = field(default_factory=list)
    """Positions of the keyframes among the packets."""
    first_frame: av.VideoFrame | None = None
    decoded: int = 0
    damaged: int = 0
    """Packets that don't decode, and frames that decode with errors."""


def _scan(container: InputContainer, stream: VideoStream, *, decode_all: bool) -> _Scan:
    """Without `decode_all`, decoding ends with the first frame."""
    scan = _Scan()
    for packet in _packets(container, stream, scan):
        if packet.size and not packet.is_discard:
            if packet.is_keyframe:
                scan.keyframes.append(len(scan.pts))
            scan.pts.append(packet.pts if packet.pts is not None else packet.dts or 0)
        if decode_all or scan.first_frame is None:
            try:
                frames = cast(list[av.VideoFrame], packet.decode())
            except av.FFmpegError:
                scan.damaged += 1
                continue
            scan.decoded += len(frames)
            scan.damaged += sum(bool(frame.is_corrupt) for frame in frames)
            if frames and scan.first_frame is None:
                scan.first_frame = frames[0]
    return scan


def _packets(container: InputContainer, stream: VideoStream, scan: _Scan) -> Iterator[av.Packet]:
    """Packets up to the end, or to where the container itself is broken."""
    try:
        yield from container.demux(stream)
    except (av.FFmpegError, IndexError):  # PyAV's, where a stream appears that wasn't announced
        scan.damaged += 1


def _facts(stream: VideoStream, first_frame: av.VideoFrame, scan: _Scan) -> ClipFacts:
    rotation = first_frame.rotation
    width, height = first_frame.width, first_frame.height
    if rotation % 180:
        width, height = height, width
    gaps = np.diff([*(scan.keyframes or [0]), len(scan.pts)])
    return ClipFacts(
        codec=stream.codec_context.codec.canonical_name,
        pixel_format=first_frame.format.name,
        width=width,
        height=height,
        rotation=rotation,
        fps=_rate(stream, scan.pts),
        variable_rate=_is_variable(scan.pts),
        frames_claimed=stream.frames,
        frames=len(scan.pts),
        gop=int(gaps.max()),
    )


def _expected_frames(stream: VideoStream, pts: list[int]) -> int:
    """The frames there would be if the stream went on to its stated end as it goes so far.

    The header's own count won't do: it also counts what an edit list hides and, in AVI, ticks of
    the clock that show nothing.
    """
    if not stream.duration or len(pts) < 2:
        return len(pts)
    covered = max(pts) - min(pts) + float(np.median(np.diff(np.sort(np.array(pts)))))
    return round(len(pts) * max(1.0, stream.duration / max(covered, 1.0)))


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
    off = np.abs(gaps - usual) > max(min(1.5, 0.5 * usual), 0.05 * usual)
    return int(off.sum()) > max(1, 0.02 * len(gaps))


def _plain(error: Exception) -> str:
    """FFmpeg's words without its error number and the path, which the caller names."""
    return getattr(error, "strerror", None) or str(error)
