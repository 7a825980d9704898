"""Generates a synthetic dataset with HMDB51's layout, file names and split files.

Clips of one source share the figure, the background and the size, and most sources belong to one
class, as in real datasets. So a model that memorizes backgrounds has a high accuracy under a split
that ignores sources, and a low one under a split by sources.
"""

import itertools
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from engine import atomic
from engine.data import hmdb51, hmdb51_splits
from engine.data.index import Index
from engine.data.synthetic_video import (
    MOTIONS,
    NOISE_BY_QUALITY,
    SIZES,
    Quality,
    draw_scene,
    write_clip,
    write_film,
)
from engine.errors import UserError
from engine.parallel import run_each
from engine.progress import progress_bar

CLIPS_PER_SOURCE = 5
SHARED_SOURCES = 0.2
"""Share of a class's sources that a second class has, too."""
TEST_FRACTION = 0.3
DECORATIONS = ("", "_(part_2)", "_[uncut]", "_&_friends", "#1", "+extra", ";b", "!", "~", "@home")
"""Suffixes of real source names that break naive matching."""
TITLES = (None, None, "Película".encode("latin-1"), None)
"""Titles in the metadata, cycled over the sources. Real ones aren't always UTF-8 either."""


@dataclass(frozen=True, kw_only=True)
class ClipPlan:
    """All that determines the content and the name of one clip."""

    label: str
    source: str
    size: tuple[int, int]
    title: bytes | None
    scene_seed: tuple[int, ...]
    clip_seed: tuple[int, ...]
    quality: Quality
    number: int

    @property
    def file_name(self) -> str:
        return f"{self.source}_{self.label}_f_nm_np1_fr_{self.quality}_{self.number}.avi"


def make_dataset(out: Path, *, num_classes: int, clips_per_class: int, seed: int) -> Index:
    """Write `out/videos`, split files and the manifest; on an error nothing is left behind.

    Raises:
        UserError: A number is out of range, or `out` can't be written.
    """
    if not 2 <= num_classes <= len(MOTIONS):
        raise UserError(f"`classes` takes 2 to {len(MOTIONS)}, not {num_classes}.")
    if clips_per_class < 3:
        raise UserError(f"`clips_per_class` must be at least 3, not {clips_per_class}.")
    if seed < 0:
        raise UserError(f"`seed` can't be negative, not {seed}.")
    plans = plan_clips(list(MOTIONS)[:num_classes], clips_per_class, seed)
    with atomic.new_folder(out) as stage:
        for label in {plan.label for plan in plans}:
            (stage / "videos" / label).mkdir(parents=True)
        outcomes = run_each(partial(_write, stage), plans, title="Drawing videos")
        for outcome in outcomes:
            if outcome.error:
                raise UserError(f"{out} can't be written ({outcome.error}); is the disk full?")
        _write_split_files(stage / hmdb51_splits.FOLDER, plans, seed)
        index = hmdb51.index_stage(stage)
    return index.moved_to(out)


@dataclass(frozen=True, kw_only=True)
class Film:
    """A long video that shows several motions."""

    name: str
    motions: list[str]
    """In order of time, each for `FILM_PART_S`."""


def make_folder(out: Path, *, num_classes: int, seed: int = 0) -> Film:
    """Write unlabeled videos: one clip of each class, one film of all classes, one broken file.

    Their scenes are not in any dataset of `make_dataset`.
    """
    labels = list(MOTIONS)[:num_classes]
    film = Film(name="film.avi", motions=labels[::2] + labels[1::2])
    rng = np.random.default_rng((seed, 3))
    with (
        atomic.new_folder(out) as stage,
        progress_bar("Drawing new videos", total=num_classes + 1, unit="videos") as advance,
    ):
        for label, size in zip(labels, itertools.cycle(SIZES), strict=False):
            write_clip(stage / f"{label}.avi", label, draw_scene(rng, size), "med", rng)
            advance()
        write_film(stage / film.name, film.motions, draw_scene(rng, SIZES[0]), "med", rng)
        advance()
        whole = (stage / f"{labels[0]}.avi").read_bytes()
        (stage / "broken.avi").write_bytes(whole[: len(whole) // 100])
    return film


def plan_clips(labels: list[str], clips_per_class: int, seed: int) -> list[ClipPlan]:
    """Plan all clips. Sources belong to one class, except for a few that two classes share."""
    plans = []
    num_sources = max(3, round(clips_per_class / CLIPS_PER_SOURCE))
    qualities: list[Quality] = list(NOISE_BY_QUALITY)
    for class_index, label in enumerate(labels):
        for clip_index in range(clips_per_class):
            number, slot = divmod(clip_index, num_sources)
            shared = slot < round(num_sources * SHARED_SOURCES)
            owner = class_index // 2 * 2 if shared else class_index
            source_id = owner * num_sources + slot
            plans.append(
                ClipPlan(
                    label=label,
                    source=f"Reel_{source_id:03d}{DECORATIONS[source_id % len(DECORATIONS)]}",
                    size=SIZES[source_id % len(SIZES)],
                    title=TITLES[source_id % len(TITLES)],
                    scene_seed=(seed, 0, source_id),
                    clip_seed=(seed, 1, class_index, clip_index),
                    quality=qualities[source_id % len(qualities)],
                    number=number,
                )
            )
    return plans


def _write(stage: Path, plan: ClipPlan) -> None:
    write_clip(
        stage / "videos" / plan.label / plan.file_name,
        plan.label,
        draw_scene(np.random.default_rng(plan.scene_seed), plan.size),
        plan.quality,
        np.random.default_rng(plan.clip_seed),
        title=plan.title,
    )


def _write_split_files(folder: Path, plans: list[ClipPlan], seed: int) -> None:
    """Write split files in which no test clip has both class and source of a training clip."""
    folder.mkdir()
    for label in sorted({plan.label for plan in plans}):
        members = [plan for plan in plans if plan.label == label]
        sources = sorted({plan.source for plan in members})
        for fold in hmdb51_splits.FOLDS:
            rng = np.random.default_rng((seed, 2, fold, list(MOTIONS).index(label)))
            room = round(len(members) * TEST_FRACTION)
            test_sources: set[str] = set()
            for source in rng.permutation(sources):
                size = sum(plan.source == source for plan in members)
                if size <= room or not test_sources:
                    test_sources.add(source)
                    room -= size
            lines = [
                f"{plan.file_name} {2 if plan.source in test_sources else 1} \n" for plan in members
            ]
            (folder / f"{label}_test_split{fold}.txt").write_text("".join(lines), "utf-8")
