"""Turns a manifest into samples for the loaders; labels are indices into the sorted class names."""

from typing import get_args

from dali_pipelines.loaders.loader_config import Sample
from engine.data.manifest import Manifest, Split
from engine.data.validate import usable_clips
from engine.errors import UserError, unknown_name


def samples_of(manifest: Manifest, split: Split | None = None) -> tuple[list[Sample], int]:
    """Samples of the usable clips of a split.

    Args:
        manifest: The dataset.
        split: `train`, `val` or `test`; None for all clips.

    Returns:
        The samples, and the number of bad clips that were left out. The id of a sample is the
        clip's row in the manifest.

    Raises:
        UserError: The split is unknown or has no usable clip.
    """
    split_names = [name for name in get_args(Split) if name]
    if split is not None and split not in split_names:
        raise unknown_name("split", split, split_names)
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
        missing = f"no clips in its {split} split" if split else "no clips that can be read"
        raise UserError(
            f"{manifest.root} has {missing}; see `engine data split` and `engine data check`."
        )
    return rows, num_bad
