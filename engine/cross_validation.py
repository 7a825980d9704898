"""Cross-validation in the public Python API: trains and tests one run for each fold."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from engine.errors import UserError
from engine.new_run import begin_run

if TYPE_CHECKING:
    from engine.evaluation.pooling import CrossValidated
    from engine.evaluation.results import Evaluated
    from engine.training.loop import Trainer
    from engine.training.run import Trained


def train_folds(
    data: str | Path,
    out: str | Path,
    *,
    folds: Sequence[int] | None = None,
    loader: Literal["dali", "torch"] | None = None,
    cache: str | Path | None = None,
    cache_gb: float = 20.0,
    device: Literal["auto", "gpu", "cpu"] = "auto",
    save_minutes: float = 10.0,
    track: str | Sequence[str] | None = None,
    track_weights: bool = False,
    log: Callable[[str], None] | None = lambda line: None,
    on_ready: "Callable[[Trainer], None]" = lambda trainer: None,
    **settings: Any,
) -> "list[Trained]":
    """Train one run for each fold, all with the same settings.

    The same call continues after an interruption: finished folds are not trained again, and an
    unfinished one is resumed.

    Args:
        data: Folder of a dataset that `engine data split` divided into folds.
        out: Folder of the runs, which are named `fold-1`, `fold-2`, ….
        folds: Numbers of the folds to train. Default: all.
        track: As in `train`; in MLflow and W&B, one group holds the runs of all folds.
        track_weights: As in `train`.
        log: Called with each line that `engine train` would print. None prints them.
        on_ready: Called with the trainer of each fold; `trainer.stop()` ends it and all others.
        **settings: The other arguments of `train`, as `model`, `preset`, `recipe` or `size`, and
            any setting of a recipe.

    Returns:
        The runs in the order of the folds; the last one is unfinished if it was stopped.

    Raises:
        UserError: A setting is wrong, the dataset has no folds, or `out` has others.

    Example:
        >>> engine.train_folds("my_videos", "folds", model="cnn-lstm", preset="small", epochs=12)
        >>> engine.evaluate_folds("folds").pooled.scores["top1"]
        0.925
    """
    each = iterate_folds(
        data, out, folds=folds, loader=loader, cache=cache, cache_gb=cache_gb, device=device,
        save_minutes=save_minutes, track=track, track_weights=track_weights, log=log,
        on_ready=on_ready, **settings,
    )  # fmt: skip
    return [trained for _, trained in each]


def iterate_folds(
    data: str | Path,
    out: str | Path,
    *,
    folds: Sequence[int] | None = None,
    loader: Literal["dali", "torch"] | None = None,
    cache: str | Path | None = None,
    cache_gb: float = 20.0,
    device: Literal["auto", "gpu", "cpu"] = "auto",
    save_minutes: float = 10.0,
    track: str | Sequence[str] | None = None,
    track_weights: bool = False,
    command: str = "engine.train_folds",
    log: Callable[[str], None] | None = None,
    on_ready: "Callable[[Trainer], None]" = lambda trainer: None,
    on_fold: Callable[[int], None] = lambda fold: None,
    **settings: Any,
) -> "Iterator[tuple[int, Trained]]":
    """As `train_folds`, but yield each fold's number and run as soon as it ends.

    `on_fold` is called with the number of each fold that is about to be trained.
    """
    from engine.data.folds import load_folds
    from engine.tracking.tracking import GroupTracking, names_in
    from engine.training import fold_runs, run, run_folder
    from engine.training.finished import read_finished
    from engine.training.run_tracking import group_info

    trackers = names_in(track)
    divided, out = load_folds(Path(data)), Path(out)
    numbers = divided.numbers(folds)
    recipe, facts = begin_run(
        data, fold=numbers[0], device=device, command=command, log=log or print, **settings
    )
    fold_runs.begin(out, divided, recipe)
    trainers: list[Trainer] = []

    def keep(trainer: "Trainer") -> None:
        trainers.append(trainer)
        on_ready(trainer)

    with GroupTracking(out, trackers, log=log or print) as tracking:
        tracking.begin(group_info(out, recipe, facts, len(divided)))
        for number in numbers:
            folder = fold_runs.run_of(out, number)
            if (finished := read_finished(folder)) is not None:
                yield number, finished
                continue
            on_fold(number)
            resume = (folder / run_folder.FACTS).is_file()
            its_facts = dataclasses.replace(facts, fold=number, scheme=divided.describe(number))
            trained = run.train(
                *(run.read(folder, Path(data)) if resume else (recipe, its_facts)),
                folder, resume=resume, loader=loader,
                cache=Path(cache) if cache is not None else None, cache_gb=cache_gb, device=device,
                save_every_s=save_minutes * 60, track=tracking.names, track_weights=track_weights,
                group=out, log=log, on_ready=keep,
            )  # fmt: skip
            is_stopped = trainers.pop().stop_asked  # also after its last step
            if is_stopped:
                tracking.end("stopped")
            yield number, trained
            if is_stopped:
                return
        tracking.end("finished")


def evaluate_folds(
    out: str | Path,
    *,
    data: str | Path | None = None,
    views: str = "1x1",
    batch_size: int = 16,
    loader: Literal["dali", "torch"] | None = None,
    device: Literal["auto", "gpu", "cpu"] = "auto",
    on_clip: Callable[[], None] = lambda: None,
    log: Callable[[str], None] = lambda words: None,
) -> "CrossValidated":
    """Test the run of each fold on the fold's test clips, and pool the predictions.

    Args:
        out: Folder of the runs, as `train_folds` makes it. Folds without a run are left out, and
            the protocol says so.
        data: Folder of the dataset if it moved.
        views: Views per video as CLIPSxCROPS, whose predictions are averaged, as in `"10x3"`.
        batch_size: Videos in a batch.
        loader: The DALI pipeline, or plain PyTorch. Default: DALI if it is installed.
        device: `auto` uses a GPU if there is one.
        on_clip: Called after each video.
        log: Called with a note if the loader is slower than usual on this machine.

    Returns:
        A CrossValidated: `pooled` is an Evaluated of all clips together, `folds` has one for each
        fold, and `over_folds("top1")` is the mean and standard deviation over them.

    Raises:
        UserError: A fold isn't trained to its end, or `data` is another dataset.
    """
    from engine.evaluation.held_out_test import HeldOutTest
    from engine.evaluation.pooling import pool
    from engine.training import fold_runs

    out = Path(out)
    facts = fold_runs.read(out)
    tested: list[Evaluated] = []
    for number in _trained_folds(out, facts.num_folds):
        run = fold_runs.run_of(out, number)
        test = HeldOutTest(
            run, data=Path(data) if data is not None else None, views=views, loader=loader,
            batch_size=batch_size, device=device,
        )  # fmt: skip
        if not test.are_own:
            raise UserError(f"{data} isn't the dataset of {run}: leave out `data`, or correct it.")
        if test.note and not tested:
            log(test.note)
        tested.append(test.run(on_clip))
    scheme = f"{facts.scheme} folds {facts.num_folds} seed {facts.seed}"
    if any(fold.protocol.scheme.endswith(", edited since") for fold in tested):
        scheme += ", edited since"
    if len(tested) < facts.num_folds:
        scheme += f", {' and '.join(fold.name for fold in tested)} only"
    return pool(tested, scheme=scheme, checkpoint=f"the best of each fold in {out}")


def _trained_folds(out: Path, num_folds: int) -> list[int]:
    """Numbers of the folds that have a run; all of these must be finished."""
    from engine.training import fold_runs, run_folder
    from engine.training.finished import read_finished

    numbers = []
    for number in range(1, num_folds + 1):
        run = fold_runs.run_of(out, number)
        if not (run / run_folder.FACTS).is_file():
            continue
        if read_finished(run) is None:
            raise UserError(
                f"{run} isn't trained to its end: repeat the command that trains the folds, which "
                "continues."
            )
        numbers.append(number)
    if not numbers:
        raise UserError(f"no fold in {out} has been trained: repeat the command that trains them.")
    return numbers
