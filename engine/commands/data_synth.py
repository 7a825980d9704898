"""`engine data synth`: generate a small synthetic dataset."""

from pathlib import Path
from typing import Annotated

import typer


def synth(
    out: Annotated[Path, typer.Argument(metavar="DIR", help="New folder for the dataset.")],
    classes: Annotated[int, typer.Option(help="Number of classes, 2 to 10.")] = 8,
    clips_per_class: Annotated[int, typer.Option(help="Clips per class.")] = 50,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
) -> None:
    """Generate a dataset of moving figures whose classes differ only in their motion.

    Folders, names and encoding are those of HMDB51: MPEG-4 with packed B-frames, several sizes.

    Example: [bold]engine data synth moves --classes 8 --clips-per-class 50[/bold]
    """
    from engine.commands.data_summary import print_index
    from engine.data.synthetic import make_dataset

    index = make_dataset(out, num_classes=classes, clips_per_class=clips_per_class, seed=seed)
    print_index(index, out)
    print(f"next: engine data split {out} --scheme grouped")
