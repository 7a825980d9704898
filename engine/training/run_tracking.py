"""What trackers are told about a run, and the files that they get at its end."""

import dataclasses
from pathlib import Path
from typing import Any

from engine.tracking.tracker import RunInfo
from engine.tracking.tracking import Tracking
from engine.training import checkpoint, run_folder
from engine.training.recipe import Recipe
from engine.training.run_folder import RunFacts


def run_info(out: Path, recipe: Recipe, facts: RunFacts, group: Path | None = None) -> RunInfo:
    """The name, the settings and the protocol of a run, for its trackers."""
    name = out.absolute().name if group is None else f"{group.absolute().name}/{out.name}"
    protocol = {
        "data": facts.data,
        "scheme": facts.scheme,
        "fold": "none" if facts.fold is None else str(facts.fold),
        "seed": str(recipe.loop.seed),
        "clips_digest": facts.digest,
        "command": facts.command,
    }
    return RunInfo(
        name=name, settings=_flat(recipe.flat()), protocol=protocol, versions=facts.versions
    )


def group_info(out: Path, recipe: Recipe, facts: RunFacts, num_folds: int) -> RunInfo:
    """The same for the folder of a cross-validation; `facts` are those of any fold."""
    info = run_info(out, recipe, facts)
    protocol = info.protocol | {"fold": f"all of {num_folds}"}
    del protocol["clips_digest"]  # each fold has its own
    return dataclasses.replace(info, protocol=protocol)


def end_tracking(
    tracking: Tracking, out: Path, history: list[dict[str, float]], *, finished: bool
) -> None:
    """Send the last metrics and the files of a run, and end it in its trackers."""
    tracking.log(history)
    files = [out / run_folder.RECIPE, out / run_folder.FACTS]
    best = checkpoint.best_of(out)
    weights = None
    if best is not None:
        files.append(best / checkpoint.CONFIG)
        weights = best / checkpoint.WEIGHTS
    tracking.end("finished" if finished else "stopped", {"run": files}, weights)


def _flat(settings: dict[str, Any], before: str = "") -> dict[str, Any]:
    """Nested tables, such as the options of a model, as dotted names."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{before}{name}.")
        else:
            flat[before + name] = value
    return flat
