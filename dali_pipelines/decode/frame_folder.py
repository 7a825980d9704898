"""Folders of extracted frames: frame_0001.jpg, frame_0002.jpg, …

Frames are ordered by the number at the end of their name, with or without leading zeros. Gaps are
allowed.
"""

import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dali_pipelines.decode.clip_facts import MAX_PIXELS, ClipFacts, ClipHealth, judge
from dali_pipelines.errors import VideoError
from dali_pipelines.frame_plan import IntArray

CODECS = {".jpg": "jpeg", ".jpeg": "jpeg", ".png": "png"}

_NUMBERED = re.compile(r"(.*?)(\d+)")


def frame_files(folder: Path) -> list[Path]:
    """List the frame files of a folder in order.

    Raises:
        VideoError: The folder can't be read, or its file names give no clear order.
    """
    numbered: list[tuple[int, str, Path]] = []
    prefixes: set[str] = set()
    try:
        paths = list(folder.iterdir())
    except OSError as error:
        raise VideoError(folder, f"can't be opened ({error.strerror})") from error
    unnumbered: list[str] = []
    for path in paths:
        if path.suffix.lower() not in CODECS or path.name.startswith("."):
            continue
        if match := _NUMBERED.fullmatch(path.stem):
            prefixes.add(match[1])
            numbered.append((int(match[2]), path.name, path))
        else:
            unnumbered.append(path.name)
    if not numbered:
        raise VideoError(folder, "it holds no numbered JPEG or PNG frames")
    if len(unnumbered) > 1:  # a single one may be a cover picture
        raise VideoError(folder, f"{min(unnumbered)} and others have no number at their end")
    if len(prefixes) > 1:
        names = ", ".join(sorted(repr(prefix) for prefix in prefixes))
        raise VideoError(folder, f"its frames belong to several series ({names}); keep one")
    numbered.sort()
    for (number, name, _), (next_number, next_name, _) in pairwise(numbered):
        if number == next_number:
            raise VideoError(folder, f"{name} and {next_name} are both frame {number}; remove one")
    return [path for _, _, path in numbered]


def probe(folder: Path) -> ClipFacts:
    """See clip_file.probe."""
    return _facts(frame_files(folder))


def _facts(files: list[Path]) -> ClipFacts:
    with _opened(files[0]) as image:
        width, height = image.size
        mode = image.mode
    return ClipFacts(
        codec=CODECS[files[0].suffix.lower()],
        pixel_format=mode.lower(),
        width=width,
        height=height,
        rotation=0,
        bt601=True,
        fps=0.0,
        variable_rate=False,
        frames_claimed=len(files),
        frames=len(files),
        gop=1,
    )


def check(folder: Path) -> ClipHealth:
    """See clip_file.check."""
    try:
        files = frame_files(folder)
        facts = _facts(files)
    except VideoError as error:
        return ClipHealth(status="bad", reason=error.reason, facts=None)
    damaged: list[str] = []
    odd_sizes: list[str] = []
    for path in files:
        try:
            with _opened(path) as image:
                image.load()
                if image.size != (facts.width, facts.height):
                    odd_sizes.append(f"{path.name} is {image.size[0]}×{image.size[1]}")
        except VideoError:
            damaged.append(f"{path.name} doesn't decode")
    if odd_sizes:
        reason = f"its frames differ in size: {odd_sizes[0]}, not {facts.width}×{facts.height}"
        return ClipHealth(status="bad", reason=reason, facts=facts)
    health = judge(facts, expected=len(files), damaged=len(damaged))
    if health.status == "bad":
        return ClipHealth(status="bad", reason=f"{health.reason}: {damaged[0]}", facts=facts)
    return health


def read_frames(
    folder: Path, indices: IntArray, *, size: tuple[int, int] | None = None, gray: bool = False
) -> NDArray[np.uint8]:
    """See clip_file.read_frames."""
    frames = list(each_frame(folder, indices, size=size, gray=gray))
    if len({frame.shape for frame in frames}) > 1:
        raise VideoError(folder, "its frames differ in size")
    return np.stack(frames)


def each_frame(
    folder: Path, indices: IntArray, *, size: tuple[int, int] | None = None, gray: bool = False
) -> Iterator[NDArray[np.uint8]]:
    """Yield the frames `indices` one by one."""
    files = frame_files(folder)
    if int(indices.max()) >= len(files):
        raise VideoError(folder, f"frame {indices.max()} is wanted but there are {len(files)}")
    for index in indices:
        with _opened(files[index]) as image:
            frame = image.convert("L" if gray else "RGB")
            if size:
                frame = frame.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
            yield np.array(frame)


def encoded(path: Path) -> NDArray[np.uint8]:
    """Read a frame's file without decoding it."""
    with _opened(path):
        return np.fromfile(path, np.uint8)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open an image; any of Pillow's errors for a broken file becomes a VideoError."""
    if not path.is_file():
        raise VideoError(path, "it is not a file")
    try:
        with Image.open(path, formats=("JPEG", "PNG")) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise VideoError(path, f"it claims a frame size of {width:,} × {height:,}")
            yield image
    except Image.DecompressionBombError as error:
        raise VideoError(path, f"its image is too large ({error})") from error
    except VideoError:
        raise
    except (OSError, SyntaxError, ValueError, MemoryError, EOFError, struct.error) as error:
        raise VideoError(path, "it can't be decoded as an image") from error
