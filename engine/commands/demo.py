"""`engine demo`: every step on synthetic videos, and one page with the results."""

from pathlib import Path
from typing import Annotated

import typer

NEXT = """
All results on one page:

  {page}

Next, your own videos, one folder per class:

  engine data index my_videos
  engine data split my_videos --scheme grouped
  engine train --data my_videos --model timesformer --preset small --cache cache --out run
  engine label FOLDER --model run --out labels.csv
"""


def demo(
    out: Annotated[
        Path, typer.Option(help="New folder for everything that the demo writes.")
    ] = Path("demo"),
    clips_per_class: Annotated[
        int, typer.Option(min=10, help="Synthetic clips for each of 8 classes.")
    ] = 100,
    epochs: Annotated[int, typer.Option(min=1, help="Training epochs.")] = 12,
) -> None:
    """Generate videos, train, compile, benchmark and label a folder; a few minutes without a GPU.

    Each step is a normal command and is explained before it runs. The page at the end shows the
    accuracy, confused classes, clips/s beside baselines, and the labels of new videos.

    Example: [bold]engine demo --out demo[/bold]
    """
    from engine.demo import steps
    from engine.errors import UserError

    if out.exists() and any(out.iterdir() if out.is_dir() else [out]):
        raise UserError(f"{out} exists already: remove it, or pass another folder with --out.")
    page = steps.run(out, clips_per_class=clips_per_class, epochs=epochs)
    print(NEXT.format(page=page.absolute()))
