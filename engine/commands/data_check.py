"""`engine data check`: decode every clip of a dataset and list the bad ones."""

from pathlib import Path
from typing import Annotated

import typer


def check(
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="Folder of the dataset.")],
    timeout: Annotated[
        float,
        typer.Option(
            min=0.1, help="Seconds after which a clip counts as bad because decoding it hangs."
        ),
    ] = 600.0,
) -> None:
    """Decode every clip completely and write health.csv; exit code 1 if some are bad.

    Other commands skip the clips that are listed as bad, and print how many.

    Example: [bold]engine data check my_videos[/bold]
    """
    import time
    from collections import Counter

    from engine.data import manifest, validate

    started = time.monotonic()
    checked = validate.check_dataset(manifest.load(root), timeout_s=timeout)
    took_s = time.monotonic() - started
    known = [entry for entry in checked if entry.health.facts is not None]
    facts = [entry.health.facts for entry in known if entry.health.facts is not None]
    codecs = Counter(each.codec for each in facts)
    recounted = sum(
        entry.health.status == "ok" and entry.clip.frames != each.frames
        for entry, each in zip(known, facts, strict=True)
    )
    bad = [entry for entry in checked if entry.health.status == "bad"]
    print(
        f"{root}: {len(checked):,} clips decoded in {took_s:.1f} s "
        f"({len(checked) / took_s:,.0f} clips/s): "
        f"{', '.join(f'{count:,} {codec}' for codec, count in codecs.most_common())}"
    )
    for count, words in (
        (sum(each.variable_rate for each in facts), "have a variable frame rate"),
        (
            sum(each.is_packed for each in facts),
            "are packed bitstreams (DivX, Xvid), which is fine",
        ),
        (sum(each.num_streams > 1 for each in facts), "hold several videos; the first is read"),
        (recounted, f"show another number of frames than {manifest.FILE_NAME} says: index it anew"),
    ):
        if count:
            print(f"{count:,} clips {words}")
    for entry in bad[:20]:
        print(f"bad: {entry.clip.path}: {entry.health.reason}")
    if len(bad) > 20:
        print(f"bad: {len(bad) - 20:,} more in {root / validate.FILE_NAME}")
    print(f"{len(bad):,} bad; written to {root / validate.FILE_NAME}")
    if bad:
        raise typer.Exit(1)
