"""`engine evaluate`: accuracy of one or more runs on held-out clips."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from engine.file_names import folded, last_name

if TYPE_CHECKING:
    from engine.evaluation.results import Evaluated

FOLDS = {"1", "2", "3"}


def evaluate(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Folders of runs, checkpoints, or artifacts."),
    ],
    data: Annotated[
        Path | None, typer.Option(help="Folder of the dataset. Default: the run's own.")
    ] = None,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    views: Annotated[
        str, typer.Option(help="Views per video as CLIPSxCROPS, averaged; papers often use 10x3.")
    ] = "1x1",
    splits: Annotated[
        str | None,
        typer.Option(
            help="official: mean and standard deviation of three runs, one per HMDB51 split."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the report. Default: RUN/evaluation, or RUN/evaluation-SPLIT-VIEWS. "
            "Required for several runs."
        ),
    ] = None,
    loader: Annotated[str | None, typer.Option(help="dali or torch.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Videos in a batch.")] = 16,
    device: Annotated[str, typer.Option(help="auto, gpu or cpu.")] = "auto",
) -> None:
    """Test the best checkpoint of each run; write a report as JSON, CSV and one HTML page.

    The test clips are those of the split that the run was trained with, even if the dataset was
    split again since. Several runs appear side by side. For a folder of engine train --folds, each
    clip is tested by the run of its fold, and the results are pooled.

    Example: [bold]engine evaluate run --data my_videos --split test --views 5x3[/bold]

    Example: [bold]engine evaluate folds[/bold]
    """
    from engine import api
    from engine.errors import UserError
    from engine.evaluation import report
    from engine.evaluation.clips import parse_views
    from engine.training.fold_runs import is_folder_of_folds

    if any(map(is_folder_of_folds, runs)):
        if len(runs) > 1 or split != "test" or splits is not None:
            raise UserError(
                "a folder of folds is tested alone, on the test clips of its folds: leave out "
                "other runs, --split and --splits."
            )
        raise typer.Exit(
            _evaluate_folds(
                runs[0], out, data=data, views=views, loader=loader, batch_size=batch_size,
                device=device,
            )
        )  # fmt: skip
    if len(runs) > 1 and out is None:
        raise UserError("several runs share one report: pass a folder for it with --out.")
    num_clips, num_crops = parse_views(views)
    evaluated = [
        api.evaluate(
            run, data=data, split=cast(Any, split), views=views, name=name,
            loader=cast(Any, loader), batch_size=batch_size,
            device=cast(Any, device), log=print,
        )
        for run, name in zip(runs, _names(runs), strict=True)
    ]  # fmt: skip
    if splits is not None:
        _check_folds(splits, evaluated)
    _print(evaluated)
    for each in evaluated:
        if each.predictions.damage:
            print(f"{each.name}: {each.predictions.damage}")
    folder = out or report.folder_of(
        runs[0],
        split=split,
        views=f"{num_clips}x{num_crops}",
        data=None if all(each.are_own_clips for each in evaluated) else data,
    )
    print(f"written to {report.write(folder, evaluated)}")
    for run, each in zip(runs, evaluated, strict=True):
        _track(run, each, [folder / report.REPORT, folder / "report.html"])
    failed = sum(len(each.predictions.failures) for each in evaluated)
    raise typer.Exit(1 if failed else 0)


def _evaluate_folds(out: Path, folder: Path | None, *, views: str, **settings: Any) -> int:
    """Test a folder of folds, print and write the results, and return the exit code."""
    from engine.cross_validation import evaluate_folds
    from engine.evaluation import report
    from engine.evaluation.clips import parse_views

    results = evaluate_folds(out, views=views, log=print, **settings)
    _print([results.pooled], results.folds)
    if results.pooled.predictions.damage:
        print(results.pooled.predictions.damage)
    views = "{}x{}".format(*parse_views(views))
    folder = folder or report.folder_of(out, split="test", views=views)
    print(f"written to {report.write(folder, [results.pooled], results.folds)}")
    files = [folder / report.REPORT, folder / "report.html"]
    _track(out, results.pooled, files)
    for fold in results.folds:
        _track(out / fold.name, fold, [])
    return 1 if results.pooled.predictions.failures else 0


def _track(run: Path, evaluated: "Evaluated", files: list[Path]) -> None:
    """Add the metrics, such as test_top1, and the report to the run in its trackers."""
    from engine.evaluation.page import HEADLINES
    from engine.tracking.tracking import add_results

    if not evaluated.are_own_clips:  # another dataset's metrics would have the same names
        return
    protocol = evaluated.protocol
    views = protocol.views.replace(" × ", "x")
    before = protocol.split if views == "1x1" else f"{protocol.split}_{views}"
    scores = {f"{before}_{name}": float(evaluated.scores[name]) for name in HEADLINES}
    add_results(run, scores, files, log=print)


def _names(runs: list[Path]) -> list[str]:
    """Of the runs' folders in the report: no two are alike, on any file system."""
    given = [last_name(run) or "run" for run in runs]
    looks = list(map(folded, given))
    taken = {look for look in looks if looks.count(look) == 1}
    names = []
    for number, (name, look) in enumerate(zip(given, looks, strict=True), 1):
        if looks.count(look) > 1:
            numbered = (f"{name}-{each}" for each in itertools.count(number))
            name = next(each for each in numbered if folded(each) not in taken)
            taken.add(folded(name))
        names.append(name)
    return names


def _check_folds(splits: str, evaluated: "list[Evaluated]") -> None:
    import re

    from engine.errors import UserError, unknown_name

    if splits != "official":
        raise unknown_name("--splits", splits, ["official"])
    schemes = [each.protocol.scheme for each in evaluated]
    folds = {found[1] for each in schemes if (found := re.match(r"official.*fold (\d)", each))}
    if folds != FOLDS or len(evaluated) != len(FOLDS):
        raise UserError(
            "--splits official takes three runs, one trained under each fold of the official "
            f"splits; these were trained under {', '.join(schemes)}."
        )


def _print(evaluated: "list[Evaluated]", folds: "Sequence[Evaluated]" = ()) -> None:
    """Print a table of the runs, with the mean over repeated runs or over folds."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from engine.evaluation.page import HEADLINES, PERCENT, spread
    from engine.evaluation.results import are_repeats

    repeats = folds or (evaluated if are_repeats(evaluated) else [])
    table = Table()
    table.add_column("")
    columns = [(each, level) for each in evaluated for level in each.levels]
    for each, level in columns:
        table.add_column(f"{escape(each.name)}\neach {level}", justify="right")
    if repeats:
        over = f"over {len(folds)} folds" if folds else "of videos"
        table.add_column(f"mean ± std\n{over}", justify="right")
    for key, words in HEADLINES.items():
        cells = [
            f"{each.levels[level][key]:.1%}" if key in PERCENT else f"{each.levels[level][key]:.3f}"
            for each, level in columns
        ]
        if repeats:
            cells.append(spread([each.levels["video"][key] for each in repeats], key in PERCENT))
        table.add_row(words, *cells)
    table.add_row(
        "top-1, 95%",
        *(
            "{:.1%} – {:.1%}".format(*each.levels[level]["top1_interval"])
            for each, level in columns
        ),
    )
    Console().print(table)
    for each in evaluated:
        p = each.protocol
        print(
            f"{each.name}: {p.num_clips:,} clips of {p.split} ({p.scheme}), {p.num_failed} failed; "
            f"views {p.views} of {p.frames}; {p.checkpoint}, chosen by {p.chosen_by}; {p.device}"
        )
