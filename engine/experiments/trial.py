"""Runs one trial: `engine train` and then `engine evaluate`, each in a new process.

A finished trial is read from its result, and an unfinished one is resumed.

OUT/TRIAL/trial.json    settings, clips, their splits and files, views
          result.json   the metrics, once the trial is finished
"""

import ctypes
import dataclasses
import hashlib
import json
import os
import signal
import statistics
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from engine import atomic
from engine.data import folds, splits
from engine.data.file_digest import digest_of_path
from engine.errors import UserError
from engine.evaluation import report
from engine.experiments.experiment import FOLDS, Trial
from engine.training import checkpoint, fold_runs, run_folder
from engine.training import recipe as recipes
from engine.training.recipe import Recipe

FACTS, RESULT = "trial.json", "result.json"
SPLIT = "test"
STOPPING_S = 60.0
PR_SET_PDEATHSIG = 1
"""Option of Linux's prctl: the signal that a process gets when its parent ends."""
MEANING = {
    "clips": "their rows and splits; `engine data check` takes bad clips out of the splits",
    "files": "sizes or times of the clips' files: moving a dataset and `cp -a` keep both, a plain "
    "copy is another dataset",
}
"""Explains facts whose names alone don't say what changed."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """The result of a trial."""

    trial: Trial
    figures: dict[str, Any]
    """Metrics of the videos of the test split; empty if the trial failed."""
    val: float
    """The metric on the validation split that selected the checkpoint."""
    error: str = ""
    """Why the trial failed; empty if it didn't."""


def begin(trial: Trial, root: Path, out: Path, *, views: str, files: str) -> Path:
    """Create the folder of a trial, or check that it holds this trial.

    Args:
        trial: The trial.
        root: The dataset's folder.
        out: The experiment's folder.
        views: Views for testing, as in `10x3`.
        files: The dataset's `file_digest`, computed once for all trials.

    Raises:
        UserError: The folder holds another trial; the message names the difference.
    """
    folder = out / trial.name
    facts = json.loads(json.dumps(_facts_of(trial, root, views, files), default=str))
    if (folder / FACTS).is_file():
        existing = _read(folder / FACTS)
    elif (folder / run_folder.FACTS).is_file():
        existing = {}
    else:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic.new_text(folder / FACTS) as file:
            json.dump(facts, file, indent=2)
        return folder
    keys = facts.keys() | existing.keys()
    changed = sorted(key for key in keys if facts.get(key) != existing.get(key))
    if changed:
        names = [f"{key} ({MEANING[key]})" if key in MEANING else key for key in changed]
        raise UserError(
            f"{folder} holds a trial that differs from this one in {', '.join(names)}: name "
            "another `out`, or remove that folder."
        )
    return folder


def run(
    trial: Trial,
    root: Path,
    out: Path,
    *,
    views: str,
    files: str,
    flags: list[str] | None = None,
) -> Result:
    """Run a trial, or read its result if it is finished.

    See `begin` for the other arguments.

    Args:
        flags: Further flags for `engine train`, such as --cache, --loader and --device.

    Returns:
        The result; `error` says why a trial failed.
    """
    folder = begin(trial, root, out, views=views, files=files)
    if not (folder / RESULT).is_file():
        reports = report.folder_of(folder, split=SPLIT, views=views)
        error = _train(trial, root, folder, flags or []) or _engine(
            "evaluate", folder, "--data", root, "--split", SPLIT, "--views", views, "--out", reports
        )
        if error:
            return Result(trial=trial, figures={}, val=float("nan"), error=error)
        figures = report.read(reports)[0]["video"]
        with atomic.new_text(folder / RESULT) as file:
            facts = {"val": _validation(trial, folder), "figures": figures}
            json.dump(facts, file, indent=2)
    result = _read(folder / RESULT, {"figures": dict, "val": int | float})
    return Result(trial=trial, figures=result["figures"], val=result["val"])


def _validation(trial: Trial, folder: Path) -> float:
    """The metric that selected the checkpoint, or its mean over the folds."""
    if trial.scheme != FOLDS:
        return checkpoint.read_best(folder)["value"]
    numbers = range(1, fold_runs.read(folder).num_folds + 1)
    runs = [fold_runs.run_of(folder, number) for number in numbers]
    return statistics.mean(checkpoint.read_best(run)["value"] for run in runs)


def _load_clips(trial: Trial, root: Path) -> tuple[str, str]:
    """The clips with their splits as text, and a description of the scheme."""
    if trial.scheme == FOLDS:
        made = folds.load_folds(root)
        clips = repr([[dataclasses.astuple(clip) for clip in made.manifest.clips], made.splits])
        return clips, f"{made.scheme} folds {len(made)} seed {made.seed}"
    listed, scheme = splits.load_split(root, trial.scheme)
    return repr([dataclasses.astuple(clip) for clip in listed.clips]), scheme


def _facts_of(trial: Trial, root: Path, views: str, files: str) -> dict[str, Any]:
    clips, scheme = _load_clips(trial, root)
    recipe = Recipe.resolve(trial.settings)
    return {
        **recipe.flat(),
        **_file_digests(recipe),
        "scheme": scheme,
        "clips": hashlib.sha256(clips.encode(errors="surrogateescape")).hexdigest()[:16],
        "files": files,
        "views": views,
    }


def _file_digests(recipe: Recipe) -> dict[str, str]:
    """Digests of the files of the initial weights and of the teacher."""
    digests = {}
    weights = Path(recipe.weights)
    if recipe.weights not in ("none", "backbone") and weights.exists():
        digests["files of its weights"] = digest_of_path(weights)
    if recipe.loss.teacher and (teacher := checkpoint.named_or_best(Path(recipe.loss.teacher))):
        digests["files of its teacher"] = digest_of_path(teacher)
    return digests


def _read(path: Path, needed: dict[str, Any] | None = None) -> dict[str, Any]:
    """Read a JSON object and check that it has the entries in `needed`, with these types."""
    try:
        content = json.loads(path.read_text())
        if not isinstance(content, dict):
            raise ValueError("it is no object")
        for name, type_ in (needed or {}).items():
            if not isinstance(content.get(name), type_):
                raise ValueError(f"its {name} is missing or of the wrong type")
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}): remove {path.parent}.") from error
    return content


def _train(trial: Trial, root: Path, folder: Path, flags: list[str]) -> str:
    if (folder / run_folder.FACTS).is_file():
        return _engine("train", "--out", folder, "--data", root, "--resume", *flags)
    recipe = folder / "trial.toml"
    with atomic.new_text(recipe) as file:
        file.write(recipes.to_toml(trial.settings))
    split = ("--folds", "all") if trial.scheme == FOLDS else ("--scheme", trial.scheme)
    return _engine(
        "train", "--data", root, *split, "--recipe", recipe, "--out", folder, *flags
    )  # fmt: skip


def _engine(*arguments: object) -> str:
    """Run an engine command and pass its stderr on; return its error message, empty on success."""
    process = subprocess.Popen(
        [sys.executable, "-m", "engine", *map(str, arguments)],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=partial(_terminate_with_parent, os.getpid(), ctypes.CDLL(None)),
    )
    assert process.stderr is not None
    last = ""
    try:
        for line in process.stderr:
            sys.stderr.write(line)
            last = line.strip() or last
        status = process.wait()
    except BaseException:  # Ctrl-C also reached the process, which is saving a checkpoint
        try:
            process.wait(STOPPING_S)
        except subprocess.TimeoutExpired:
            process.terminate()
            process.wait()
        raise
    if status == 130:
        raise UserError("stopped; run the same command again to continue.")
    if status < 0:
        return (
            f"engine {arguments[0]} was killed by signal {-status}; run the study again to continue"
        )
    if status == 1 and arguments[0] == "evaluate":  # the metrics don't include unreadable clips
        return "clips of the test split can't be read: `engine data check` lists them"
    return "" if status in (0, 1) else last.removeprefix("engine: ")


def _terminate_with_parent(parent: int, libc: ctypes.CDLL) -> None:
    """Make this process save and stop if the study is killed, so that the next one can resume."""
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # the study ended before the call of prctl
        os._exit(1)
