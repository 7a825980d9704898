"""Tests which decoders support which codecs on this machine, by decoding tiny videos."""

import io
import os
import sys
import tempfile
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal, cast

import av
import numpy as np
from av.video.stream import VideoStream
from numpy.typing import NDArray

from dali_pipelines.decode.pixels import read_frames
from dali_pipelines.decode.remux import ClipPart, cut_part
from dali_pipelines.errors import VideoError

Decoder = Literal["PyAV", "DALI on CPU", "DALI on GPU"]
DECODERS: tuple[Decoder, ...] = ("PyAV", "DALI on CPU", "DALI on GPU")

SIDE = 256  # close to the smallest frame that NVDEC accepts
NUM_FRAMES = 8
LEVELS_T = 20 + 20 * np.arange(NUM_FRAMES)
"""Brightness of the frames of a sample."""
TOLERANCE = 8


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a test video of a codec is encoded."""

    encoder: str
    container: str
    pixel_format: str = "yuv420p"
    max_b_frames: int = 0


CODECS: dict[str, Recipe] = {
    "mpeg4": Recipe(encoder="mpeg4", container="avi", max_b_frames=2),
    "h264": Recipe(encoder="libx264", container="mp4", max_b_frames=2),
    "hevc": Recipe(encoder="libx265", container="mp4", max_b_frames=2),
    "av1": Recipe(encoder="libsvtav1", container="mp4"),
    "vp8": Recipe(encoder="libvpx", container="webm"),
    "vp9": Recipe(encoder="libvpx-vp9", container="webm"),
    "mjpeg": Recipe(encoder="mjpeg", container="avi", pixel_format="yuvj420p"),
    "mpeg2video": Recipe(encoder="mpeg2video", container="mpeg"),
    "wmv2": Recipe(encoder="wmv2", container="asf"),
}


def probe_codec(codec: str, *, with_gpu: bool) -> dict[Decoder, bool | None]:
    """Test which decoders return the frames of a tiny video, all of them and in order.

    DALI gets the video as the loaders give it to DALI: as a part that `remux` cuts out.

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
    recipe = CODECS[codec]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"sample.{recipe.container}"
        try:
            path.write_bytes(encode_sample(recipe))
        except (av.FFmpegError, ValueError):
            return results  # this build of FFmpeg has no such encoder
        try:
            results["PyAV"] = _is_right(read_frames(path, np.arange(NUM_FRAMES)))
        except VideoError:
            results["PyAV"] = False
        part = cut_part(path, np.arange(NUM_FRAMES)) if results["PyAV"] else None
    devices: dict[Decoder, Literal["cpu", "mixed"]] = {"DALI on CPU": "cpu"}
    if with_gpu:
        devices["DALI on GPU"] = "mixed"
    for decoder, device in devices.items():
        if part is None:
            results[decoder] = False
            continue
        places = part.numbers if device == "cpu" else part.nvdec_numbers
        numbers = [places[number] for number in range(NUM_FRAMES)]
        results[decoder] = _is_right(decode_with_dali(part, numbers, device))
    return results


def encode_sample(recipe: Recipe) -> bytes:
    """Encode a video of NUM_FRAMES gray frames, each brighter than the one before.

    There are B-frames where the codec has them, so that a wrong order is noticed.
    """
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=recipe.container) as container:
        stream = cast(VideoStream, container.add_stream(recipe.encoder, rate=25))
        stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, recipe.pixel_format
        stream.codec_context.max_b_frames = recipe.max_b_frames
        for index in range(NUM_FRAMES):
            gray = np.full((SIDE, SIDE), LEVELS_T[index], np.uint8)
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


def _is_right(frames_THWC: NDArray[np.uint8] | None) -> bool:
    """Whether these are the frames of `encode_sample`."""
    if frames_THWC is None or len(frames_THWC) != NUM_FRAMES:
        return False
    brightness_T = frames_THWC.mean(axis=(1, 2, 3))
    return bool((np.abs(brightness_T - LEVELS_T) < TOLERANCE).all())


def decode_with_dali(
    part: ClipPart, numbers: list[int], device: Literal["cpu", "mixed"] = "cpu"
) -> NDArray[np.uint8] | None:
    """Decode frames of a part by their numbers in it; None if DALI can't."""
    try:
        from nvidia.dali import fn, pipeline_def
    except ImportError:
        return None

    @pipeline_def(batch_size=1, num_threads=1, device_id=0 if device == "mixed" else None)
    def decode():  # type: ignore[no-untyped-def]
        encoded = fn.external_source(source=lambda: [part.encoded])
        frames = fn.decoders.video(encoded, device=device, frames=numbers, pad_mode="none")
        return frames.cpu() if device == "mixed" else frames

    try:
        pipeline = decode()
        pipeline.build()
        (frames,) = pipeline.run()
        return np.array(frames.at(0))
    except RuntimeError:  # DALI's error for unsupported videos
        return None


def _silence_output() -> None:
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)
    os.dup2(devnull, 2)
