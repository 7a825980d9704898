"""From decoded frames to RGB pixels of the size that is wanted.

The matrix (BT.601, BT.709, …) and the range (limited or full) are those that the file states; a
file that states none counts as BT.601 in limited range, as FFmpeg and NVDEC take it.

On a CPU frames are converted at their own size and then resized by torch's kernel for bytes, which
is the reference loader's own: FFmpeg's scaler in one step is slower and blurs color edges, and
DALI's on a CPU takes four times as long (benchmarks/README.md).
"""

import threading
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from dali_pipelines.decode.wanted_frames import decode_wanted
from dali_pipelines.errors import VideoError
from dali_pipelines.frame_plan import IntArray

Frame = NDArray[np.uint8]
"""(H, W, 3), or (H, W) in gray."""

_of_thread = threading.local()


def to_pixels(
    frame: av.VideoFrame, *, size: tuple[int, int] | None = None, gray: bool = False
) -> Frame:
    """`size` is (width, height) before rotation, scaled by FFmpeg; None keeps the file's own."""
    if not hasattr(_of_thread, "reformatter"):  # it keeps FFmpeg's tables, and isn't thread-safe
        _of_thread.reformatter = VideoReformatter()
    width, height = size or (None, None)
    reformatter: VideoReformatter = _of_thread.reformatter
    converted = reformatter.reformat(
        frame, width=width, height=height, format="gray" if gray else "rgb24", threads=1
    )
    return np.rot90(converted.to_ndarray(), quarter_turns(frame))


def quarter_turns(frame: av.VideoFrame) -> int:
    """By how many quarters, counter-clockwise, a frame is to be turned for display.

    A file may state a matrix that is no rotation at all, of which FFmpeg makes a huge number.
    """
    return round(frame.rotation / 90) % 4 if abs(frame.rotation) <= 360 else 0


def resized_size(width: int, height: int, short: int) -> tuple[int, int]:
    """(width, height) with the short side `short`; the long side rounds down, as torchvision's."""
    if width <= height:
        return short, max(1, short * height // width)
    return max(1, short * width // height), short


def resize_short(frame: Frame, short: int) -> Frame:
    """Bilinear with antialiasing: what torchvision's resize does to bytes."""
    from torch import from_numpy
    from torch.nn.functional import interpolate

    height, width = frame.shape[:2]
    if min(width, height) == short:
        return np.ascontiguousarray(frame)  # a turned frame, or one with padded rows, isn't
    new_width, new_height = resized_size(width, height, short)
    image_1CHW = from_numpy(np.ascontiguousarray(frame)).unsqueeze(0).permute(0, 3, 1, 2)
    resized = interpolate(image_1CHW, (new_height, new_width), mode="bilinear", antialias=True)
    return resized[0].permute(1, 2, 0).numpy()


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
        raise VideoError(path, "its picture changes size midway")
    return np.stack(frames)
