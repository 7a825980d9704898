"""`engine data index`: find the clips in a folder and write its manifest."""

from pathlib import Path
from typing import Annotated

import typer


def index(
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="Folder of the dataset.")],
    list_files: Annotated[
        list[Path] | None,
        typer.Option("--list", help="Read clips and labels from this list (CSV, Kinetics, UCF101); "
                                    "may be repeated."),
    ] = None,
    skip_missing: Annotated[
        bool, typer.Option("--skip-missing", help="Ignore listed clips that don't exist.")
    ] = False,
    frames_fps: Annotated[
        float, typer.Option("--frames-fps", min=0, help="Frame rate of extracted frames.")
    ] = 0.0,
) -> None:  # fmt: skip
    """Write manifest.csv: label, source, split, frames, frame rate, size and codec of each clip.

    ROOT contains <class>/<video>, or train|val|test/<class>/<video>. A folder of numbered JPEG or
    PNG files counts as a video, too.

    Example: [bold]engine data index my_videos[/bold]

    Example: [bold]engine data index ucf101 --list trainlist01.txt --list testlist01.txt[/bold]
    """
    import math

    from engine.commands.data_summary import print_index
    from engine.data.index import index_folder, save
    from engine.errors import UserError

    if not math.isfinite(frames_fps):
        raise UserError(f"--frames-fps must be a rate, not {frames_fps}.")
    found = index_folder(
        root, list_files=list_files, skip_missing=skip_missing, frames_fps=frames_fps
    )
    save(found)
    print_index(found, root)
    if not any(clip.split for clip in found.manifest.clips):
        print(f"next: engine data split {root} --scheme grouped")
    if found.unreadable:
        raise typer.Exit(1)
