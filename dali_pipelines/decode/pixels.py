"""Converts decoded frames to RGB and resizes them.

The color matrix (BT.601, BT.709, …) and range (limited or full) are those given in the file. The
default is BT.601 in limited range, as in FFmpeg and NVDEC.

On a CPU, frames are converted at full size and then resized by torch's uint8 kernel, which the
reference loader also uses. Converting and resizing in one step with FFmpeg is slower and blurs
color edges; DALI's CPU resize takes four times as long (see benchmarks/README.md).
"""

import threading
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from dali_pipelines.decode.fast_decode import FastDecode
from dali_pipelines.decode.wanted_frames import DecodedFrame, decode_wanted
from dali_pipelines.errors import VideoError
from dali_pipelines.frame_plan import IntArray

Frame = NDArray[np.uint8]
"""(H, W, 3), or (H, W) for gray frames."""

_thread_local = threading.local()


def to_pixels(
    frame: av.VideoFrame, *, size: tuple[int, int] | None = None, gray: bool = False
) -> Frame:
    """Convert a frame to RGB or gray, and rotate it for display.

    Args:
        frame: A decoded frame.
        size: (width, height) before rotation, scaled by FFmpeg; None keeps the size.
        gray: Return gray instead of RGB.
    """
    if not hasattr(_thread_local, "reformatter"):  # caches FFmpeg's tables, and isn't thread-safe
        _thread_local.reformatter = VideoReformatter()
    width, height = size or (None, None)
    reformatter: VideoReformatter = _thread_local.reformatter
    converted = reformatter.reformat(
        frame, width=width, height=height, format="gray" if gray else "rgb24", threads=1
    )
    return np.rot90(converted.to_ndarray(), quarter_turns(frame))


def quarter_turns(frame: av.VideoFrame) -> int:
    """Number of counter-clockwise quarter turns (90°) to rotate a frame for display.

    FFmpeg reports a huge angle for display matrices that are not rotations; they count as 0.
    """
    return round(frame.rotation / 90) % 4 if abs(frame.rotation) <= 360 else 0


def resized_size(width: int, height: int, short: int) -> tuple[int, int]:
    """(width, height) with short side `short`; rounds the long side down, like torchvision."""
    if width <= height:
        return short, max(1, short * height // width)
    return max(1, short * width // height), short


def resize_short(frame: Frame, short: int) -> Frame:
    """Resize the short side to `short`: bilinear with antialiasing, like torchvision on uint8."""
    height, width = frame.shape[:2]
    if min(width, height) == short:
        return np.ascontiguousarray(frame)  # rotated frames and padded rows aren't contiguous
    return _resize(frame, *resized_size(width, height, short))


def to_resized_pixels(item: DecodedFrame, short: int) -> Frame:
    """Convert a frame to RGB with short side `short`, whatever the size at which it was decoded."""
    pixels = to_pixels(item.frame)
    if item.full_size is None:
        return resize_short(pixels, short)
    is_turned = quarter_turns(item.frame) % 2
    width, height = item.full_size[::-1] if is_turned else item.full_size
    return _resize(pixels, *resized_size(width, height, short))


def _resize(frame: Frame, new_width: int, new_height: int) -> Frame:
    from torch import from_numpy
    from torch.nn.functional import interpolate

    image_1CHW = from_numpy(np.ascontiguousarray(frame)).unsqueeze(0).permute(0, 3, 1, 2)
    resized = interpolate(image_1CHW, (new_height, new_width), mode="bilinear", antialias=True)
    return resized[0].permute(1, 2, 0).numpy()


def decode_resized(
    path: Path,
    numbers: IntArray,
    short: int,
    fast: FastDecode | None = None,
    stop: threading.Event | None = None,
) -> tuple[list[Frame], int]:
    """Decode frames of a video file with PyAV, and resize their short side.

    Returns:
        The frames, and how many of them are damaged.
    """
    frames: list[Frame] = []
    num_damaged = 0
    for item in decode_wanted(path, numbers, stop=stop, fast=fast):
        frames.append(to_resized_pixels(item, short))
        num_damaged += item.is_damaged
    if len({frame.shape for frame in frames}) > 1:
        raise VideoError(path, "its frames differ in size")
    return frames, num_damaged


def read_frames(
    path: Path,
    indices: IntArray,
    *,
    size: tuple[int, int] | None = None,
    gray: bool = False,
    accept_damage: bool = True,
) -> NDArray[np.uint8]:
    """See clip_file.read_frames and read_exactly."""
    frames = []
    for item in decode_wanted(path, indices):
        if item.is_damaged and not accept_damage:
            raise VideoError(path, f"frame {item.number} is damaged")
        frames.append(to_pixels(item.frame, size=size, gray=gray))
    if len({frame.shape for frame in frames}) > 1:
        raise VideoError(path, "its frames differ in size")
    return np.stack(frames)
