"""Shows the progress of training: a live line on a terminal, log lines elsewhere."""

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from engine.progress import clock

if TYPE_CHECKING:
    from engine.training.train_state import TrainState

PLAIN_EVERY_S = 60.0


class Display:
    """Progress of a run.

    Args:
        shown: Whether to print; only one of several processes should.
        log: Called with each log line.
    """

    def __init__(self, *, shown: bool, log: Callable[[str], None] | None = None) -> None:
        self._shown = shown
        self._log = log
        self._live: Any = None
        self._task: Any = None
        self._epoch = self._num_epochs = self._num_steps = 0
        self._logged_at = self._started_at = time.monotonic()
        self._steps_since_start = 0

    def __enter__(self) -> Self:
        self._started_at = time.monotonic()
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        if self._shown and sys.stderr.isatty():
            self._live = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=20),
                MofNCompleteColumn(),
                TextColumn("{task.fields[facts]}", markup=False),
                transient=True,
                console=Console(stderr=True),
            )
            self._task = self._live.add_task("starting", total=None, facts="")
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def log(self, line: str) -> None:
        """Print a line above the live line, and pass it to `log`."""
        if self._log is not None:
            self._log(line)
        if not self._shown:
            return
        if self._live is not None:
            self._live.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print(line, file=sys.stderr, flush=True)

    def begin_epoch(self, epoch: int, num_epochs: int, num_steps: int) -> None:
        self._epoch, self._num_epochs, self._num_steps = epoch, num_epochs, num_steps
        self._logged_at = time.monotonic()

    def step(self, done: int, state: "TrainState", lr: float) -> None:
        """Show the epoch so far after `done` of its steps."""
        self._steps_since_start += 1
        if self._live is not None:
            self._live.update(
                self._task,
                description=f"epoch {self._epoch + 1}/{self._num_epochs}",
                completed=done,
                total=self._num_steps,
                facts=self._facts(done, state, lr),
            )
        elif time.monotonic() - self._logged_at > PLAIN_EVERY_S:
            self._logged_at = time.monotonic()
            self.log(
                f"epoch {self._epoch + 1}/{self._num_epochs}, step {done}/{self._num_steps}: "
                + self._facts(done, state, lr)
            )

    def validating(self) -> None:
        if self._live is not None:
            self._live.update(self._task, facts="validating")

    def end_epoch(self, row: dict[str, float], is_best: bool) -> None:
        self.log(
            f"epoch {row['epoch']:.0f}/{self._num_epochs}: loss {row['train_loss']:.3f}, "
            f"top-1 {row['train_top1']:.1%}; validation loss {row['val_loss']:.3f}, "
            f"top-1 {row['val_top1']:.1%}, top-5 {row['val_top5']:.1%}, F1 {row['val_f1']:.3f}; "
            f"{row['clips_per_s']:.1f} clips/s, {row['waiting_share']:.0%} waiting for data"
            f"{' · best so far' if is_best else ''}"
        )

    def _facts(self, done: int, state: "TrainState", lr: float) -> str:
        num_clips, seconds = max(1, state.num_clips), max(1e-9, state.seconds)
        steps_left = (self._num_epochs - self._epoch) * self._num_steps - done
        step_s = (time.monotonic() - self._started_at) / self._steps_since_start
        top1 = state.num_correct / num_clips
        return (
            f"loss {state.loss_sum / num_clips:.3f}  top-1 {top1:.1%}  "
            f"lr {lr:.2g}  {num_clips / seconds:.1f} clips/s  "
            f"{state.waited_s / seconds:.0%} waiting  {clock(steps_left * step_s)} left"
        )
