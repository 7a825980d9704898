"""manifest.csv: the index of a dataset, with one row for each clip. Its columns are stable.

`source` is the film or upload that a clip was cut from. Clips of one source look alike, so splits
and the leakage audit use it. A dataset is a folder and its manifest.
"""

import csv
import dataclasses
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, cast, get_args

from engine import atomic
from engine.errors import UserError

Split = Literal["train", "val", "test", ""]
"""The empty split means that the current scheme doesn't use the clip."""

FILE_NAME = "manifest.csv"
MAX_FRAMES, MAX_FPS, MAX_SIDE = 10**9, 10**5, 10**6
"""Limits for one clip. Larger values are typing errors, and sampling would rely on them."""


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One row of the manifest."""

    path: str
    """Relative to the dataset's root, with forward slashes; a folder for extracted frames."""
    label: str
    source: str
    split: Split = ""
    frames: int = 0
    """0 if the clip couldn't be opened."""
    fps: float = 0.0
    """0 if the frame rate is unknown."""
    width: int = 0
    height: int = 0
    codec: str = ""


COLUMNS = tuple(field.name for field in dataclasses.fields(Clip))


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The clips of the dataset in the folder `root`."""

    root: Path
    clips: tuple[Clip, ...]

    @property
    def class_names(self) -> list[str]:
        """All labels, sorted; a label's position is its class index."""
        return sorted({clip.label for clip in self.clips})

    def split_counts(self) -> Counter[str]:
        return Counter(clip.split for clip in self.clips)

    def with_splits(self, splits: Iterable[Split]) -> "Manifest":
        clips = zip(self.clips, splits, strict=True)
        return dataclasses.replace(
            self, clips=tuple(dataclasses.replace(clip, split=split) for clip, split in clips)
        )

    def save(self) -> Path:
        """Write manifest.csv atomically and return its path."""
        path = self.root / FILE_NAME
        atomic.write_csv(path, COLUMNS, (dataclasses.astuple(clip) for clip in self.clips))
        return path


def load(root: Path) -> Manifest:
    """Read and check the manifest of the dataset at `root`.

    Raises:
        UserError: The manifest is missing, or a row is invalid; the message names the line.
    """
    if not root.is_dir():
        raise UserError(f"{root} is not a folder; name the folder of a dataset.")
    path = root / FILE_NAME
    if not path.is_file():
        raise UserError(f"{root} holds no {FILE_NAME}; make one with `engine data index {root}`.")
    clips: list[Clip] = []
    first_line: dict[str, int] = {}
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            header = next(reader, [])
            if tuple(header) != COLUMNS:
                raise UserError(
                    f"{path}: the first line must be {','.join(COLUMNS)}; "
                    f"recreate the file with `engine data index {root}`."
                )
            for row in reader:
                clip = _parse_row(path, reader.line_num, row)
                if clip.path in first_line:
                    raise UserError(
                        f"{path} lines {first_line[clip.path]} and {reader.line_num} both name "
                        f"{clip.path}; remove one."
                    )
                first_line[clip.path] = reader.line_num
                clips.append(clip)
        except csv.Error as error:
            raise UserError(f"{path} line {reader.line_num}: not CSV ({error}).") from error
    if not clips:
        raise UserError(f"{path} lists no clips; recreate it with `engine data index {root}`.")
    return Manifest(root=root, clips=tuple(clips))


def _parse_row(path: Path, line: int, row: list[str]) -> Clip:
    def fail(reason: str) -> UserError:
        return UserError(f"{path} line {line}: {reason}; fix the row or index the folder again.")

    if len(row) != len(COLUMNS):
        raise fail(f"{len(row)} values where {len(COLUMNS)} belong")
    cells = dict(zip(COLUMNS, row, strict=True))
    if not cells["label"]:
        raise fail("the label is empty")
    if not is_inside(cells["path"]):
        raise fail(f"the path {cells['path']!r} isn't one inside the dataset's folder")
    if cells["split"] not in get_args(Split):
        raise fail(f"the split {cells['split']!r} is not train, val, test or empty")
    try:
        clip = Clip(
            path=cells["path"],
            label=cells["label"],
            source=cells["source"],
            split=cast(Split, cells["split"]),
            frames=int(cells["frames"]),
            fps=float(cells["fps"]),
            width=int(cells["width"]),
            height=int(cells["height"]),
            codec=cells["codec"],
        )
    except ValueError as error:
        raise fail("frames, fps, width and height must be numbers") from error
    if min(clip.frames, clip.width, clip.height) < 0 or not 0 <= clip.fps < float("inf"):
        raise fail("frames, fps, width and height can't be negative or infinite")
    if clip.frames > MAX_FRAMES or clip.fps > MAX_FPS or max(clip.width, clip.height) > MAX_SIDE:
        raise fail("the number of frames, the fps, the width or the height is impossibly large")
    return clip


def is_inside(path: str) -> bool:
    """True if `path` is relative and stays below the folder that it is relative to."""
    pure = PurePosixPath(path)
    return bool(path) and "\0" not in path and not pure.is_absolute() and ".." not in pure.parts
