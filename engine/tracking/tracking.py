"""The trackers of one run. Trouble with one is reported once, and never ends the run.

RUN/tracking.json    the trackers, the number of the run in each, and what they have received
"""

import dataclasses
import importlib.util
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from engine import atomic
from engine.errors import RefusedError, UserError, unknown_name
from engine.tracking.mlflow_tracker import MLflowTracker
from engine.tracking.tensorboard_tracker import TensorBoardTracker
from engine.tracking.tracker import Ending, RunInfo, Tracker
from engine.tracking.wandb_tracker import WandbTracker
from trt.probe import install_command

FACTS = "tracking.json"
TRACKERS: dict[str, type[Tracker]] = {
    "tensorboard": TensorBoardTracker,
    "mlflow": MLflowTracker,
    "wandb": WandbTracker,
}
DEFAULT = ("tensorboard",)
LOGGED, WITH_WEIGHTS = "logged", "with_weights"
"""Among what a tracker kept: the last step that it has received, and whether it gets weights."""


def names_in(track: str | Sequence[str] | None) -> tuple[str, ...]:
    """The names of trackers in `mlflow,wandb` or in a list of such texts; empty for None.

    Raises:
        UserError: A name is unknown.
        RefusedError: The package of a tracker isn't installed.
    """
    texts = [track] if isinstance(track, str) else track or []
    names = [name.strip() for text in texts for name in text.split(",")]
    for name in names:
        if name not in TRACKERS:
            raise unknown_name("tracker", name, list(TRACKERS))
        for package in TRACKERS[name].packages:
            if importlib.util.find_spec(package) is None:
                raise RefusedError(
                    f"tracking with {TRACKERS[name].title} needs {package}, which isn't installed: "
                    f"{install_command('track')}."
                )
    return tuple(dict.fromkeys(names))


class Tracking:
    """The trackers of a run, from its start to its end; a context manager.

    Args:
        run: The run's folder, or the folder of a cross-validation.
        names: Trackers as in TRACKERS, beside those that the run has. Default: those it has, or
            DEFAULT in a new run.
        group: Folder of the cross-validation that the run belongs to; see GroupTracking.
        with_weights: Whether trackers get the weights, too; a run that is resumed remembers it.
        log: Called with a line for each tracker, and for trouble with it.
    """

    def __init__(
        self,
        run: Path,
        names: Sequence[str] = (),
        *,
        group: Path | None = None,
        with_weights: bool = False,
        log: Callable[[str], None] = print,
    ) -> None:
        self._run = run
        self._group = group
        self._log = log
        self._kept = read(run)
        for name in names or ([] if self._kept else DEFAULT):
            self._kept.setdefault(name, {})
        if with_weights:
            for kept in self._kept.values():
                kept[WITH_WEIGHTS] = True
        self._trackers = {name: TRACKERS[name](run, kept) for name, kept in self._kept.items()}
        self._info: RunInfo | None = None
        self._rows: list[dict[str, float]] = []
        self._open: set[str] = set()
        self._troubled: set[str] = set()
        self._is_closed = False

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._trackers)

    def begin(self, info: RunInfo) -> None:
        """Start the run in each tracker, or go on with it."""
        self._info = info
        for name in self._trackers:
            self._try(name, partial(self._open_one, name))

    def log(self, rows: list[dict[str, float]]) -> None:
        """Send the rows of the history that a tracker doesn't have yet."""
        self._rows = rows
        for name in self._trackers:
            if name not in self._troubled:
                self._try(name, partial(self._send_rows, name))

    def end(
        self,
        ending: Ending,
        files: dict[str, Sequence[Path]] | None = None,
        weights: Path | None = None,
    ) -> None:
        """Send the last rows and the files by their name, and finish.

        A tracker that had trouble is tried again, once.
        """
        self._is_closed = True
        for name in self._trackers:
            self._try(name, partial(self._end_one, name, ending, files or {}, weights))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, Exception) and not self._is_closed:
            self.end("failed")

    def _open_one(self, name: str) -> None:
        info = self._info
        if info is not None and self._group is not None:
            info = dataclasses.replace(info, group=read(self._group).get(name))
        try:
            where = self._trackers[name].open(info)
        finally:
            self._save()  # it may have started the run before it failed
        self._open.add(name)
        if where:
            self._log(f"tracked by {self._trackers[name].title}: {where}")

    def _send_rows(self, name: str) -> None:
        kept = self._kept[name]
        for row in self._rows:
            if row["step"] > kept.get(LOGGED, -1):
                self._trackers[name].add_row(row)
                kept[LOGGED] = int(row["step"])
                self._save()

    def _end_one(
        self, name: str, ending: Ending, files: dict[str, Sequence[Path]], weights: Path | None
    ) -> None:
        if name not in self._open:
            self._open_one(name)
        self._send_rows(name)
        for label, paths in files.items():
            self._trackers[name].add_files(label, paths)
        if weights is not None and self._kept[name].get(WITH_WEIGHTS):
            self._trackers[name].add_files("weights", [weights])
        self._trackers[name].close(ending)

    def _try(self, name: str, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # each library has its own types; none may end a training
            if name not in self._troubled:
                self._log(trouble(self._trackers[name].title, error))
            self._troubled.add(name)

    def _save(self) -> None:
        with atomic.new_text(self._run / FACTS) as file:
            json.dump(self._kept, file, indent=2)


class GroupTracking(Tracking):
    """What joins the runs of a cross-validation: a parent run in MLflow, a group in W&B."""

    def _open_one(self, name: str) -> None:
        assert self._info is not None
        self._trackers[name].open_group(self._info)
        self._open.add(name)
        self._save()

    def _end_one(self, name: str, ending: Ending, *rest: object) -> None:
        if name in self._open:
            self._trackers[name].close_group(ending)


def add_results(
    run: Path, scores: dict[str, float], files: Sequence[Path], *, log: Callable[[str], None]
) -> None:
    """Add test metrics and the files of a report to a run in its trackers, if it is tracked."""
    for name, kept in read(run).items():
        if "run" not in kept:
            continue
        tracker = TRACKERS[name](run, kept)
        try:
            where = tracker.open(None)
            tracker.add_scores(scores)
            tracker.add_files("evaluation", files)
            tracker.close(None)
            log(f"added to {tracker.title}: {where}")
        except Exception as error:  # each library has its own types
            log(f"{tracker.title} didn't get these results ({_first_line(error)})")


def trouble(title: str, error: Exception) -> str:
    """The line about a tracker that failed."""
    return (
        f"{title} can't be reached ({_first_line(error)}); the run goes on without it, "
        "history.csv has all metrics, and what is missing is sent at the end or when it is resumed"
    )


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")[:200]


def read(run: Path) -> dict[str, dict[str, Any]]:
    """What each tracker of a run kept; empty if the run has no tracking.json."""
    path = run / FACTS
    if not path.is_file():
        return {}
    try:
        kept = json.loads(path.read_text())
        if not isinstance(kept, dict) or not all(isinstance(each, dict) for each in kept.values()):
            raise ValueError("it is no table of trackers")
        if unknown := kept.keys() - TRACKERS.keys():
            raise ValueError(f"it names the unknown tracker {min(unknown)}")
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is damaged ({error}): remove it; the run is then tracked as a new one."
        ) from error
    return kept
