"""`read_frames`: decodes selected frames of a video."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dali_pipelines.decode import clip_file
from dali_pipelines.errors import VideoError


def read_frames(
    path: str | Path, numbers: Sequence[int] | NDArray[np.integer]
) -> NDArray[np.uint8]:
    """Decode selected frames of a video, or of a folder of numbered images.

    Frames are counted from 0 in presentation order, regardless of the file's time stamps. Only the
    packets that are needed for these frames are decoded.

    Args:
        path: A video file, or a folder of numbered JPEG or PNG frames.
        numbers: Frame numbers in any order; a number may occur several times.

    Returns:
        RGB frames in the order of `numbers`, as an array (T, H, W, 3); rotation is applied.

    Raises:
        IndexError: The video has no such frame; the message says how many it has.
        VideoError: The file can't be read, or one of the frames is damaged.

    Example:
        >>> engine.read_frames("clip.avi", [0, 8, 16]).shape
        (3, 240, 320, 3)
    """
    path = Path(path)
    indices = np.asarray(numbers)
    if indices.ndim != 1 or (indices.size and indices.dtype.kind not in "iu"):
        raise TypeError(f"numbers must be a list of integers, not {numbers!r}")
    if not indices.size:
        facts = clip_file.probe(path)
        return np.zeros((0, facts.height, facts.width, 3), np.uint8)
    unique, inverse = np.unique(indices.astype(np.int64), return_inverse=True)
    if unique[0] < 0:
        raise _no_such_frame(path, int(unique[0]))
    try:
        frames_THWC = clip_file.read_exactly(path, unique)
    except VideoError:
        if unique[-1] >= clip_file.probe(path).frames:
            raise _no_such_frame(path, int(unique[-1])) from None
        raise
    return frames_THWC if np.array_equal(unique, indices) else frames_THWC[inverse]


def _no_such_frame(path: Path, number: int) -> IndexError:
    count = clip_file.probe(path).frames
    return IndexError(f"{path} has {count:,} frames, 0 to {count - 1:,}; there is no {number:,}")
