"""Predicts every view of every clip. Shape letters: N clips, B batch, V views, C classes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dali_pipelines.loaders.loader_config import ClipLoader, Sample
from engine.errors import UserError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Predicted probabilities of a set of clips."""

    rows: list[Sample]
    """The clips that could be read, in the order of the rows of the arrays."""
    labels_N: NDArray[np.int64]
    probabilities_NVC: NDArray[np.float64]
    failures: dict[Path, str]
    damage: str = ""
    """Description of the damaged files that were used; empty if there were none."""

    @property
    def of_videos_NC(self) -> NDArray[np.float64]:
        """Mean probabilities over the views of each clip."""
        return self.probabilities_NVC.mean(axis=1)


def predict(
    model: "Callable[[torch.Tensor], torch.Tensor]",
    loader: ClipLoader,
    on_clip: Callable[[], None] = lambda: None,
) -> Predictions:
    """Predict all clips of `loader`.

    Args:
        model: Maps a batch of views to logits.
        loader: Loads the clips.
        on_clip: Called after each clip.

    Raises:
        UserError: No clip can be read.
    """
    row_of = {row.id: row for row in loader.rows}
    rows: list[Sample] = []
    batches: list[NDArray[np.float64]] = []
    for ids, probabilities_BVC in answers(model, loader):
        rows += [row_of[id_] for id_ in ids]
        batches.append(probabilities_BVC)
        for _ in ids:
            on_clip()
    if not rows:
        path, reason = next(iter(loader.report.failures.items()))
        raise UserError(f"none of the clips can be read ({path}: {reason}).")
    return Predictions(
        rows=rows,
        labels_N=np.array([row.label for row in rows]),
        probabilities_NVC=np.concatenate(batches),
        failures=dict(loader.report.failures),
        damage=loader.report.describe_damage(),
    )


def answers(
    model: "Callable[[torch.Tensor], torch.Tensor]", loader: ClipLoader
) -> Iterator[tuple[list[int], NDArray[np.float64]]]:
    """Yield the ids of the clips of each batch, and their probabilities (B, V, C)."""
    views = loader.config.num_views
    for clips, _, ids in loader:
        probs = model(clips).double().softmax(dim=1).cpu()
        yield ids[::views].tolist(), probs.reshape(-1, views, probs.shape[1]).numpy()
