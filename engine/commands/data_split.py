"""`engine data split`: divide a dataset into train, val and test."""

from pathlib import Path
from typing import Annotated

import typer


def split(
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="Folder of the dataset.")],
    scheme: Annotated[
        str, typer.Option(help="official, stratified, grouped or hmdb-simp; grouped keeps all "
                               "clips of a source in one split.")
    ],
    fold: Annotated[int, typer.Option(help="Number of the official split, 1 to 3.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Random seed.")] = 0,
) -> None:  # fmt: skip
    """Assign each clip to train, val or test; written to manifest.csv and to splits/.

    Example: [bold]engine data split my_videos --scheme grouped[/bold]
    """
    from engine.data import manifest, splits
    from engine.data.validate import usable_clips
    from engine.errors import UserError, unknown_name

    if scheme not in splits.SCHEMES:
        raise unknown_name("scheme", scheme, list(splits.SCHEMES))
    if fold != 1 and scheme != "official":
        raise UserError("--fold only goes with --scheme official: leave it out.")
    settings = {"seed": seed} | ({"fold": fold} if scheme == "official" else {})
    dataset = splits.apply(manifest.load(root), splits.SCHEMES[scheme](**settings))
    counts = dataset.split_counts()
    unused = f", {counts['']:,} unused" if counts[""] else ""
    print(
        f"{root}: {splits.current(dataset)}: {counts['train']:,} train, {counts['val']:,} val, "
        f"{counts['test']:,} test{unused}, from {usable_clips(dataset).describe()}"
    )
    for label in dataset.class_names:
        present = {clip.split for clip in dataset.clips if clip.label == label}
        if lacking := [part for part in splits.PARTS if part not in present and present != {""}]:
            print(f"note: {label} has too few clips or sources for one in {' and '.join(lacking)}")
    print(f"next: engine data audit {root}")
