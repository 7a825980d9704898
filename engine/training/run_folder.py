"""The files of a run's folder, beside its checkpoints, that make it resumable and repeatable.

RUN/recipe.toml    every setting; `engine train --recipe` reads it
    run.json       the command, the data, the origin of the weights, machine and versions
    manifest.csv   the clips and their splits when the run started
    .lock          locked by the training process; the system releases it when that process ends
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
    """The content of `run.json`."""

    data: str
    """Absolute path of the dataset's folder."""
    scheme: str
    """Description of the scheme that split the dataset."""
    split_by: str | None = None
    """Name of the scheme from --scheme; None if the dataset's own splits are used."""
    fold: int | None = None
    """Number of the dataset's fold; None if it isn't divided into folds."""
    command: str = ""
    classes: list[str] = field(default_factory=list)
    digest: str = ""
    """Digest of the clips; see the function `digest`."""
    weights: str = ""
    """The pretrained weights that were loaded."""
    world_size: int = 0
    versions: dict[str, str] = field(default_factory=dict)


NEEDED: dict[str, Any] = {"data": str, "scheme": str}
"""Names and types of the facts that are required to open a run."""
TO_RESUME: dict[str, Any] = {
    **NEEDED,
    "split_by": str | None,
    "fold": int | None,
    "classes": list,
    "digest": str,
    "world_size": int,
}
OLD_NAMES = {"dealt_by": "split_by", "world": "world_size"}
"""Renamed facts: the name in older runs, and the current name."""


def create(run: Path, recipe: Recipe, facts: RunFacts, clips: Manifest) -> None:
    """Create and lock a run's folder.

    run.json is written last: if it exists, the other files are complete.

    Raises:
        UserError: The folder holds a run or a dataset, is locked, or can't be written.
    """
    is_run = any((run / name).exists() for name in (FACTS, LOCK))
    if (run / MANIFEST).exists() and not is_run:
        raise UserError(f"{run} is the folder of a dataset: name another `out`.")
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{run} can't be written to ({error.strerror}).") from error
    hold(run)
    if (run / FACTS).exists():
        raise UserError(
            f"{run} already holds a run: pass `resume=True` to continue it, or name another `out`."
        )
    dataclasses.replace(clips, root=run).save()
    with atomic.new_text(run / RECIPE) as file:
        file.write(recipes.to_toml(recipe.flat()))
    with atomic.new_text(run / FACTS) as file:
        json.dump(dataclasses.asdict(facts), file, indent=2)


def hold(run: Path) -> None:
    """Lock the folder until this process ends, so that no other process trains in it.

    This is a record lock. Unlike a lock of flock, it isn't inherited by the loader's worker
    processes, which may live some seconds longer than a run that was killed.

    Raises:
        UserError: Another process holds the lock, or the folder can't be written.
    """
    try:
        descriptor = os.open(run / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UserError(
            f"another process is training in {run}: wait for it to end, or name another `out`."
        ) from error
    except OSError as error:
        raise UserError(f"{run} can't be written to ({error.strerror}).") from error


def load(run: Path) -> tuple[Recipe, RunFacts]:
    """Read the recipe and facts of a run that is to be resumed."""
    if not (run / FACTS).is_file():
        raise UserError(f"{run} holds no run that could be resumed; leave out `resume`.")
    return Recipe.resolve(recipes.read(run / RECIPE)), read_facts(run, TO_RESUME)


def read_facts(run: Path, needed: dict[str, Any] = NEEDED) -> RunFacts:
    """Read run.json and check that it has the facts in `needed`, with these types."""
    try:
        content = json.loads((run / FACTS).read_text())
        if not isinstance(content, dict):
            raise ValueError("it is no object")
        facts = {OLD_NAMES.get(name, name): value for name, value in content.items()}
        for name, type_ in needed.items():
            if not isinstance(facts.get(name), type_):
                raise ValueError(f"its {name} is missing or of the wrong type")
    except (ValueError, RecursionError) as error:
        raise UserError(f"{run / FACTS} is damaged ({error}); start the run again.") from error
    known = {entry.name for entry in dataclasses.fields(RunFacts)}
    return RunFacts(**{name: value for name, value in facts.items() if name in known})


def digest(rows: Sequence[Sample]) -> str:
    """Digest of the clips and their order, to detect a changed dataset when resuming."""
    lines = (f"{row.id} {row.path.name} {row.label} {row.frames} {row.repeat}\n" for row in rows)
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()[:16]
