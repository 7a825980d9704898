"""What the field reports of a set of answers. N clips, C classes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 15
"""Of the calibration error."""
RESAMPLES = 2000


def measure(
    probabilities_NC: NDArray[np.float64],
    labels_N: NDArray[np.int64],
    groups: Sequence[str],
    *,
    seed: int = 0,
) -> dict[str, Any]:
    """All figures for one level; `groups` are the sources, which the interval resamples whole."""
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
    found, labels = torch.from_numpy(probabilities_NC), torch.from_numpy(labels_N)
    figures: dict[str, Any] = {
        "num_clips": len(labels_N),
        "top1": float(MulticlassAccuracy(num_classes, average="micro")(found, labels)),
        "top5": float(
            MulticlassAccuracy(num_classes, average="micro", top_k=min(5, num_classes))(
                found, labels
            )
        ),
    }
    figures["top1_interval"] = bootstrap_interval(
        probabilities_NC.argmax(axis=1) == labels_N, groups, seed=seed
    )
    kinds = {"precision": MulticlassPrecision, "recall": MulticlassRecall, "f1": MulticlassF1Score}
    for name, kind in kinds.items():
        for average in ("macro", "weighted"):
            figures[f"{name}_{average}"] = float(kind(num_classes, average=average)(found, labels))
    figures["calibration_error"] = float(
        MulticlassCalibrationError(num_classes, n_bins=BINS)(found, labels)
    )
    figures["confusion"] = MulticlassConfusionMatrix(num_classes)(found, labels).tolist()
    figures["per_class"] = {
        name: kind(num_classes, average="none")(found, labels).tolist()
        for name, kind in kinds.items()
    }
    return figures


def bootstrap_interval(
    right_N: NDArray[np.bool_], groups: Sequence[str], *, seed: int = 0
) -> tuple[float, float]:
    """95% of the accuracies that as many groups, drawn again and again, would have given.

    Clips of one source are right or wrong together, so that sources are drawn and not clips.
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
    """(true, predicted, count) of the pairs that are taken for each other most often."""
    pairs = [
        (true, predicted, count)
        for true, row in enumerate(confusion)
        for predicted, count in enumerate(row)
        if true != predicted and count
    ]
    return sorted(pairs, key=lambda pair: -pair[2])[:most]
