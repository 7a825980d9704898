"""Precision, recall and F1 from counts [true class, predicted class]. Shape letter: C classes."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def rates_of(confusion_CC: NDArray[Any]) -> dict[str, NDArray[np.float64]]:
    """Precision, recall and F1 of each class; a rate of nothing is 0."""
    right_C = confusion_CC.diagonal()
    predicted_C, true_C = confusion_CC.sum(axis=0), confusion_CC.sum(axis=1)

    def rate(total_C: NDArray[Any], factor: int = 1) -> NDArray[np.float64]:
        return np.divide(factor * right_C, total_C, out=np.zeros(len(right_C)), where=total_C > 0)

    return {
        "precision": rate(predicted_C),
        "recall": rate(true_C),
        "f1": rate(predicted_C + true_C, factor=2),
    }


def macro(rate_C: NDArray[np.float64], confusion_CC: NDArray[Any]) -> float:
    """Mean over the classes that occur or are predicted."""
    seen_C = confusion_CC.sum(axis=0) + confusion_CC.sum(axis=1) > 0
    return float(rate_C[seen_C].mean())
