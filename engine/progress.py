"""Progress bars on stderr; they are off until `enable_progress_bars` is called."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

_is_enabled = False


def enable_progress_bars() -> None:
    """Show progress bars for long operations, as the command line does.

    Example:
        >>> engine.enable_progress_bars()
        >>> engine.evaluate("run")
    """
    global _is_enabled
    _is_enabled = True


def clock(seconds: float) -> str:
    """Format as 2:03, or 1:02:03 from one hour on."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Advance(Protocol):
    def __call__(self, note: str = "") -> None:
        """Advance by one item; the note is shown at the end of the line."""


@contextmanager
def progress_bar(title: str, *, total: int | None, unit: str) -> Iterator[Advance]:
    """Yield a function to call after each item.

    Nothing is shown if progress bars are not enabled or stderr is not a terminal. `total` is None
    if the number of items is unknown.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class RateColumn(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text(f"{speed:,.0f} {unit}/s" if speed else "", style="progress.data.speed")

    progress = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        console=Console(stderr=True),
        disable=not (_is_enabled and sys.stderr.isatty()),
    )
    with progress:
        task = progress.add_task(title, total=total, note="")
        yield lambda note="": progress.update(task, advance=1, note=note)
