"""The folder of a cross-validation: one run for each fold, all with the same settings.

DIR/folds.json    the folds of the dataset, and the settings of every run
    fold-1        the run of the first fold
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine import atomic
from engine.data.folds import Folds
from engine.errors import UserError
from engine.training import run_folder
from engine.training.recipe import Recipe

FACTS = "folds.json"
FOLDS = "its folds"


@dataclass(frozen=True, kw_only=True)
class FoldRuns:
    """What `folds.json` says about all folds."""

    scheme: str
    num_folds: int
    seed: int


def is_folder_of_folds(path: Path) -> bool:
    return (path / FACTS).is_file()


def run_of(out: Path, fold: int) -> Path:
    """The folder of a fold's run."""
    return out / f"fold-{fold}"


def begin(out: Path, folds: Folds, recipe: Recipe) -> None:
    """Create the folder, or check that it holds runs of these folds with these settings.

    Raises:
        UserError: It holds something else; the message names the difference.
    """
    facts = json.loads(json.dumps(_facts_of(folds, recipe), default=str))
    if is_folder_of_folds(out):
        existing = _read(out)
        theirs, ours = ({FOLDS: each["folds"], **each["recipe"]} for each in (existing, facts))
        keys = theirs.keys() | ours.keys()
        if changed := sorted(key for key in keys if theirs.get(key) != ours.get(key)):
            raise UserError(
                f"{out} was begun with other values of {', '.join(changed)} (see {out / FACTS}): "
                "pass the same ones to continue, or name another `out`."
            )
        return
    for name in (run_folder.FACTS, run_folder.MANIFEST):
        if (out / name).exists():
            raise UserError(f"{out} is the folder of a run or a dataset: name another `out`.")
    if strays := sorted(out.glob("fold-*")):
        raise UserError(f"{out} has no {FACTS} for {strays[0].name}: name another `out`.")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out} can't be written to ({error.strerror}).") from error
    with atomic.new_text(out / FACTS) as file:
        json.dump(facts, file, indent=2)


def read(out: Path) -> FoldRuns:
    """Read `folds.json`."""
    folds = _read(out)["folds"]
    return FoldRuns(scheme=folds["scheme"], num_folds=len(folds["digests"]), seed=folds["seed"])


def _facts_of(folds: Folds, recipe: Recipe) -> dict[str, Any]:
    made = {"scheme": folds.scheme, "seed": folds.seed, "digests": folds.digests}
    return {"folds": made, "recipe": recipe.flat()}


def _read(out: Path) -> dict[str, Any]:
    try:
        facts = json.loads((out / FACTS).read_text())
        if not isinstance(facts["recipe"], dict) or not isinstance(facts["folds"]["digests"], list):
            raise ValueError("its settings or its folds are missing")
        if not {"scheme", "seed"} <= facts["folds"].keys():
            raise ValueError("the scheme or the seed of its folds is missing")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{out / FACTS} is damaged ({error}): name another `out`, or remove {out}."
        ) from error
    return facts
