"""Makes videos playable in browsers, by converting them to small H.264 files if needed."""

import io
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from threading import Event
from typing import Any

import av
from av.video.stream import VideoStream

from dali_pipelines.decode.all_frames import OtherOrder, frames_by_counting, frames_by_index
from dali_pipelines.decode.indexed_video import IndexedVideo, open_indexed
from dali_pipelines.decode.pixels import resized_size, to_pixels
from dali_pipelines.decode.video_stream import open_video
from dali_pipelines.errors import VideoError

MAX_S = 300.0
"""Maximum length of a converted video; the rest is cut off."""
SHORT_SIDE = 360
MAX_FPS = 30.0
TICKS = 90_000
LOG_INTERVAL = 50
"""Frames between two calls of `log`."""
WEBM_HEADER_BYTES = 64


@dataclass(frozen=True, kw_only=True)
class Converted:
    data: bytes
    """H.264 in MP4, without sound."""
    seconds: float
    is_whole: bool


def mime_of(path: Path) -> str | None:
    """Return the MIME type of a file that all current browsers play, and None for others."""
    with open_video(path) as (container, stream):
        codec = stream.codec_context.codec.canonical_name
        is_plain = stream.codec_context.pix_fmt in ("yuv420p", "yuvj420p")
        container_names = container.format.name.split(",")
    if is_plain and codec == "h264" and "mp4" in container_names:
        return "video/mp4"
    if is_plain and codec in ("vp8", "vp9") and "webm" in container_names:
        with path.open("rb") as file:
            return "video/webm" if b"webm" in file.read(WEBM_HEADER_BYTES) else None
    return None


def convert(path: Path, *, most_s: float = MAX_S, log: Callable[[float], None]) -> Converted:
    """Convert a video to H.264 in MP4.

    Args:
        path: The video.
        most_s: Maximum length of the result in seconds.
        log: Called from time to time with the current second; may raise to stop.

    Raises:
        VideoError: The video can't be read.
    """
    with open_indexed(path) as video:
        stream, frames = video.stream, _frames(video)
        first = next(frames, None)
        if first is None:
            raise VideoError(path, "none of its frames decodes")
        start_s, size, fps = first[0], _size(stream), _fps(stream)
        output = io.BytesIO()
        is_whole = True
        written = 0
        with av.open(output, "w", format="mp4") as target:
            encoder: Any = None
            for seconds, frame in itertools.chain([first], frames):
                shown_s = seconds - start_s
                if shown_s >= most_s:
                    is_whole = False
                    break
                if shown_s * MAX_FPS < written - 0.5:
                    continue  # above the maximum frame rate, or out of order
                picture = av.VideoFrame.from_ndarray(to_pixels(frame, size=size), format="rgb24")
                if encoder is None:
                    encoder = _encoder(target, picture.width, picture.height, fps)
                picture = picture.reformat(format="yuv420p")
                picture.pts, picture.time_base = round(shown_s * TICKS), Fraction(1, TICKS)
                target.mux(encoder.encode(picture))
                written += 1
                last_s = shown_s
                if written % LOG_INTERVAL == 0:
                    log(shown_s)
            target.mux(encoder.encode(None))
    return Converted(data=output.getvalue(), seconds=last_s + 1 / fps, is_whole=is_whole)


def _encoder(target: Any, width: int, height: int, fps: Fraction) -> Any:
    options = {"preset": "veryfast", "crf": "26", "x264-params": "log-level=none"}
    encoder = target.add_stream("libx264", rate=fps, options=options)
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
    encoder.codec_context.time_base = Fraction(1, TICKS)
    encoder.codec_context.gop_size = max(1, round(fps))  # for seeking to any second
    encoder.codec_context.max_b_frames = 0
    return encoder


def _frames(video: IndexedVideo) -> Iterator[tuple[float, av.VideoFrame]]:
    """Yield frames with their time in seconds; frames that can't be decoded are left out."""
    time_base, index = video.stream.time_base, video.index.times() if video.index else None
    if index is None or time_base is None:
        rate = _fps(video.stream)
        with video.packets() as (context, packets):
            for number, frame, _ in frames_by_counting(context, packets, Event()):
                yield float(number / rate), frame
        return
    times, _ = index
    try:
        for number, frame, _ in frames_by_index(video, Event()):
            yield float(times[number] * time_base), frame
    except OtherOrder as error:
        raise VideoError(
            video.path, "the order of its frames contradicts its time stamps"
        ) from error


def _fps(stream: VideoStream) -> Fraction:
    rate = stream.average_rate or stream.guessed_rate
    if not rate or rate < 1:
        return Fraction(25)
    return min(Fraction(rate), Fraction(MAX_FPS)).limit_denominator(1001)


def _size(stream: VideoStream) -> tuple[int, int]:
    """Size before rotation; both sides are even, as H.264 requires."""
    width, height = stream.codec_context.width, stream.codec_context.height
    short = min(SHORT_SIDE, width, height)
    width, height = resized_size(width, height, short)
    return max(2, width - width % 2), max(2, height - height % 2)
