"""Checkpoints of a run: written atomically as folders, and loaded without unsafe pickles.

    RUN/checkpoints/000120/model.safetensors   weights for evaluation
                           config.json         model, classes, clip, metrics, versions
                           state.pt            what resuming needs, read with weights_only
    RUN/best.json                              the best checkpoint on the validation split

A checkpoint is written under a temporary name, synced and renamed; only then are older ones
removed. A second checkpoint of the same step (before and after an epoch's validation) is named
000120-2. So the newest numbered folder is intact even if a run is killed.
"""

import dataclasses
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dali_pipelines.spec import ClipSpec
from engine import atomic
from engine.errors import UserError
from engine.models.registry import ModelSpec

if TYPE_CHECKING:
    import torch
    from torch import nn

FOLDER = "checkpoints"
BEST = "best.json"
NAME = re.compile(r"\d+(-\d+)?")
WEIGHTS, CONFIG, STATE = "model.safetensors", "config.json", "state.pt"


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """Everything needed to run the model later, except its weights."""

    model: ModelSpec
    clip: ClipSpec
    class_names: list[str]
    step: int
    metrics: dict[str, float]
    versions: dict[str, str]

    def __post_init__(self) -> None:
        """Check the types, because the values may come from a file."""
        names, metrics = self.class_names, self.metrics
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError("class_names must be a list of names")
        if not isinstance(metrics, dict) or not isinstance(self.versions, dict):
            raise ValueError("metrics and versions must be objects")
        if not isinstance(self.step, int) or not isinstance(self.model.num_classes, int):
            raise ValueError("step and num_classes must be whole numbers")

    def to_dict(self) -> dict[str, Any]:
        return {
            **{field.name: getattr(self, field.name) for field in dataclasses.fields(self)},
            "model": self.model.to_dict(),
            "clip": self.clip.to_dict(),
        }


def save(
    run: Path, config: CheckpointConfig, weights: "dict[str, torch.Tensor]", state: dict[str, Any]
) -> Path:
    """Write a checkpoint, then remove all others except the best one.

    Args:
        run: The run's folder.
        config: What config.json stores.
        weights: State dict of the eval model.
        state: Training state for resuming.

    Returns:
        The folder of the checkpoint.

    Raises:
        UserError: The checkpoint can't be written; the previous one is kept.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    target = _free_name(run / FOLDER / f"{config.step:06}")
    try:
        with atomic.new_folder(target) as stage:
            save_file(
                {name: value.contiguous() for name, value in weights.items()}, stage / WEIGHTS
            )
            torch.save(state, stage / STATE)
            (stage / CONFIG).write_text(json.dumps(config.to_dict(), indent=2) + "\n")
            for path in stage.iterdir():
                _sync(path)
            _sync(stage)
        _sync(target.parent)
    except (OSError, RuntimeError, SafetensorError) as error:  # the type depends on the library
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{target} can't be written ({reason}); the previous checkpoint is intact: free disk "
            "space and continue with `resume=True`."
        ) from error
    best = best_of(run)
    unfinished = list(target.parent.glob(".*"))  # left by a run that was killed while saving
    for old in [*_numbered(run), *unfinished]:
        if old not in (target, best):
            shutil.rmtree(old)
    return target


def mark_best(run: Path, checkpoint: Path, metric: str, value: float) -> None:
    """Record `checkpoint` as the run's best one, with the value of the metric that selects it."""
    with atomic.new_text(run / BEST) as file:
        json.dump({"checkpoint": checkpoint.name, "metric": metric, "value": value}, file)


def best_of(run: Path) -> Path | None:
    """The best checkpoint of a run; None if there is none yet."""
    path = run / BEST
    if not path.is_file():
        return None
    name = read_best(run)["checkpoint"]
    checkpoint = run / FOLDER / name
    return checkpoint if checkpoint.is_dir() else None


def read_best(run: Path) -> dict[str, Any]:
    """Read best.json: `checkpoint`, `metric` and `value`."""
    path = run / BEST
    try:
        note = json.loads(path.read_text())
        if not NAME.fullmatch(note["checkpoint"]) or not isinstance(note["metric"], str):
            raise ValueError("it names no checkpoint of the run")
        if not isinstance(note["value"], int | float):
            raise ValueError("its value is not a number")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{path} is damaged ({error}): name a checkpoint of the run instead of the run."
        ) from error
    return note


def named_or_best(path: Path) -> Path | None:
    """`path` if it is a checkpoint, otherwise the best checkpoint of the run; None without one."""
    return path if (path / CONFIG).is_file() else best_of(path)


def last_of(run: Path) -> Path | None:
    """The newest checkpoint, from which a run resumes."""
    numbered = _numbered(run)
    return numbered[-1] if numbered else None


def load_config(checkpoint: Path) -> CheckpointConfig:
    """Read and check config.json of a checkpoint."""
    path = checkpoint / CONFIG
    try:
        values = json.loads(path.read_text())
        return CheckpointConfig(
            **{
                **values,
                "model": ModelSpec.from_dict(values["model"]),
                "clip": ClipSpec.from_dict(values["clip"]),
            }
        )
    except FileNotFoundError as error:
        raise UserError(f"{checkpoint} is no checkpoint: it holds no {CONFIG}.") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}); take another checkpoint.") from error


def load_weights(checkpoint: Path) -> "dict[str, torch.Tensor]":
    """Read the state dict of the eval model."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = checkpoint / WEIGHTS
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} can't be read ({error}); take another checkpoint.") from error


def load_model(checkpoint: Path) -> "tuple[nn.Module, CheckpointConfig]":
    """Load a checkpoint's model in eval mode, and its config.

    Raises:
        UserError: A file is missing or damaged, or the weights don't fit this version's model.
    """
    from engine.models import registry

    config = load_config(checkpoint)
    model = registry.build(config.model, config.clip)
    try:
        model.load_state_dict(load_weights(checkpoint))
    except RuntimeError as error:
        raise UserError(
            f"{checkpoint} was written for another version of {config.model.family}; train again."
        ) from error
    return model.eval(), config


def load_state(checkpoint: Path) -> dict[str, Any]:
    """Read the training state, from which a run resumes."""
    import torch

    path = checkpoint / STATE
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise ValueError("it is not a dict")
        return _with_new_names(state)
    except Exception as error:  # torch raises many types for a damaged file
        raise UserError(f"{path} can't be read ({error}); use another checkpoint.") from error


def _with_new_names(state: dict[str, Any]) -> dict[str, Any]:
    """The state of a run from before parts of it were renamed."""
    if "optimiser" in state:
        state["optimizer"] = state.pop("optimiser")
        state["standing"]["num_correct"] = state["standing"].pop("num_right")
    return state


def _numbered(run: Path) -> list[Path]:
    folder = run / FOLDER
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if NAME.fullmatch(path.name)), key=_sort_key)


def _sort_key(checkpoint: Path) -> tuple[int, int]:
    step, _, number = checkpoint.name.partition("-")
    return int(step), int(number or 1)


def _free_name(path: Path) -> Path:
    number, candidate = 1, path
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
