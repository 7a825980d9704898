"""Checks a dataset: decodes every clip to its end and writes health.csv.

Training and labeling use `usable_clips` and report how many clips were left out; bad clips are
never replaced by others.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dali_pipelines.decode import clip_file
from dali_pipelines.decode.clip_facts import ClipHealth
from engine import atomic
from engine.data.manifest import Clip, Manifest
from engine.errors import UserError
from engine.parallel import run_each

FILE_NAME = "health.csv"
COLUMNS = tuple(
    "path status reason codec pixel_format width height rotation fps frame_rate frames_claimed "
    "frames gop loaders notes".split()
)
TIMEOUT_S = 600.0


@dataclass(frozen=True, kw_only=True)
class Checked:
    """The result of checking one clip."""

    clip: Clip
    health: ClipHealth


@dataclass(frozen=True, kw_only=True)
class Usable:
    """The clips of a dataset without the bad ones."""

    clips: tuple[Clip, ...]
    num_bad: int
    """Clips that health.csv lists as bad, and clips that could not be opened when indexing."""

    def describe(self) -> str:
        """The number of clips and, if any, of bad ones, for messages."""
        if not self.num_bad:
            return f"{len(self.clips):,} clips"
        return f"{len(self.clips):,} clips; {self.num_bad:,} bad left out"


def check_dataset(manifest: Manifest, *, timeout_s: float = TIMEOUT_S) -> list[Checked]:
    """Decode every clip and write health.csv.

    Args:
        manifest: The dataset.
        timeout_s: Seconds after which a clip counts as bad.

    Returns:
        One result for each clip, in the order of the manifest.
    """
    checked = list(_examine(manifest, timeout_s))
    atomic.write_csv(manifest.root / FILE_NAME, COLUMNS, map(_row, checked))
    return checked


def usable_clips(manifest: Manifest) -> Usable:
    """The clips that have frames and that the last check, if any, didn't list as bad."""
    bad = _bad_paths(manifest.root / FILE_NAME)
    clips = tuple(clip for clip in manifest.clips if clip.frames and clip.path not in bad)
    return Usable(clips=clips, num_bad=len(manifest.clips) - len(clips))


def _examine(manifest: Manifest, timeout_s: float) -> Iterator[Checked]:
    outcomes = run_each(
        partial(_check, manifest.root), manifest.clips, title="Checking", timeout_s=timeout_s
    )
    for outcome in outcomes:
        health = outcome.value or ClipHealth(status="bad", reason=str(outcome.error), facts=None)
        yield Checked(clip=outcome.item, health=health)


def _check(root: Path, clip: Clip) -> ClipHealth:
    return clip_file.check(root / clip.path)


def _row(checked: Checked) -> list[str | int | float]:
    health, facts = checked.health, checked.health.facts
    columns: list[str | int | float] = [""] * 10
    if facts:
        columns = [
            facts.codec,
            facts.pixel_format,
            facts.width,
            facts.height,
            facts.rotation,
            facts.fps,
            "variable" if facts.variable_rate else "constant",
            facts.frames_claimed,
            facts.frames,
            facts.gop,
        ]
    notes = "; ".join(facts.notes()) if facts else ""
    loaders = " ".join(health.loaders)
    return [checked.clip.path, health.status, health.reason, *columns, loaders, notes]


def _bad_paths(path: Path) -> set[str]:
    if not path.is_file():
        return set()
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        reader = csv.DictReader(file)
        # Files of older versions have no notes.
        if tuple(reader.fieldnames or ()) not in (COLUMNS, COLUMNS[:-1]):
            raise UserError(f"{path} is damaged; run `engine data check {path.parent}` again.")
        return {row["path"] for row in reader if row["status"] == "bad"}
