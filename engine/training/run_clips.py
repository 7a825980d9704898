"""The clips of a training run, as its loaders and its loss need them."""

from dataclasses import dataclass
from pathlib import Path

import torch

from dali_pipelines.loaders.loader_config import Sample
from engine.data import folds
from engine.data.manifest import Manifest
from engine.data.samples import samples_of
from engine.errors import UserError
from engine.training import run_folder
from engine.training.losses import class_weights, oversample
from engine.training.recipe import Recipe
from engine.training.run_folder import RunFacts


@dataclass(frozen=True, kw_only=True)
class RunClips:
    """Training and validation clips; bad ones are left out."""

    manifest: Manifest
    train: list[Sample]
    val: list[Sample]
    num_bad: int
    """Clips of both splits that `engine data check` found bad."""
    digest: str
    weights_N: torch.Tensor | None
    """Weight of each class in the loss; None for equal weights."""

    def in_words(self) -> str:
        return (
            f"{len(self.train):,} training clips, {len(self.val):,} validation clips, "
            f"{len(self.manifest.class_names)} classes; {self.num_bad} bad clips left out"
        )


def gather(recipe: Recipe, facts: RunFacts, out: Path, *, resume: bool) -> RunClips:
    """Read the clips of a run, balanced as the recipe says.

    Raises:
        UserError: The clips can't be trained on, or a resumed run started with others.
    """
    root = Path(facts.data)
    manifest, _ = folds.load_split(root, facts.split_by, facts.fold)
    if len(manifest.class_names) < 2:
        raise UserError(f"{root} has only one class; training needs at least two.")
    train_rows, num_bad = samples_of(manifest, "train")
    val_rows, num_bad_val = samples_of(manifest, "val")
    weights_N = None
    if recipe.loss.balance == "weights":
        weights_N = class_weights(train_rows, len(manifest.class_names))
    elif recipe.loss.balance == "sampling":
        train_rows = oversample(train_rows)
    digest = run_folder.digest([*train_rows, *val_rows])
    if resume and (digest, manifest.class_names) != (facts.digest, facts.classes):
        raise UserError(
            f"the clips of {root} are not those that {out} started with (see "
            f"{out / run_folder.MANIFEST}); restore them, or start a new run."
        )
    return RunClips(
        manifest=manifest,
        train=train_rows,
        val=val_rows,
        num_bad=num_bad + num_bad_val,
        digest=digest,
        weights_N=weights_N,
    )
