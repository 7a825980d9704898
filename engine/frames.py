"""read_frames: the frames of a video by their numbers, and no others."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dali_pipelines.decode import clip_file
from dali_pipelines.errors import VideoError


def read_frames(
    path: str | Path, numbers: Sequence[int] | NDArray[np.integer]
) -> NDArray[np.uint8]:
    """Decode exactly these frames of a video, or of a folder of numbered images.

    Frames are counted from 0 in the order in which a player shows them, whatever the file's time
    stamps say. As little as possible is decoded.

    Args:
        path: A video file, or a folder of numbered JPEG or PNG frames.
        numbers: Frame numbers in any order; a number may come several times.

    Returns:
        RGB frames in the order of `numbers`, as an array (T, H, W, 3); rotation is applied.

    Raises:
        IndexError: There is no such frame. The message says how many there are.
        VideoError: The file can't be read, or a wanted frame is damaged.

    Example:
        >>> engine.read_frames("clip.avi", [0, 8, 16]).shape
        (3, 240, 320, 3)
    """
    path = Path(path)
    wanted = np.asarray(numbers)
    if wanted.ndim != 1 or (wanted.size and wanted.dtype.kind not in "iu"):
        raise TypeError(f"frame numbers are a list of whole numbers, not {numbers!r}")
    if not wanted.size:
        facts = clip_file.probe(path)
        return np.zeros((0, facts.height, facts.width, 3), np.uint8)
    unique, places = np.unique(wanted.astype(np.int64), return_inverse=True)
    if unique[0] < 0:
        raise _no_such_frame(path, int(unique[0]))
    try:
        found = clip_file.read_exactly(path, unique)
    except VideoError:
        if unique[-1] >= clip_file.probe(path).frames:
            raise _no_such_frame(path, int(unique[-1])) from None
        raise
    return found if np.array_equal(unique, wanted) else found[places]


def _no_such_frame(path: Path, number: int) -> IndexError:
    count = clip_file.probe(path).frames
    return IndexError(f"{path} has {count:,} frames, 0 to {count - 1:,}; there is no {number:,}")
