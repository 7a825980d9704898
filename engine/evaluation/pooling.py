"""Pools the tests of the folds of a cross-validation: each clip is predicted once."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from engine.errors import UserError
from engine.evaluation.metrics import measure_levels
from engine.evaluation.predict import Predictions
from engine.evaluation.results import Evaluated, mean_and_std

NAME = "pooled"
"""Name of the pooled results in the report."""


@dataclass(frozen=True, kw_only=True)
class CrossValidated:
    """The results of a cross-validation."""

    pooled: Evaluated
    """Metrics of the clips of all folds together."""
    folds: list[Evaluated]

    def over_folds(self, metric: str) -> tuple[float, float | None]:
        """Mean and standard deviation of a metric over the folds."""
        return mean_and_std([fold.scores[metric] for fold in self.folds])


def pool(folds: Sequence[Evaluated], *, scheme: str, checkpoint: str) -> CrossValidated:
    """Pool the tests of the folds.

    Args:
        folds: The test of each fold.
        scheme: Description of the folds for the protocol.
        checkpoint: Description of the checkpoints for the protocol.

    Raises:
        UserError: The folds have different classes or settings, or test a clip twice.
    """
    first = folds[0]
    for fold in folds[1:]:
        if fold.class_names != first.class_names or fold.spec != first.spec:
            raise UserError(
                f"{fold.protocol.checkpoint} has other classes or clips than "
                f"{first.protocol.checkpoint}: train all folds of one folder together."
            )
    tested = Counter(row.path for fold in folds for row in fold.predictions.rows)
    path, num_tests = tested.most_common(1)[0]
    if num_tests > 1:
        raise UserError(
            f"{path} is tested in {num_tests} folds: train all folds of one folder together."
        )
    predictions = _concatenate([fold.predictions for fold in folds])
    sources = [source for fold in folds for source in fold.sources]
    protocol = replace(
        first.protocol,
        scheme=scheme,
        num_clips=len(predictions.rows),
        num_failed=sum(fold.protocol.num_failed for fold in folds),
        checkpoint=checkpoint,
        device=" and ".join(sorted({fold.protocol.device for fold in folds})),
    )
    pooled = replace(
        first,
        name=NAME,
        protocol=protocol,
        levels=measure_levels(predictions.probabilities_NVC, predictions.labels_N, sources),
        predictions=predictions,
        sources=sources,
    )
    return CrossValidated(pooled=pooled, folds=list(folds))


def _concatenate(parts: list[Predictions]) -> Predictions:
    failures: dict[Path, str] = {}
    for part in parts:
        failures |= part.failures
    return Predictions(
        rows=[row for part in parts for row in part.rows],
        labels_N=np.concatenate([part.labels_N for part in parts]),
        probabilities_NVC=np.concatenate([part.probabilities_NVC for part in parts]),
        failures=failures,
        damage="; ".join(part.damage for part in parts if part.damage),
    )
