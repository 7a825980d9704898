"""Common interface to both kinds of clips: video files and folders of extracted frames."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dali_pipelines.decode import frame_folder, pixels, video_file
from dali_pipelines.decode.clip_facts import ClipFacts, ClipHealth
from dali_pipelines.frame_plan import IntArray


def probe(path: Path) -> ClipFacts:
    """Read a clip's metadata without decoding all of it.

    Raises:
        VideoError: The clip can't be read.
    """
    return frame_folder.probe(path) if path.is_dir() else video_file.probe(path)


def check(path: Path) -> ClipHealth:
    """Decode every frame and report the result; a bad clip raises no error."""
    return frame_folder.check(path) if path.is_dir() else video_file.check(path)


def read_frames(
    path: Path, indices: IntArray, *, size: tuple[int, int] | None = None, gray: bool = False
) -> NDArray[np.uint8]:
    """Decode some frames; a damaged frame is returned as it decodes.

    Args:
        path: Video file or frame folder.
        indices: Frame numbers, sorted and unique.
        size: (width, height) before rotation; None keeps the size of the file.
        gray: Return gray instead of RGB frames.

    Returns:
        (T, H, W, 3), or (T, H, W) with `gray`.

    Raises:
        VideoError: The frames can't be read.
    """
    reader: Any = frame_folder if path.is_dir() else pixels
    return reader.read_frames(path, indices, size=size, gray=gray)


def read_exactly(path: Path, indices: IntArray) -> NDArray[np.uint8]:
    """Decode some frames as RGB; raises VideoError if one of them is damaged."""
    if path.is_dir():
        return frame_folder.read_frames(path, indices)
    return pixels.read_frames(path, indices, accept_damage=False)
