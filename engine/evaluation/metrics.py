"""Classification metrics. Shape letters: N clips, C classes, G groups."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 15
"""Bins of the expected calibration error."""
RESAMPLES = 2000


def measure(
    probabilities_NC: NDArray[np.float64],
    labels_N: NDArray[np.int64],
    groups: Sequence[str],
    *,
    seed: int = 0,
) -> dict[str, Any]:
    """Compute all metrics.

    Args:
        probabilities_NC: Predicted probabilities.
        labels_N: Correct classes.
        groups: Source of each clip; the bootstrap of the interval resamples whole sources.
        seed: Seed of the bootstrap.
    """
    import torch
    from torchmetrics.classification import (
        MulticlassAccuracy,
        MulticlassCalibrationError,
        MulticlassConfusionMatrix,
        MulticlassF1Score,
        MulticlassPrecision,
        MulticlassRecall,
    )

    num_classes = probabilities_NC.shape[1]
    probs, labels = torch.from_numpy(probabilities_NC), torch.from_numpy(labels_N)
    figures: dict[str, Any] = {
        "num_clips": len(labels_N),
        "top1": float(MulticlassAccuracy(num_classes, average="micro")(probs, labels)),
        "top5": float(
            MulticlassAccuracy(num_classes, average="micro", top_k=min(5, num_classes))(
                probs, labels
            )
        ),
    }
    figures["top1_interval"] = bootstrap_interval(
        probabilities_NC.argmax(axis=1) == labels_N, groups, seed=seed
    )
    metrics = {
        "precision": MulticlassPrecision,
        "recall": MulticlassRecall,
        "f1": MulticlassF1Score,
    }
    for name, metric in metrics.items():
        for average in ("macro", "weighted"):
            value = metric(num_classes, average=average)(probs, labels)
            figures[f"{name}_{average}"] = float(value)
    figures["calibration_error"] = float(
        MulticlassCalibrationError(num_classes, n_bins=BINS)(probs, labels)
    )
    figures["confusion"] = MulticlassConfusionMatrix(num_classes)(probs, labels).tolist()
    figures["per_class"] = {
        name: metric(num_classes, average="none")(probs, labels).tolist()
        for name, metric in metrics.items()
    }
    return figures


def bootstrap_interval(
    right_N: NDArray[np.bool_], groups: Sequence[str], *, seed: int = 0
) -> tuple[float, float]:
    """95% confidence interval of the accuracy by the percentile bootstrap.

    Whole groups (sources) are resampled, because the clips of one source are not independent.
    """
    _, group_N = np.unique(np.array(groups), return_inverse=True)
    counts_G = np.bincount(group_N)
    right_G = np.bincount(group_N, weights=right_N)
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(counts_G), size=(RESAMPLES, len(counts_G)))
    rates = right_G[drawn].sum(axis=1) / counts_G[drawn].sum(axis=1)
    low, high = np.percentile(rates, [2.5, 97.5])
    return float(low), float(high)


def most_confused(confusion: Sequence[Sequence[int]], most: int) -> list[tuple[int, int, int]]:
    """The most frequent confusions, at most `most`, as (true class, predicted class, count)."""
    pairs = [
        (true, predicted, count)
        for true, row in enumerate(confusion)
        for predicted, count in enumerate(row)
        if true != predicted and count
    ]
    return sorted(pairs, key=lambda pair: -pair[2])[:most]
