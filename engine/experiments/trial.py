"""Running one trial: `engine train`, then `engine evaluate`, in processes of their own.

What is done is found done again: a finished trial is read from its report, a begun one is resumed.
"""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.data import manifest, splits
from engine.errors import UserError
from engine.experiments.experiment import Trial
from engine.training import recipe as recipes
from engine.training import run_folder

STOPPING_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Result:
    trial: Trial
    figures: dict[str, Any]
    """Of the test part, each video; empty where the trial failed."""
    val: float
    """The metric that chose the checkpoint, on the validation part."""
    error: str = ""


def run(
    trial: Trial, root: Path, out: Path, *, views: str, flags: list[str] | None = None
) -> Result:
    """`flags` go to `engine train` beside the settings: --cache, --loader, --device."""
    folder = out / trial.name
    report = folder / "evaluation" / "report.json"
    if not report.is_file():
        splits.apply(manifest.load(root), splits.SCHEMES[trial.scheme]())
        error = _train(trial, root, folder, flags or []) or _engine(
            "evaluate", folder, "--split", "test", "--views", views
        )
        if error:
            return Result(trial=trial, figures={}, val=float("nan"), error=error)
    (found,) = json.loads(report.read_text())
    best = json.loads((folder / "best.json").read_text())
    return Result(trial=trial, figures=found["video"], val=best["value"])


def _train(trial: Trial, root: Path, folder: Path, flags: list[str]) -> str:
    if (folder / run_folder.FACTS).is_file():
        return _engine("train", "--out", folder, "--data", root, "--resume", *flags)
    folder.mkdir(parents=True, exist_ok=True)
    recipe = folder / "trial.toml"
    recipe.write_text(recipes.to_toml(trial.settings))
    return _engine("train", "--data", root, "--recipe", recipe, "--out", folder, *flags)


def _engine(*arguments: object) -> str:
    """Nothing, or the sentence with which the command failed; what it says goes through."""
    process = subprocess.Popen(
        [sys.executable, "-m", "engine", *map(str, arguments)], stderr=subprocess.PIPE, text=True
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
    return "" if status in (0, 1) else last.removeprefix("engine: ")
