"""`engine data synth`: a dataset of moving figures, to try everything on."""

from pathlib import Path
from typing import Annotated

import typer


def synth(
    out: Annotated[Path, typer.Argument(metavar="DIR", help="New folder for the dataset.")],
    classes: Annotated[int, typer.Option(help="How many motions, 2 to 10.")] = 8,
    clips_per_class: Annotated[int, typer.Option(help="Clips in each class.")] = 50,
    seed: Annotated[int, typer.Option(help="The same seed draws the same videos.")] = 0,
) -> None:
    """Draw a synthetic dataset in HMDB51's layout, whose classes only motion tells apart.

    Its videos are encoded as HMDB51's are: MPEG-4 with packed B-frames, in several sizes.

    Example: [bold]engine data synth moves --classes 8 --clips-per-class 50[/bold]
    """
    from engine.commands.data_summary import print_index
    from engine.data.synthetic import make_dataset

    index = make_dataset(out, num_classes=classes, clips_per_class=clips_per_class, seed=seed)
    print_index(index, out)
    print(f"next: engine data split {out} --scheme grouped")
