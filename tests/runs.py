"""Folders of runs that nobody trained."""

from pathlib import Path

import torch

from engine.models import registry
from engine.training import checkpoint


def random_run(folder: Path, class_names: list[str]) -> Path:
    """A small network with random weights, which tells videos apart all the same."""
    spec, clip = registry.ModelSpec.of_preset("vit-lstm", "small", len(class_names))
    torch.manual_seed(0)
    model = registry.build(spec, clip)
    torch.nn.init.normal_(model.head.weight, std=3.0)  # type: ignore[union-attr,arg-type]
    folder.mkdir()
    config = checkpoint.CheckpointConfig(
        model=spec, clip=clip, class_names=class_names, step=0, metrics={}, versions={}
    )
    saved = checkpoint.save(folder, config, model.state_dict(), {})
    checkpoint.mark_best(folder, saved, "nothing", 0.0)
    return folder
