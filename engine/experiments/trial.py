"""Running one trial: `engine train`, then `engine evaluate`, in processes of their own.

What is done is found done again: a finished trial is read from its result, a begun one is resumed.

OUT/TRIAL/trial.json    what the trial is: settings, clips, their parts and files, views
          result.json   its figures, once it is finished
"""

import ctypes
import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from engine import atomic
from engine.data import splits
from engine.data.file_digest import digest_of_path
from engine.errors import UserError
from engine.evaluation import report
from engine.experiments.experiment import Trial
from engine.training import checkpoint, run_folder
from engine.training import recipe as recipes
from engine.training.recipe import Recipe

FACTS, RESULT = "trial.json", "result.json"
PART = "test"
STOPPING_S = 60.0
PR_SET_PDEATHSIG = 1
"""Of Linux's prctl: the signal that a process gets when the one that started it ends."""
MEANING = {
    "clips": "their rows and parts, of which `engine data check` takes bad ones away",
    "files": "sizes or times of the clips' files: moving a dataset and `cp -a` keep both, a plain "
    "copy is another dataset",
}
"""Of facts whose name alone doesn't say what became different."""


@dataclass(frozen=True, kw_only=True)
class Result:
    trial: Trial
    figures: dict[str, Any]
    """Of the test part, each video; empty where the trial failed."""
    val: float
    """The metric that chose the checkpoint, on the validation part."""
    error: str = ""


def begin(trial: Trial, root: Path, out: Path, *, views: str, files: str) -> Path:
    """The trial's folder, made or found; an error where it holds another trial.

    `files` is the dataset's `file_digest`, taken once for all trials.
    """
    folder = out / trial.name
    facts = json.loads(json.dumps(_facts_of(trial, root, views, files), default=str))
    if (folder / FACTS).is_file():
        found = _read(folder / FACTS)
    elif (folder / run_folder.FACTS).is_file():
        found = {}
    else:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic.new_text(folder / FACTS) as file:
            json.dump(facts, file, indent=2)
        return folder
    other = sorted(key for key in facts.keys() | found.keys() if facts.get(key) != found.get(key))
    if other:
        words = [f"{key} ({MEANING[key]})" if key in MEANING else key for key in other]
        raise UserError(
            f"{folder} holds a trial that differs from this one in {', '.join(words)}: name "
            "another --out, or remove that folder."
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
    """`flags` go to `engine train` beside the settings: --cache, --loader, --device."""
    folder = begin(trial, root, out, views=views, files=files)
    if not (folder / RESULT).is_file():
        where = report.folder_of(folder, split=PART, views=views)
        error = _train(trial, root, folder, flags or []) or _engine(
            "evaluate", folder, "--data", root, "--split", PART, "--views", views, "--out", where
        )
        if error:
            return Result(trial=trial, figures={}, val=float("nan"), error=error)
        found = report.read(where)
        with atomic.new_text(folder / RESULT) as file:
            facts = {"val": checkpoint.read_best(folder)["value"], "figures": found[0]["video"]}
            json.dump(facts, file, indent=2)
    kept = _read(folder / RESULT, {"figures": dict, "val": int | float})
    return Result(trial=trial, figures=kept["figures"], val=kept["val"])


def _facts_of(trial: Trial, root: Path, views: str, files: str) -> dict[str, Any]:
    listed, scheme = splits.load_split(root, trial.scheme)
    clips = repr([dataclasses.astuple(clip) for clip in listed.clips])
    recipe = Recipe.resolve(trial.settings)
    return {
        **recipe.flat(),
        **_begun_from(recipe),
        "scheme": scheme,
        "clips": hashlib.sha256(clips.encode(errors="surrogateescape")).hexdigest()[:16],
        "files": files,
        "views": views,
    }


def _begun_from(recipe: Recipe) -> dict[str, str]:
    """Of the files that a trial starts from or learns from beside the clips."""
    found = {}
    weights = Path(recipe.weights)
    if recipe.weights not in ("none", "backbone") and weights.exists():
        found["files of its weights"] = digest_of_path(weights)
    if recipe.loss.teacher and (taught_by := checkpoint.named_or_best(Path(recipe.loss.teacher))):
        found["files of its teacher"] = digest_of_path(taught_by)
    return found


def _read(path: Path, needed: dict[str, Any] | None = None) -> dict[str, Any]:
    """`needed`: entries and their types."""
    try:
        found = json.loads(path.read_text())
        if not isinstance(found, dict):
            raise ValueError("it is no table")
        for name, kind in (needed or {}).items():
            if not isinstance(found.get(name), kind):
                raise ValueError(f"its {name} is missing or of the wrong type")
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}): remove {path.parent}.") from error
    return found


def _train(trial: Trial, root: Path, folder: Path, flags: list[str]) -> str:
    if (folder / run_folder.FACTS).is_file():
        return _engine("train", "--out", folder, "--data", root, "--resume", *flags)
    recipe = folder / "trial.toml"
    with atomic.new_text(recipe) as file:
        file.write(recipes.to_toml(trial.settings))
    return _engine(
        "train", "--data", root, "--scheme", trial.scheme, "--recipe", recipe, "--out", folder,
        *flags,
    )  # fmt: skip


def _engine(*arguments: object) -> str:
    """Nothing, or the sentence with which the command failed; what it says goes through."""
    process = subprocess.Popen(
        [sys.executable, "-m", "engine", *map(str, arguments)],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=partial(_end_with, os.getpid(), ctypes.CDLL(None)),
    )
    assert process.stderr is not None
    last = ""
    try:
        for line in process.stderr:
            sys.stderr.write(line)
            last = line.strip() or last
        status = process.wait()
    except BaseException:  # Ctrl-C reached it, too, and it is saving
        try:
            process.wait(STOPPING_S)
        except subprocess.TimeoutExpired:
            process.terminate()
            process.wait()
        raise
    if status == 130:
        raise UserError("stopped; the same command goes on from here.")
    if status < 0:
        return f"engine {arguments[0]} was killed by signal {-status}; run the study again to go on"
    if status == 1 and arguments[0] == "evaluate":  # its figures are of the others alone
        return "clips of the test part can't be read: `engine data check` says which"
    return "" if status in (0, 1) else last.removeprefix("engine: ")


def _end_with(study: int, libc: ctypes.CDLL) -> None:
    """Of the process that calls it: saved and stopped where the study is killed, rather than in the
    way of the next one."""
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != study:  # it was killed before
        os._exit(1)
