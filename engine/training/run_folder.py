"""What a run's folder holds beside its checkpoints, so that it can be resumed and repeated.

RUN/recipe.toml    every setting; `engine train --recipe` takes it
    run.json       the command, the data, where the weights came from, machine and versions
    manifest.csv   the clips and their splits, as they were
    .lock          held by the process that trains; the system frees it when that process ends
"""

import dataclasses
import fcntl
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dali_pipelines.loaders.loader_config import Sample
from engine import atomic
from engine.data.manifest import Manifest
from engine.errors import UserError
from engine.training import recipe as recipes
from engine.training.recipe import Recipe

RECIPE, FACTS, MANIFEST, LOCK = "recipe.toml", "run.json", "manifest.csv", ".lock"


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What `run.json` says."""

    data: str
    """The dataset's folder, absolute."""
    scheme: str
    """How its clips were split, in words."""
    split_by: str | None = None
    """The scheme that --scheme named; None where the dataset's own splits count."""
    command: str = ""
    classes: list[str] = field(default_factory=list)
    digest: str = ""
    """Of the clips; see `digest`."""
    weights: str = ""
    """Which published weights it began with."""
    world_size: int = 0
    versions: dict[str, str] = field(default_factory=dict)


NEEDED: dict[str, Any] = {"data": str, "scheme": str}
"""What whoever opens a run needs of its facts, and of which type."""
TO_RESUME: dict[str, Any] = {
    **NEEDED,
    "split_by": str | None,
    "classes": list,
    "digest": str,
    "world_size": int,
}
OLD_NAMES = {"dealt_by": "split_by", "world": "world_size"}
"""In runs from before these were renamed."""


def create(run: Path, recipe: Recipe, facts: RunFacts, clips: Manifest) -> None:
    """Begin a folder and hold it; `facts` comes last, and says that the rest is whole."""
    is_run = any((run / name).exists() for name in (FACTS, LOCK))
    if (run / MANIFEST).exists() and not is_run:
        raise UserError(f"{run} is the folder of a dataset: name another --out.")
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{run} can't be written to ({error.strerror}).") from error
    hold(run)
    if (run / FACTS).exists():
        raise UserError(
            f"{run} already holds a run: pass --resume to go on with it, or name another --out."
        )
    dataclasses.replace(clips, root=run).save()
    with atomic.new_text(run / RECIPE) as file:
        file.write(recipes.to_toml(recipe.flat()))
    with atomic.new_text(run / FACTS) as file:
        json.dump(dataclasses.asdict(facts), file, indent=2)


def hold(run: Path) -> None:
    """Keep other processes from training in this folder for as long as this one lives.

    A record lock: unlike flock's, it isn't inherited by a loader's worker processes, which may
    outlive a run that was killed by some seconds.
    """
    try:
        descriptor = os.open(run / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UserError(
            f"another process is training in {run}: wait for it to end, or name another --out."
        ) from error
    except OSError as error:
        raise UserError(f"{run} can't be written to ({error.strerror}).") from error


def load(run: Path) -> tuple[Recipe, RunFacts]:
    if not (run / FACTS).is_file():
        raise UserError(f"{run} holds no run that could be resumed; leave --resume out.")
    return Recipe.resolve(recipes.read(run / RECIPE)), read_facts(run, TO_RESUME)


def read_facts(run: Path, needed: dict[str, Any] = NEEDED) -> RunFacts:
    try:
        found = json.loads((run / FACTS).read_text())
        if not isinstance(found, dict):
            raise ValueError("it is no table")
        facts = {OLD_NAMES.get(name, name): value for name, value in found.items()}
        for name, kind in needed.items():
            if not isinstance(facts.get(name), kind):
                raise ValueError(f"its {name} is missing or of the wrong type")
    except (ValueError, RecursionError) as error:
        raise UserError(f"{run / FACTS} is damaged ({error}); begin the run anew.") from error
    known = {entry.name for entry in dataclasses.fields(RunFacts)}
    return RunFacts(**{name: value for name, value in facts.items() if name in known})


def digest(rows: Sequence[Sample]) -> str:
    """Changes whenever other clips are trained on, or in another order."""
    lines = (f"{row.id} {row.path.name} {row.label} {row.frames} {row.repeat}\n" for row in rows)
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()[:16]
