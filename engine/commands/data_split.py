"""`engine data split`: decide which clips train, choose and test."""

from pathlib import Path
from typing import Annotated

import typer


def split(
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="Folder of the dataset.")],
    scheme: Annotated[
        str, typer.Option(help="official, stratified, grouped or hmdb-simp; grouped keeps every "
                               "source on one side.")
    ],
    fold: Annotated[int, typer.Option(help="Which official split, 1 to 3.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="The same seed deals the same way.")] = 0,
) -> None:  # fmt: skip
    """Write train, val and test into the manifest, and a CSV of them into splits/.

    Example: [bold]engine data split my_videos --scheme grouped[/bold]
    """
    from engine.data import manifest, splits
    from engine.data.validate import usable_clips
    from engine.errors import UserError, unknown_name

    if scheme not in splits.SCHEMES:
        raise unknown_name("scheme", scheme, list(splits.SCHEMES))
    if fold != 1 and scheme != "official":
        raise UserError(f"--fold belongs to the scheme official, not to {scheme}; leave it out.")
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
