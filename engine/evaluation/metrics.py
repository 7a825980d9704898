"""Classification metrics. Shape letters: N clips, V views, C classes, G groups."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.confusion import macro, rates_of

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
    num_classes = probabilities_NC.shape[1]
    best_N = probabilities_NC.argmax(axis=1)
    confusion_CC = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(confusion_CC, (labels_N, best_N), 1)
    top5 = np.argpartition(-probabilities_NC, min(5, num_classes) - 1)[:, : min(5, num_classes)]
    figures: dict[str, Any] = {
        "num_clips": len(labels_N),
        "top1": float((best_N == labels_N).mean()),
        "top5": float((top5 == labels_N[:, None]).any(axis=1).mean()),
        "top1_interval": bootstrap_interval(best_N == labels_N, groups, seed=seed),
    }
    per_class = rates_of(confusion_CC)
    support_C = confusion_CC.sum(axis=1)
    for name, rate_C in per_class.items():
        figures[f"{name}_macro"] = macro(rate_C, confusion_CC)
        figures[f"{name}_weighted"] = float(np.average(rate_C, weights=support_C))
    figures["calibration_error"] = _calibration_error(probabilities_NC, best_N == labels_N)
    figures["confusion"] = confusion_CC.tolist()
    figures["per_class"] = {name: rate_C.tolist() for name, rate_C in per_class.items()}
    return figures


def measure_levels(
    probabilities_NVC: NDArray[np.float64], labels_N: NDArray[np.int64], sources: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Metrics of each `video` and, with several views, of each `clip` of one.

    Args:
        probabilities_NVC: Predicted probabilities of each view of each video.
        labels_N: Correct classes.
        sources: Source of each video.
    """
    _, num_views, num_classes = probabilities_NVC.shape
    levels = {"video": measure(probabilities_NVC.mean(axis=1), labels_N, sources)}
    if num_views > 1:
        of_views = probabilities_NVC.reshape(-1, num_classes)
        groups = [source for source in sources for _ in range(num_views)]
        levels["clip"] = measure(of_views, labels_N.repeat(num_views), groups)
    return levels


def _calibration_error(probabilities_NC: NDArray[np.float64], right_N: NDArray[np.bool_]) -> float:
    """Expected calibration error: mean distance of confidence and accuracy, over bins."""
    confidence_N = probabilities_NC.max(axis=1)
    bin_N = np.digitize(confidence_N, np.linspace(0, 1, BINS + 1))
    gaps = np.bincount(bin_N, weights=confidence_N - right_N)
    return float(np.abs(gaps).sum() / len(right_N))


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
