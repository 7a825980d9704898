"""`engine data audit`: test clips that share a source with training clips, or look like one."""

from pathlib import Path
from typing import Annotated

import typer


def audit(
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="Folder of the dataset.")],
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with code 3 if the current split leaks: a "
                                            "test clip shares source and class with a training "
                                            "clip, or looks like one.")
    ] = False,
    look: Annotated[
        bool, typer.Option(help="Also search for test clips that look like a training clip.")
    ] = True,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of the split schemes.")] = 0,
) -> None:  # fmt: skip
    """Count test clips that share a source with training clips, for each split scheme.

    A model can recognize such clips by their scene, so that accuracy is overestimated.

    Example: [bold]engine data audit my_videos --strict[/bold]
    """
    import json

    from engine import atomic
    from engine.commands.data_summary import print_leaks
    from engine.data import manifest, splits
    from engine.data.audit import as_report, compare_schemes, look_alikes
    from engine.errors import RefusedError, UserError

    dataset = manifest.load(root)
    split = splits.current(dataset) != "none"
    if strict and not split:
        raise UserError(f"{root} has no split to audit; run `engine data split {root}` first.")
    leaks = compare_schemes(dataset, seed)
    alike = look_alikes(dataset) if look and split else None
    report = root / "audit.json"
    with atomic.new_text(report) as file:
        file.write(json.dumps(as_report(leaks, alike), indent=2) + "\n")
    print_leaks(leaks, root)
    num_alike = 0
    if alike:
        num_alike = len({pair.test for pair in alike.pairs})
        print(
            f"near-duplicates under the current split: {num_alike:,} test clips look like a "
            f"training clip ({alike.num_compared:,} clips compared, {alike.num_left_out:,} bad or "
            "too plain to compare)"
        )
        for pair in alike.pairs[:5]:
            print(f"  {pair.test} looks like {pair.train}")
    print(f"written to {report}")
    if strict and (leaks[0].same_source_and_class or num_alike):
        raise RefusedError(
            f"the split of {root} leaks: {leaks[0].same_source_and_class:,} of "
            f"{leaks[0].num_test:,} test clips share source and class with training clips, and "
            f"{num_alike:,} look like one; split anew with --scheme grouped, and remove copies."
        )
