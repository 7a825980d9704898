"""`engine data check`: the dataset's doctor."""

from pathlib import Path
from typing import Annotated

import typer


def check(
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="Folder of the dataset.")],
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds after which decoding a clip counts as stuck.")
    ] = 600.0,
) -> None:
    """Decode every clip to its end and write health.csv; exit code 1 when some are bad.

    Later commands leave out the clips that are listed as bad, and say how many.

    Example: [bold]engine data check my_videos[/bold]
    """
    import time
    from collections import Counter

    from engine.data import doctor, manifest

    started = time.monotonic()
    checked = doctor.check_dataset(manifest.load(root), timeout_s=timeout)
    took_s = time.monotonic() - started
    codecs = Counter(entry.health.facts.codec for entry in checked if entry.health.facts)
    variable = sum(
        entry.health.facts.variable_rate for entry in checked if entry.health.facts is not None
    )
    recounted = sum(
        entry.health.facts.frames != entry.clip.frames
        for entry in checked
        if entry.health.facts is not None and entry.health.status == "ok"
    )
    bad = [entry for entry in checked if entry.health.status == "bad"]
    print(
        f"{root}: {len(checked):,} clips decoded in {took_s:.1f} s "
        f"({len(checked) / took_s:,.0f} clips/s): "
        f"{', '.join(f'{count:,} {codec}' for codec, count in codecs.most_common())}"
    )
    if variable:
        print(f"{variable:,} clips have a variable frame rate")
    if recounted:
        print(f"{recounted:,} clips decode to another number of frames than their packets say")
    for entry in bad[:20]:
        print(f"bad: {entry.clip.path}: {entry.health.reason}")
    if len(bad) > 20:
        print(f"bad: {len(bad) - 20:,} more in {root / doctor.FILE_NAME}")
    print(f"{len(bad):,} bad; written to {root / doctor.FILE_NAME}")
    if bad:
        raise typer.Exit(1)
