"""Trains a probe: the features of all clips first, then the last layers on them, in seconds.

The run is like any other; only the training loop gets features, not clips. If it is killed, the
features are kept, and training the layers starts again when the run is resumed.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dali_pipelines.loaders.loader_config import LoaderConfig
from engine.models import freezing
from engine.models.memory_format import channels_last
from engine.models.probe import Encoder, Probe
from engine.training import history
from engine.training.feature_store import FeatureStore, key_of
from engine.training.features import FeatureLoader, FeatureSource, NewLoader, make_encoder, views_of
from engine.training.loop import Trainer
from engine.training.recipe import Recipe
from engine.training.run_clips import RunClips
from trt.probe import user_cache

if TYPE_CHECKING:
    from lightning_fabric import Fabric

FOLDER = "features"
HEAD_OPTIONS = ("recurrence", "embedding", "centered", "freeze_backbone", "head")
"""Options of models that their features don't depend on."""


class ProbeTrainer(Trainer):
    """Trainer of a probe: its checkpoints hold the whole model, and only the best one is saved."""

    def _weights(self) -> dict[str, Tensor]:
        probe: Any = self.eval_model
        return probe.folded_weights()

    def _save(self, *, is_best: bool = False) -> None:
        if is_best:
            super()._save(is_best=True)
        self._check_pending()
        history.write(self.run_folder, self.state.history)


def feature_loaders(
    fabric: "Fabric",
    recipe: Recipe,
    model: nn.Module,
    clips: RunClips,
    configs: tuple[LoaderConfig, LoaderConfig],
    *,
    new_loader: NewLoader,
    loader_name: str,
    cache: Path | None,
    log: Callable[[str], None],
) -> tuple[FeatureLoader, FeatureLoader]:
    """Loaders of the features of the training and validation clips.

    Args:
        fabric: The device and the precision.
        recipe: The run's settings.
        model: The model; its encoder has its final weights.
        clips: The clips.
        configs: Settings of both loaders.
        new_loader: Creates a loader of clips.
        loader_name: Name of that loader; each gives slightly different pixels.
        cache: Folder of the features; None for the user's cache.
        log: Called with a line on what is computed.

    Raises:
        UserError: The model can't be probed, or no clip can be read.
    """
    encoder = Encoder(channels_last(model).eval())
    kept = {
        name: weight for name, weight in model.state_dict().items() if not freezing.is_new(name)
    }
    options = {name: value for name, value in recipe.options.items() if name not in HEAD_OPTIONS}
    facts = {
        "model": (recipe.model, recipe.preset, options), "clip": recipe.clip, "loader": loader_name,
        "precision": recipe.loop.precision, "device": fabric.device.type,
    }  # fmt: skip
    store = FeatureStore((cache or user_cache()) / FOLDER, key_of(kept, facts))
    num_views = recipe.probe.probe_views
    source = FeatureSource(
        store,
        num_views=num_views,
        new_loader=new_loader,
        make_encode=lambda num_clips: make_encoder(
            encoder, recipe.clip, fabric,
            precision=recipe.loop.precision, num_clips=num_clips, log=log,
        ),
    )  # fmt: skip
    train = source.loader(views_of(clips.train, num_views), configs[0])
    val = source.loader(clips.val, configs[1])
    log(f"features: {source.num_computed:,} views computed, {source.num_found:,} from {store.root}")
    return train, val


def make_probe(model: nn.Module, train: FeatureLoader) -> Probe:
    """The probe of a model, standardized by the features of the training clips."""
    return Probe(model, torch.stack([train.features[row.id, row.repeat] for row in train.rows]))
