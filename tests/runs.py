"""Folders of runs that nobody trained."""

from pathlib import Path
from typing import Any

import torch

from dali_pipelines.spec import ClipSpec
from engine.models import registry
from engine.training import checkpoint


def random_run(
    folder: Path,
    class_names: list[str],
    family: str = "vit-lstm",
    preset: str = "small",
    *,
    clip: ClipSpec | None = None,
    **options: Any,
) -> Path:
    """A network with random weights, which tells videos apart all the same."""
    spec, usual = registry.ModelSpec.of_preset(family, preset, len(class_names), **options)
    clip = clip or usual
    torch.manual_seed(0)
    model = registry.build(spec, clip)
    for name, weight in model.named_parameters():
        if name.endswith("head.weight") or name.endswith("classifier.weight"):
            torch.nn.init.normal_(weight, std=3.0)
    folder.mkdir()
    config = checkpoint.CheckpointConfig(
        model=spec, clip=clip, class_names=class_names, step=0, metrics={}, versions={}
    )
    saved = checkpoint.save(folder, config, model.state_dict(), {})
    checkpoint.mark_best(folder, saved, "nothing", 0.0)
    return folder
