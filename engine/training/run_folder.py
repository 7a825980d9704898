"""What a run's folder holds beside its checkpoints, so that it can be resumed and repeated.

RUN/recipe.toml    every setting; `engine train --recipe` takes it
    run.json       the command, the data, where the weights came from, machine and versions
    manifest.csv   the clips and their splits, as they were
"""

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dali_pipelines.feed import ClipRow
from engine import atomic
from engine.errors import UserError
from engine.training import recipe as recipes
from engine.training.recipe import Recipe

RECIPE, FACTS, MANIFEST = "recipe.toml", "run.json", "manifest.csv"


def create(run: Path, recipe: Recipe, facts: dict[str, Any], manifest: Path) -> None:
    """Begin a folder; `facts` comes last, and says that the rest is whole."""
    if (run / FACTS).exists():
        raise UserError(
            f"{run} already holds a run: pass --resume to go on with it, or name another --out."
        )
    try:
        run.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(manifest, run / MANIFEST)
    except OSError as error:
        raise UserError(f"{run} can't be written to ({error.strerror}).") from error
    with atomic.new_text(run / RECIPE) as file:
        file.write(recipes.to_toml(recipe.flat()))
    with atomic.new_text(run / FACTS) as file:
        json.dump(facts, file, indent=2)


def load(run: Path) -> tuple[Recipe, dict[str, Any]]:
    if not (run / FACTS).is_file():
        raise UserError(f"{run} holds no run that could be resumed; leave --resume out.")
    return Recipe.resolve(recipes.read(run / RECIPE)), read_facts(run)


def read_facts(run: Path) -> dict[str, Any]:
    try:
        facts = json.loads((run / FACTS).read_text())
        if not isinstance(facts, dict):
            raise ValueError("it is no table")
    except (ValueError, RecursionError) as error:
        raise UserError(f"{run / FACTS} is damaged ({error}); begin the run anew.") from error
    return facts


def digest(rows: Sequence[ClipRow]) -> str:
    """Changes whenever other clips are trained on, or in another order."""
    lines = (f"{row.id} {row.path.name} {row.label} {row.frames} {row.repeat}\n" for row in rows)
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()[:16]
