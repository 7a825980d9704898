"""Tests which decoders support which codecs on this machine, by decoding tiny videos."""

import io
import os
import sys
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, cast

import av
import numpy as np
from av.video.stream import VideoStream

Decoder = Literal["PyAV", "DALI on CPU", "DALI on GPU"]
DECODERS: tuple[Decoder, ...] = ("PyAV", "DALI on CPU", "DALI on GPU")

SIDE = 256  # close to the smallest frame that NVDEC accepts
NUM_FRAMES = 8


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a test video of a codec is encoded."""

    encoder: str
    container: str
    pixel_format: str = "yuv420p"


CODECS: dict[str, Recipe] = {
    "mpeg4": Recipe(encoder="mpeg4", container="avi"),
    "h264": Recipe(encoder="libx264", container="mp4"),
    "hevc": Recipe(encoder="libx265", container="mp4"),
    "av1": Recipe(encoder="libsvtav1", container="mp4"),
    "vp8": Recipe(encoder="libvpx", container="webm"),
    "vp9": Recipe(encoder="libvpx-vp9", container="webm"),
    "mjpeg": Recipe(encoder="mjpeg", container="avi", pixel_format="yuvj420p"),
    "mpeg2video": Recipe(encoder="mpeg2video", container="mpeg"),
    "wmv2": Recipe(encoder="wmv2", container="asf"),
}


def probe_codec(codec: str, *, with_gpu: bool) -> dict[Decoder, bool | None]:
    """Test which decoders return all frames of a tiny video.

    Run it in a separate process, because a decoder may crash or hang. It redirects the process's
    stdout and stderr to /dev/null, since the encoders and DALI print messages.

    Args:
        codec: A key of `CODECS`.
        with_gpu: Also test DALI on the GPU.

    Returns:
        The result of each decoder; None if it was not tested.
    """
    _silence_output()
    results: dict[Decoder, bool | None] = dict.fromkeys(DECODERS)
    try:
        video = encode_sample(CODECS[codec])
    except (av.FFmpegError, ValueError):
        return results  # this build of FFmpeg has no such encoder
    results["PyAV"] = _count_with_pyav(video) == NUM_FRAMES
    results["DALI on CPU"] = _count_with_dali(video, "cpu") == NUM_FRAMES
    if with_gpu:
        results["DALI on GPU"] = _count_with_dali(video, "mixed") == NUM_FRAMES
    return results


def encode_sample(recipe: Recipe) -> bytes:
    """Encode a video of NUM_FRAMES gray frames, each brighter than the one before."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=recipe.container) as container:
        stream = cast(VideoStream, container.add_stream(recipe.encoder, rate=25))
        stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, recipe.pixel_format
        for index in range(NUM_FRAMES):
            gray = np.full((SIDE, SIDE), 20 + 20 * index, np.uint8)
            frame = av.VideoFrame.from_ndarray(gray, format="gray")
            frame = frame.reformat(format=recipe.pixel_format)
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    leave_real_time()
    return buffer.getvalue()


def leave_real_time() -> None:
    """Restore normal scheduling, because SVT-AV1 run as root makes its caller a real-time thread.

    That thread and all threads started from it would starve other processes.
    """
    if sys.platform.startswith("linux"):
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def _count_with_pyav(video: bytes) -> int:
    try:
        with av.open(io.BytesIO(video), "r") as container:
            return len(list(container.decode(video=0)))
    except (av.FFmpegError, ValueError):
        return 0


def _count_with_dali(video: bytes, device: Literal["cpu", "mixed"]) -> int:
    try:
        from nvidia.dali import fn, pipeline_def
    except ImportError:
        return 0

    @pipeline_def(batch_size=1, num_threads=1, device_id=0 if device == "mixed" else None)
    def decode():  # type: ignore[no-untyped-def]
        encoded = fn.external_source(source=lambda: [np.frombuffer(video, np.uint8)])
        return fn.decoders.video(encoded, device=device)

    try:
        pipeline = decode()
        pipeline.build()
        (frames,) = pipeline.run()
        return int(frames.shape()[0][0])
    except RuntimeError:  # DALI's error for unsupported videos
        return 0


def _silence_output() -> None:
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)
    os.dup2(devnull, 2)
