"""Video files through PyAV: what a file says of itself, and whether all of it decodes."""

import dataclasses
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from dali_pipelines.clip_facts import ClipFacts, ClipHealth, judge
from dali_pipelines.errors import VideoError
from dali_pipelines.video_stream import demux, open_video

BT601 = frozenset({2, 5, 6})
"""FFmpeg's numbers for: not stated, BT.470 BG (the same matrix), SMPTE 170M."""


def probe(path: Path) -> ClipFacts:
    """Facts from the container and the packets; one frame is decoded, to prove that any does."""
    with open_video(path) as (container, stream):
        scan = _scan(container, stream, decode_all=False)
        if scan.first_frame is None:
            raise VideoError(path, "none of its frames decodes")
        return _facts(stream, scan.first_frame, scan)


def check(path: Path) -> ClipHealth:
    """Decode every frame. A bad file is a finding here, not an error."""
    try:
        with open_video(path) as (container, stream):
            scan = _scan(container, stream, decode_all=True)
            if scan.first_frame is None:
                raise VideoError(path, "none of its frames decodes")
            facts = _facts(stream, scan.first_frame, scan)
            expected = _expected_frames(stream, scan.pts)
    except VideoError as error:
        return ClipHealth(status="bad", reason=error.reason, facts=None)
    facts = dataclasses.replace(facts, frames=scan.decoded)
    return judge(facts, expected=expected, damaged=scan.damaged)


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
    whole = False
    for packet in demux(container, stream):
        whole = not packet.size
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
    scan.damaged += not whole
    return scan


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
        bt601=int(first_frame.colorspace) in BT601,
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
