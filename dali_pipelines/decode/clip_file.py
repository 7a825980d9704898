"""One face for what a clip may be on disk: a video file, or a folder of extracted frames."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dali_pipelines.decode import frame_folder, pixels, video_file
from dali_pipelines.decode.clip_facts import ClipFacts, ClipHealth
from dali_pipelines.frame_plan import IntArray


def probe(path: Path) -> ClipFacts:
    """What the clip says of itself, without decoding all of it."""
    return frame_folder.probe(path) if path.is_dir() else video_file.probe(path)


def check(path: Path) -> ClipHealth:
    """Decode every frame and say what was found; never raises for a bad clip."""
    return frame_folder.check(path) if path.is_dir() else video_file.check(path)


def read_frames(
    path: Path, indices: IntArray, *, size: tuple[int, int] | None = None, gray: bool = False
) -> NDArray[np.uint8]:
    """The frames `indices` (sorted, each once) as (T, H, W, 3), or (T, H, W) in gray.

    `size` is (width, height) before rotation; None keeps the file's own.
    """
    reader: Any = frame_folder if path.is_dir() else pixels
    return reader.read_frames(path, indices, size=size, gray=gray)


def read_exactly(path: Path, indices: IntArray) -> NDArray[np.uint8]:
    """The same, or a VideoError where one of them is damaged."""
    if path.is_dir():
        return frame_folder.read_frames(path, indices)
    return pixels.read_frames(path, indices, accept_damage=False)
