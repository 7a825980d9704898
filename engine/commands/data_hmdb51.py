"""`engine data hmdb51`: import HMDB51 from its official archives."""

from pathlib import Path
from typing import Annotated

import typer


def hmdb51(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH",
            help="Folder with hmdb51_org.rar and test_train_splits.rar, or with their unpacked "
            "contents.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="New folder for the dataset.")],
) -> None:
    """Import HMDB51 as it is distributed, with official split 1.

    Example: [bold]engine data hmdb51 ~/Downloads --out hmdb51[/bold]
    """
    from engine.commands.data_summary import print_index
    from engine.data.hmdb51 import import_hmdb51

    imported = import_hmdb51(path, out)
    print_index(imported.index, out)
    if imported.odd_counts:
        print(
            f"note: {len(imported.odd_counts)} split files don't have the published 70 training "
            f"and 30 test clips, the first being {imported.odd_counts[0]}"
        )
    if imported.index.unreadable:
        raise typer.Exit(1)
