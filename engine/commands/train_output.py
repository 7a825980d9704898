"""What `engine train` prints at the end of a run."""

import sys
from typing import TYPE_CHECKING

from engine.interrupt import INTERRUPTED

if TYPE_CHECKING:
    from engine.training.run import Trained


def conclude(trained: "Trained", *, go_on: str = "") -> int:
    """Print the result of a run, and return the exit code; `go_on` says how to continue it."""
    from engine.training import history

    if not trained.is_first:
        return 0
    out, recipe = trained.path, trained.recipe
    curves = history.draw_curves(out, trained.history, f"{recipe.model} {recipe.preset}")
    for path, reason in trained.report.failures.items():
        print(f"bad: {path}: {reason}", file=sys.stderr)
    if damage := trained.report.describe_damage():
        print(f"{damage}: `engine data check` lists the bad ones", file=sys.stderr)
    if not trained.finished:
        go_on = go_on or f"`engine train --out {out} --resume` continues"
        print(f"stopped; {go_on}", file=sys.stderr)
        return INTERRUPTED
    if trained.best is not None:
        row = trained.best_row
        print(
            f"best: {trained.best} after epoch {row['epoch']:.0f}, "
            f"validation top-1 {row['val_top1']:.1%}, "
            f"top-5 {row['val_top5']:.1%}, F1 {row['val_f1']:.3f}; curves in {curves}"
        )
    return 1 if trained.report.failures else 0
