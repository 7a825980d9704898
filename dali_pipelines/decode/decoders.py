"""Which decoder opens which codec on this machine: found out by making and decoding tiny videos."""

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

SIDE = 256  # NVDEC takes nothing much smaller
NUM_FRAMES = 8


@dataclass(frozen=True, kw_only=True)
class Recipe:
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
    """Whether each decoder delivers all frames of a tiny video; None: not tried.

    Run it in a process of its own: FFmpeg's encoders and DALI print what they think, and a decoder
    may crash or hang. Everything printed by that process is dropped.
    """
    _silence()
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
    """A video of NUM_FRAMES gray frames, each lighter than the one before."""
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
    """SVT-AV1's encoder, run as root, makes its caller a real-time thread: that and all that it
    starts from then on would take the processor away from everything else."""
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
    except RuntimeError:  # how DALI says that it can't
        return 0


def _silence() -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
