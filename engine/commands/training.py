"""What `engine train` says of a run, and how it is stopped."""

import signal
import sys
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.training.loop import Trainer
    from engine.training.recipe import Recipe
    from engine.training.session import Trained

INTERRUPTED = 130


def stop_kindly(trainer: "Trainer") -> None:
    """The first Ctrl-C, or a cluster's SIGTERM, ends the run after a step; the second at once."""
    import os

    from engine.cli import Interrupted

    owner = os.getpid()

    def ask(signum: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:
            return  # a loader's worker; the run ends it
        if trainer.stop_asked:
            raise Interrupted
        trainer.stop()
        words = "stopping after this step; once more to stop at once"
        with suppress(OSError):  # nobody reads it
            try:
                trainer.display.tell(words)
            except RuntimeError:  # the signal came while a line was being written
                os.write(sys.stderr.fileno(), f"{words}\n".encode())

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, ask)


def conclude(trained: "Trained", out: Path, recipe: "Recipe") -> int:
    """Say how it ended; returns the exit code."""
    from engine.training import history

    if not trained.is_first:
        return 0
    curves = history.draw_curves(out, trained.history, f"{recipe.model} {recipe.preset}")
    for path, reason in trained.report.failures.items():
        print(f"bad: {path}: {reason}", file=sys.stderr)
    if damage := trained.report.describe_damage():
        print(f"{damage}: `engine data check` says which are bad", file=sys.stderr)
    if not trained.finished:
        print(f"stopped; `engine train --out {out} --resume` goes on from here", file=sys.stderr)
        return INTERRUPTED
    if trained.best is not None:
        row = trained.best_row
        print(
            f"best: {trained.best} after epoch {row['epoch']:.0f}, "
            f"validation top-1 {row['val_top1']:.1%}, "
            f"top-5 {row['val_top5']:.1%}, F1 {row['val_f1']:.3f}; curves in {curves}"
        )
    return 1 if trained.report.failures else 0
