"""`engine study` and `engine reproduce`: train many configurations and compare them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from engine.experiments.experiment import Experiment

DATA = typer.Option(help="Folder of the dataset; its splits are not changed.")
OUT = typer.Option(help="Folder of runs and results; finished runs are not repeated.")
SET = typer.Option("--set", help="Override a setting of the file, as KEY=VALUE; may be repeated.")
CACHE = typer.Option(help="Keep decoded frames in this folder for later epochs and runs.")
DEVICE = typer.Option(help="auto, gpu or cpu.")
TRACK = typer.Option(
    help="Where the metrics of each run go: tensorboard, mlflow or wandb, several with commas; see "
    "engine train.",
)
SCHEME = typer.Option(help="Split scheme instead of the file's; folds cross-validates.")


def study(
    file: Annotated[
        str, typer.Argument(metavar="STUDY", help="A TOML file, or the name of a shipped study.")
    ],
    data: Annotated[Path, DATA],
    out: Annotated[Path, OUT],
    set_: Annotated[list[str] | None, SET] = None,
    scheme: Annotated[str | None, SCHEME] = None,
    cache: Annotated[Path | None, CACHE] = None,
    track: Annotated[list[str] | None, TRACK] = None,
    device: Annotated[str, DEVICE] = "auto",
) -> None:
    r"""Train every combination of settings in a file and compare the results.

    The file contains \[train] with settings, and \[vary] with lists or \[search] with ranges for
    Optuna; see engine/recipes for examples. If it is stopped, the same command continues.

    Example: [bold]engine study study-sampling --data my_videos --scheme grouped
    --set preset=small --out study[/bold]
    """
    from engine.experiments.experiment import Experiment

    experiment = Experiment.load(file)
    _run(experiment, data, out, set_ or [], scheme, cache, track, device)


def reproduce(
    recipe: Annotated[
        str, typer.Argument(help="Name of a shipped recipe; a wrong name lists them all.")
    ],
    data: Annotated[
        Path | None, typer.Option(help="Folder of HMDB51, made by `engine data hmdb51`.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the runs. Default: the name of the recipe.")
    ] = None,
    set_: Annotated[list[str] | None, SET] = None,
    cache: Annotated[Path | None, CACHE] = None,
    track: Annotated[list[str] | None, TRACK] = None,
    device: Annotated[str, DEVICE] = "auto",
) -> None:
    """Repeat a published experiment and print its results beside ours.

    Example: [bold]engine reproduce timesformer-hmdb-simp --data hmdb51[/bold]
    """
    from engine.errors import UserError
    from engine.experiments.experiment import Experiment

    experiment = Experiment.load(recipe)
    if data is None:
        raise UserError(
            "this needs HMDB51: download hmdb51_org.rar and test_train_splits.rar from its makers, "
            "run `engine data hmdb51 FOLDER --out hmdb51`, then pass --data hmdb51."
        )
    _run(experiment, data, out or Path(Path(recipe).stem), set_ or [], None, cache, track, device)


def _run(
    experiment: "Experiment",
    data: Path,
    out: Path,
    changes: list[str],
    scheme: str | None,
    cache: Path | None,
    track: list[str] | None,
    device: str,
) -> None:
    import dataclasses
    import shlex
    import sys

    from engine.commands.setting_flags import nested, setting
    from engine.data import manifest
    from engine.data.file_digest import file_digest
    from engine.errors import UserError
    from engine.evaluation.clips import parse_views
    from engine.experiments import outcome, search
    from engine.experiments import trial as trials
    from engine.tracking.tracking import names_in

    files = file_digest(manifest.load(data))  # a wrong folder fails at once
    if changes:
        experiment = experiment.with_settings(nested([setting(each) for each in changes]))
    if scheme:
        experiment = dataclasses.replace(experiment, schemes=[scheme])
    experiment.check()
    search.check(experiment)
    views = "{}x{}".format(*parse_views(experiment.views))
    experiment = dataclasses.replace(experiment, views=views)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out} can't be created ({error.strerror}).") from error
    flags = ["--device", device, *(["--cache", str(cache)] if cache else [])]
    if trackers := names_in(track):
        flags += ["--track", ",".join(trackers)]
    all_of = [] if experiment.search else experiment.trials()
    for each in all_of:  # so does a folder of another trial, before the first hour of training
        trials.begin(each, data, out, views=experiment.views, files=files)

    def run_trial(each: trials.Trial) -> trials.Result:
        print(f"\n== {each.scheme}: {each.describe()}", flush=True)
        return trials.run(each, data, out, views=experiment.views, files=files, flags=flags)

    if experiment.search:
        results = search.search(experiment, out, run_trial)
    else:
        results = [run_trial(each) for each in all_of]
    outcome.print_table(experiment, results)
    if changes or scheme:
        changed = [*changes, *([f"scheme={scheme}"] if scheme else [])]
        print(f"changed settings: {', '.join(changed)}; published results are not comparable")
    chart = outcome.write(out, experiment, results, shlex.join(["engine", *sys.argv[1:]]))
    print(f"written to {out / 'results.csv'} and {chart}")
    raise typer.Exit(1 if any(each.error for each in results) else 0)
