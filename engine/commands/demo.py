"""`engine demo`: the whole way on videos that it draws, and one page with the results."""

from pathlib import Path
from typing import Annotated

import typer

NEXT = """
Everything that was made, on one page:

  {page}

Now with your own videos, in one folder a class:

  engine data index my_videos
  engine data split my_videos --scheme grouped
  engine train --data my_videos --model timesformer --preset small --cache cache --out run
  engine label FOLDER --model run --out labels.csv
"""


def demo(
    out: Annotated[Path, typer.Option(help="New folder for all that the demo makes.")] = Path(
        "demo"
    ),
    clips_per_class: Annotated[
        int, typer.Option(min=10, help="Clips to draw for each of 8 classes.")
    ] = 100,
    epochs: Annotated[int, typer.Option(min=1, help="How often training sees each clip.")] = 12,
) -> None:
    """Draw videos, train on them, compile, bench, label a folder; a few minutes without a GPU.

    What each step is for is said before it runs. The page at the end shows the accuracy, what
    was confused, clips/s beside what people use today, and the labels of new videos.

    Example: [bold]engine demo --out demo[/bold]
    """
    from engine.demo import steps
    from engine.errors import UserError

    if out.exists() and any(out.iterdir() if out.is_dir() else [out]):
        raise UserError(f"{out} is there already: remove it, or name another folder with --out.")
    page = steps.run(out, clips_per_class=clips_per_class, epochs=epochs)
    print(NEXT.format(page=page.absolute()))
