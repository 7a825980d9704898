"""`engine demo`: everything there is so far, on the synthetic set."""

from pathlib import Path
from typing import Annotated

import typer


def demo(
    out: Annotated[Path, typer.Option(help="New folder for the demo's dataset.")] = Path("demo"),
) -> None:
    """Draw a dataset, split it two ways, check every clip and count the leaks.

    Example: [bold]engine demo --out demo[/bold]
    """
    from engine.commands.data_audit import audit
    from engine.commands.data_check import check
    from engine.commands.data_split import split
    from engine.commands.data_synth import synth

    def say(command: str) -> None:
        print(f"\n$ engine {command}", flush=True)

    say(f"data synth {out} --classes 8 --clips-per-class 25")
    synth(out, classes=8, clips_per_class=25, seed=0)
    say(f"data check {out}")
    check(out, timeout=600)
    for scheme in ("stratified", "grouped"):
        say(f"data split {out} --scheme {scheme}")
        split(out, scheme=scheme, fold=1, seed=0)
    say(f"data audit {out}")
    audit(out, strict=False, look=True, seed=0)
    print(
        "\nThe grouped split is the one to trust. Now your own videos, one folder a class:\n"
        "  engine data index FOLDER\n"
        "  engine data split FOLDER --scheme grouped\n"
        "  engine data check FOLDER"
    )
