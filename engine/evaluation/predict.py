"""A model's answers for every clip of a part, view by view. N clips, V views, C classes."""

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
    rows: list[Sample]
    """The clips that could be read, as the rows below number them."""
    labels_N: NDArray[np.int64]
    probabilities_NVC: NDArray[np.float64]
    failures: dict[Path, str]
    damage: str = ""
    """What was used though it isn't sound."""

    @property
    def of_videos_NC(self) -> NDArray[np.float64]:
        """The mean over a clip's views, as the field averages them."""
        return self.probabilities_NVC.mean(axis=1)


def predict(
    model: "Callable[[torch.Tensor], torch.Tensor]",
    loader: ClipLoader,
    on_clip: Callable[[], None] = lambda: None,
) -> Predictions:
    row_of = {row.id: row for row in loader.rows}
    rows: list[Sample] = []
    found: list[NDArray[np.float64]] = []
    for numbers, probabilities_BVC in answers(model, loader):
        rows += [row_of[number] for number in numbers]
        found.append(probabilities_BVC)
        for _ in numbers:
            on_clip()
    if not rows:
        path, reason = next(iter(loader.report.failures.items()))
        raise UserError(f"none of the clips can be read ({path}: {reason}).")
    return Predictions(
        rows=rows,
        labels_N=np.array([row.label for row in rows]),
        probabilities_NVC=np.concatenate(found),
        failures=dict(loader.report.failures),
        damage=loader.report.describe_damage(),
    )


def answers(
    model: "Callable[[torch.Tensor], torch.Tensor]", loader: ClipLoader
) -> Iterator[tuple[list[int], NDArray[np.float64]]]:
    """Batch by batch: the clips' ids, and their probabilities (B, V, C)."""
    views = loader.config.num_views
    for clips, _, ids in loader:
        found = model(clips).double().softmax(dim=1).cpu()
        yield ids[::views].tolist(), found.reshape(-1, views, found.shape[1]).numpy()
