"""The progress bar that every command shows, on stderr so that output can be piped."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Advance(Protocol):
    def __call__(self, note: str = "") -> None:
        """One item more; the note stands at the end of the line."""


@contextmanager
def progress_bar(title: str, *, total: int | None, unit: str) -> Iterator[Advance]:
    """Yield a function to call after each item; prints nothing when stderr isn't a terminal.

    `total` is None where nobody knows yet.
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
        disable=not sys.stderr.isatty(),
    )
    with progress:
        task = progress.add_task(title, total=total, note="")
        yield lambda note="": progress.update(task, advance=1, note=note)
