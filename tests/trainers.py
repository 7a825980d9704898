"""Small trainers, as `engine train` builds them."""

from pathlib import Path
from typing import Any

import torch

from dali_pipelines.loaders.loader_config import LoaderConfig
from engine.data import manifest
from engine.data.loading import make_loader
from engine.data.samples import samples_of
from engine.training.display import Display
from engine.training.fabric import make_fabric
from engine.training.loop import Trainer
from engine.training.recipe import Recipe


def trainer_of(dataset: Path, run: Path, display: Display, **settings: Any) -> Trainer:
    recipe = Recipe.resolve(
        {
            "model": "vit-lstm", "preset": "small", "num_frames": 4, "resize": 32, "crop": 32,
            "batch_size": 4, "epochs": 2, "flip": False, **settings,
        }
    )  # fmt: skip
    from engine.models.registry import build

    listed = manifest.load(dataset)
    fabric, _ = make_fabric("cpu", 1, 1, recipe.loop.precision)
    torch.manual_seed(recipe.loop.seed)
    spec = recipe.model_spec(len(listed.class_names))
    feed = LoaderConfig(
        spec=recipe.clip,
        batch_size=recipe.loop.batch_size // recipe.loop.accumulate,
        augment=recipe.augment,
        shuffle=True,
    )
    seen = LoaderConfig(spec=recipe.clip, batch_size=4)
    run.mkdir(exist_ok=True)
    return Trainer(
        fabric,
        recipe,
        build(spec, recipe.clip),
        spec=spec,
        class_names=listed.class_names,
        train=make_loader("dali", samples_of(listed, "train")[0], feed),
        val=make_loader("dali", samples_of(listed, "val")[0], seen),
        run=run,
        display=display,
        versions={},
    )
