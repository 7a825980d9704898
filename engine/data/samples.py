"""From a dataset's manifest to the rows that the loaders take; labels number the sorted classes."""

from typing import get_args

from dali_pipelines.loaders.loader_config import Sample
from engine.data.manifest import Manifest, Split
from engine.data.validate import usable_clips
from engine.errors import UserError, unknown_name


def samples_of(manifest: Manifest, split: Split | None = None) -> tuple[list[Sample], int]:
    """The usable clips of one part (None: of all), and how many bad ones were left out.

    A row's id is the clip's place in the manifest.
    """
    parts = [part for part in get_args(Split) if part]
    if split is not None and split not in parts:
        raise unknown_name("part of a split", split, parts)
    usable = {clip.path for clip in usable_clips(manifest).clips}
    label_of = {name: number for number, name in enumerate(manifest.class_names)}
    rows: list[Sample] = []
    num_bad = 0
    for number, clip in enumerate(manifest.clips):
        if split is not None and clip.split != split:
            continue
        if clip.path not in usable:
            num_bad += 1
            continue
        rows.append(
            Sample(
                id=number,
                path=manifest.root / clip.path,
                label=label_of[clip.label],
                frames=clip.frames,
                fps=clip.fps,
                width=clip.width,
                height=clip.height,
                codec=clip.codec,
            )
        )
    if not rows:
        what = f"no clips in its {split} part" if split else "no clips that can be read"
        raise UserError(
            f"{manifest.root} has {what}; see `engine data split` and `engine data check`."
        )
    return rows, num_bad
