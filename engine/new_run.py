"""Completes the settings of a new run, for the functions of the public Python API."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import UserError

if TYPE_CHECKING:
    from engine.training.recipe import Recipe
    from engine.training.run_folder import RunFacts


def begin_run(
    data: str | Path,
    *,
    recipe: str | Path | None = None,
    scheme: str | None = None,
    fold: int | None = None,
    size: int | None = None,
    device: str = "auto",
    command: str = "",
    log: Callable[[str], None] = lambda line: None,
    **settings: Any,
) -> "tuple[Recipe, RunFacts]":
    """Complete the settings of a new run, without starting it; see `train` for the arguments."""
    from engine.training import run
    from engine.training.recipe import merge

    if scheme and fold:
        raise UserError("a fold has its own split: don't pass `scheme` with it.")
    given = {name: value for name, value in settings.items() if value is not None}
    named = {"preset", "weights", "options", "probe"} & given.keys()
    is_preset_free = not recipe and not named
    return run.begin(
        merge(_settings_of(recipe), given) if recipe else given,
        data=Path(data), scheme=scheme, fold=fold, size=size, is_preset_free=is_preset_free,
        device=device, command=command, log=log,
    )  # fmt: skip


def _settings_of(recipe: str | Path) -> dict[str, Any]:
    """The settings of a recipe file, or of a shipped recipe."""
    from engine.experiments.experiment import Experiment
    from engine.training import recipe as recipes

    path = Path(recipe)
    return recipes.read(path) if path.is_file() else Experiment.load(str(recipe)).train
