"""What a tracker does, and what it is told about a run."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

Ending = Literal["finished", "stopped", "failed"]


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """What a tracker is told about a run when it starts."""

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    """The recipe; nested tables have dotted names."""
    protocol: dict[str, str] = field(default_factory=dict)
    """How the clips were split, the seed, and a digest of the clips."""
    versions: dict[str, str] = field(default_factory=dict)
    group: dict[str, Any] | None = None
    """What the tracker kept about the group of folds that the run belongs to."""


class Tracker:
    """One service for one run. Methods may raise any error of its library; here, they do nothing.

    Args:
        run: The run's folder.
        kept: What the tracker kept about this run; it adds what it needs to go on with it.
    """

    title: ClassVar[str]
    packages: ClassVar[tuple[str, ...]]
    """Modules that have to be installed."""

    def __init__(self, run: Path, kept: dict[str, Any]) -> None:
        self.run = run
        self.kept = kept

    def open(self, info: RunInfo | None) -> str:
        """Start the run, or go on with it; return where it can be seen, empty if that is known.

        Without `info`, only a run that was started before can be opened.
        """
        return ""

    def open_group(self, info: RunInfo) -> None:
        """Start, or go on with, what joins the runs of folds."""

    def close_group(self, ending: Ending) -> None:
        """Finish what joins the runs of folds."""

    def add_row(self, row: dict[str, float]) -> None:
        """Add the metrics of an epoch: a row of history.csv."""
        raise NotImplementedError

    def add_scores(self, scores: dict[str, float]) -> None:
        """Add metrics that belong to no epoch."""

    def add_files(self, name: str, files: Sequence[Path]) -> None:
        """Add files under a name such as `run` or `weights`."""

    def close(self, ending: Ending | None) -> None:
        """Finish; None keeps how the run ended before."""


def plain(text: object) -> str:
    """Text that is valid UTF-8; file names and class names may not be."""
    return str(text).encode(errors="backslashreplace").decode()
