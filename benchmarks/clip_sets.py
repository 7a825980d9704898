"""Folders of videos that a suite measures, and the names that its results give them."""

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
        """What the user typed, without the place of the folder on this machine."""
        own = self.folder.name
        return own if self.name == own else f"{self.name}={own}"

    def sample(self, most: int | None) -> Self:
        """So many of its videos, spread over all."""
        if most is None or len(self.paths) <= most:
            return self
        paths = [self.paths[number] for number in numbers_of(len(self.paths), most, "equidistant")]
        return dataclasses.replace(self, paths=paths)


@dataclass(frozen=True, kw_only=True)
class Clip:
    path: Path
    num_frames: int
    """As a full decode counts them."""


def clip_set(text: str) -> ClipSet:
    """Of an argument FOLDER or NAME=FOLDER."""
    name, _, place = text.rpartition("=")
    folder = Path(text if Path(text).is_dir() else place).resolve()
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
    """The clips that decode to their end, and why the others, by name, don't."""
    whole, broken = [], {}
    for outcome in run_each(count_frames, clips.paths, title=f"{clips.name}: full decode"):
        path = outcome.item
        if outcome.error is not None:
            broken[path.relative_to(clips.folder).as_posix()] = in_words(outcome.error, path)
        elif outcome.value:
            whole.append(Clip(path=path, num_frames=outcome.value))
        else:
            broken[path.relative_to(clips.folder).as_posix()] = "it holds no picture"
    return whole, broken


def numbers_of(num_frames: int, count: int, sampling: Sampling) -> list[int]:
    """Which frames a loader wants of a clip so long: ascending, each once."""
    spec = ClipSpec(num_frames=count, sampling=sampling, short="hold")
    return plan_frames(num_frames, 0.0, spec).source_indices.tolist()


def linked(clips: list[Clip], folder: Path, count: int) -> list[Clip]:
    """So many files, each under a name of its own; files are used again where there are few."""
    made = []
    for number, clip in zip(range(count), itertools.cycle(clips), strict=False):
        path = folder / f"{number:05}{clip.path.suffix}"
        path.symlink_to(clip.path.resolve())
        made.append(Clip(path=path, num_frames=clip.num_frames))
    return made


def in_words(error: Exception, path: Path) -> str:
    """What a library says first, without the place of the file on this machine."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    words = lines[0].removesuffix(" Likely causes:") if lines else type(error).__name__
    return words.replace(str(path), path.name).replace(str(path.resolve()), path.name)
