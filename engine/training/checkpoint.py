"""Checkpoints of a run: folders that appear whole or not at all, and never hold a pickle.

    RUN/checkpoints/000120/model.safetensors   weights for evaluation
                           config.json         model, classes, clip, metrics, versions
                           state.pt            what resuming needs, read with weights_only
    RUN/best.json                              which of them did best on validation

A checkpoint is filled under another name, synced and renamed; only then are older ones removed. A
second one of the same step (before an epoch's validation, and after) is called 000120-2. So
whatever kills a run, the newest folder with a number is sound.
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
    """All that whoever runs the model later must know; the weights lie beside it."""

    model: ModelSpec
    clip: ClipSpec
    class_names: list[str]
    step: int
    metrics: dict[str, float]
    versions: dict[str, str]

    def __post_init__(self) -> None:
        """What is read from a file may be anything."""
        names, figures = self.class_names, self.metrics
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError("class_names is no list of names")
        if not isinstance(figures, dict) or not isinstance(self.versions, dict):
            raise ValueError("metrics and versions must be tables")
        if not isinstance(self.step, int) or not isinstance(self.model.num_classes, int):
            raise ValueError("step and num_classes must be whole numbers")

    def to_dict(self) -> dict[str, Any]:
        return {
            **{each.name: getattr(self, each.name) for each in dataclasses.fields(self)},
            "model": self.model.to_dict(),
            "clip": self.clip.to_dict(),
        }


def save(
    run: Path, config: CheckpointConfig, weights: "dict[str, torch.Tensor]", state: dict[str, Any]
) -> Path:
    """Write the checkpoint of `config.step`, and remove those that nobody needs any more."""
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
    except (OSError, RuntimeError, SafetensorError) as error:  # each library has its own
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{target} can't be written ({reason}); the checkpoint before it is sound: make room "
            "and go on with --resume."
        ) from error
    best = best_of(run)
    unfinished = list(target.parent.glob(".*"))  # of a run that was killed while it saved
    for old in [*_numbered(run), *unfinished]:
        if old not in (target, best):
            shutil.rmtree(old)
    return target


def mark_best(run: Path, checkpoint: Path, metric: str, value: float) -> None:
    with atomic.new_text(run / BEST) as file:
        json.dump({"checkpoint": checkpoint.name, "metric": metric, "value": value}, file)


def best_of(run: Path) -> Path | None:
    path = run / BEST
    if not path.is_file():
        return None
    name = read_best(run)["checkpoint"]
    found = run / FOLDER / name
    return found if found.is_dir() else None


def read_best(run: Path) -> dict[str, Any]:
    """What mark_best wrote."""
    path = run / BEST
    try:
        note = json.loads(path.read_text())
        if not NAME.fullmatch(note["checkpoint"]) or not isinstance(note["metric"], str):
            raise ValueError("it names no checkpoint of the run")
        if not isinstance(note["value"], int | float):
            raise ValueError("its value is no number")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{path} is damaged ({error}): name one of the run's checkpoints itself."
        ) from error
    return note


def named_or_best(path: Path) -> Path | None:
    """`path` itself where it is a checkpoint, or the best of the run that it is."""
    return path if (path / CONFIG).is_file() else best_of(path)


def last_of(run: Path) -> Path | None:
    """The newest sound checkpoint, from which a run resumes."""
    numbered = _numbered(run)
    return numbered[-1] if numbered else None


def load_config(checkpoint: Path) -> CheckpointConfig:
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
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = checkpoint / WEIGHTS
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} can't be read ({error}); take another checkpoint.") from error


def load_model(checkpoint: Path) -> "tuple[nn.Module, CheckpointConfig]":
    """The model as it was saved, ready to be run."""
    from engine.models import registry

    config = load_config(checkpoint)
    model = registry.build(config.model, config.clip)
    try:
        model.load_state_dict(load_weights(checkpoint))
    except RuntimeError as error:
        raise UserError(
            f"{checkpoint} was written for another version of {config.model.family}; train anew."
        ) from error
    return model.eval(), config


def load_state(checkpoint: Path) -> dict[str, Any]:
    import torch

    path = checkpoint / STATE
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise ValueError("it holds no names")
        return state
    except Exception as error:  # torch has a dozen for a damaged file
        raise UserError(f"{path} can't be read ({error}); take another checkpoint.") from error


def _numbered(run: Path) -> list[Path]:
    folder = run / FOLDER
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if NAME.fullmatch(path.name)), key=_age)


def _age(checkpoint: Path) -> tuple[int, int]:
    step, _, again = checkpoint.name.partition("-")
    return int(step), int(again or 1)


def _free_name(wanted: Path) -> Path:
    number, name = 1, wanted
    while name.exists():
        number += 1
        name = wanted.with_name(f"{wanted.name}-{number}")
    return name


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
