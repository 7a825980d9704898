"""Folders of videos to measure on, and their names in the results."""

import argparse
import dataclasses
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from benchmarks.full_decode import count_frames
from dali_pipelines.sampling import plan_frames
from dali_pipelines.spec import ClipSpec, Sampling
from engine.data.folders import VIDEO_SUFFIXES
from engine.parallel import run_each


@dataclass(frozen=True, kw_only=True)
class ClipSet:
    name: str
    folder: Path
    paths: list[Path]
    """Every video below the folder."""

    @property
    def argument(self) -> str:
        """The command line argument, without the parent folders on this machine."""
        folder_name = self.folder.name
        return folder_name if self.name == folder_name else f"{self.name}={folder_name}"

    def sample(self, max_videos: int | None) -> Self:
        """Return at most this many videos, evenly spread over all."""
        if max_videos is None or len(self.paths) <= max_videos:
            return self
        numbers = numbers_of(len(self.paths), max_videos, "equidistant")
        paths = [self.paths[number] for number in numbers]
        return dataclasses.replace(self, paths=paths)


@dataclass(frozen=True, kw_only=True)
class Clip:
    path: Path
    num_frames: int
    """Number of frames of a full decode."""


def add_clips_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--clips", type=clip_set, action="append", required=True, metavar="[NAME=]FOLDER",
        help="a folder of videos, at any depth; may be given several times",
    )  # fmt: skip


def clip_set(text: str) -> ClipSet:
    """Parse an argument FOLDER or NAME=FOLDER."""
    name, _, path = text.rpartition("=")
    folder = Path(text if Path(text).is_dir() else path).resolve()
    if not folder.is_dir():
        raise argparse.ArgumentTypeError(f"{text}: there is no such folder")
    paths = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file()
    )
    if not paths:
        raise argparse.ArgumentTypeError(f"{text}: there are no videos below this folder")
    return ClipSet(
        name=(not Path(text).is_dir() and name) or folder.name, folder=folder, paths=paths
    )


def decoded_clips(clips: ClipSet) -> tuple[list[Clip], dict[str, str]]:
    """Return the clips that decode to their end, and the names of others with the reason."""
    intact, broken = [], {}
    for outcome in run_each(count_frames, clips.paths, title=f"{clips.name}: full decode"):
        path = outcome.item
        if outcome.error is not None:
            broken[path.relative_to(clips.folder).as_posix()] = first_line(outcome.error, path)
        elif outcome.value:
            intact.append(Clip(path=path, num_frames=outcome.value))
        else:
            broken[path.relative_to(clips.folder).as_posix()] = "it has no frames"
    return intact, broken


def numbers_of(num_frames: int, count: int, sampling: Sampling) -> list[int]:
    """Return the ascending frame numbers that a loader samples from a clip of this length."""
    spec = ClipSpec(num_frames=count, sampling=sampling, short="hold")
    return plan_frames(num_frames, 0.0, spec).source_indices.tolist()


def linked(clips: list[Clip], folder: Path, count: int) -> list[Clip]:
    """Make `count` symbolic links to clips, which are repeated if there are fewer."""
    links = []
    for number, clip in zip(range(count), itertools.cycle(clips), strict=False):
        path = folder / f"{number:05}{clip.path.suffix}"
        path.symlink_to(clip.path.resolve())
        links.append(Clip(path=path, num_frames=clip.num_frames))
    return links


def first_line(error: Exception, path: Path) -> str:
    """Return the first line of an error message, without the folder of the file."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    line = lines[0].removesuffix(" Likely causes:") if lines else type(error).__name__
    return line.replace(str(path), path.name).replace(str(path.resolve()), path.name)
