"""`engine train --folds`: train one run for each fold of a dataset."""

from pathlib import Path
from typing import Any


def train_folds(data: Path, out: Path, chosen: str, *, command: str, **settings: Any) -> int:
    """Train the chosen folds, print their results, and return the exit code.

    Args:
        data: The dataset's folder.
        out: Folder of the runs.
        chosen: `all`, or numbers with commas.
        command: The command line, for the record.
        **settings: Arguments of `iterate_folds`.
    """
    import signal
    import sys

    from engine.commands.train_output import conclude
    from engine.cross_validation import iterate_folds
    from engine.data.folds import load_folds
    from engine.interrupt import INTERRUPTED, Interrupted, raise_interrupted, stop_kindly

    same_command = "the same command continues"
    divided = load_folds(data)
    numbers = divided.numbers(_parse(chosen))
    fresh: set[int] = set()

    def announce(fold: int) -> None:
        fresh.add(fold)
        print(f"\n== fold {fold} of {len(divided)}", flush=True)

    codes = []
    folds = iterate_folds(
        data, out, folds=numbers, command=command, on_ready=stop_kindly, on_fold=announce,
        **settings,
    )  # fmt: skip
    try:
        for fold, trained in folds:
            # Between two runs nothing has to be saved, so that Ctrl-C may end the process.
            signal.signal(signal.SIGINT, raise_interrupted)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            if fold in fresh:
                codes.append(conclude(trained, go_on=same_command))
            else:
                codes.append(0)
                print(f"fold {fold} is finished: {trained.best}")
            if not trained.finished:
                return INTERRUPTED
        if len(codes) < len(numbers):  # stopped in the last step of a fold
            raise Interrupted
    except Interrupted:
        print(f"engine: stopped; {same_command}.", file=sys.stderr)
        return INTERRUPTED
    print(f"next: engine evaluate {out}")
    return max(codes)


def _parse(chosen: str) -> list[int] | None:
    from engine.errors import UserError

    if chosen == "all":
        return None
    numbers = chosen.split(",")
    if not all(number.strip().isdecimal() for number in numbers):
        raise UserError(f"--folds takes all, or numbers such as 1,3, not {chosen!r}.")
    return [int(number) for number in numbers]
