"""Compares the logits of a compiled model with those of the original model.

Shape letters: N clips, C classes.
"""

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

Logits = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Largest accepted differences."""

    agreement: float = 0.99
    """Smallest share of clips with the same label."""
    drop: float = 0.005
    """Largest drop of accuracy."""
    accepted: bool = False
    """Whether the user accepted a larger difference than the default."""


@dataclass(frozen=True, kw_only=True)
class Parity:
    """Result of a comparison."""

    num_clips: int
    max_error: float
    """Largest difference of a logit."""
    mean_error: float
    agreement: float
    accuracy: float
    reference_accuracy: float
    budget: Budget
    proved_on: str
    """Device that ran the compiled model."""

    @property
    def drop(self) -> float:
        return self.reference_accuracy - self.accuracy

    @property
    def passed(self) -> bool:
        return self.agreement >= self.budget.agreement and self.drop <= self.budget.drop

    def to_dict(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "passed": self.passed}

    def in_words(self, reference: str = "") -> str:
        """One-line summary; `reference` names what the accuracy is compared with."""
        against = f"{self.reference_accuracy:.1%} {reference}".rstrip()
        return (
            f"{self.agreement:.2%} of {self.num_clips} clips get the same label, top-1 "
            f"{self.accuracy:.1%} against {against}, logits at most "
            f"{self.max_error:.3g} apart ({self.mean_error:.2g} on average)"
        )


def compare(
    reference_NC: Logits,
    compiled_NC: Logits,
    labels_N: NDArray[np.int64],
    *,
    budget: Budget,
    proved_on: str,
) -> Parity:
    """Compare logits; a clip with NaN or infinite logits counts as wrong.

    Args:
        reference_NC: Logits of the original model.
        compiled_NC: Logits of the compiled model.
        labels_N: The labels.
        budget: Largest accepted differences.
        proved_on: Device that ran the compiled model.
    """
    with np.errstate(all="ignore"):
        errors = np.abs(compiled_NC.astype(np.float64) - reference_NC)
    finite_N = np.isfinite(compiled_NC).all(axis=1)
    errors[~np.isfinite(errors)] = np.inf
    best_N = np.where(finite_N, np.nan_to_num(compiled_NC).argmax(axis=1), -1)
    reference_best_N = reference_NC.argmax(axis=1)
    return Parity(
        num_clips=len(labels_N),
        max_error=float(errors.max()),
        mean_error=float(errors.mean()),
        agreement=float((best_N == reference_best_N).mean()),
        accuracy=float((best_N == labels_N).mean()),
        reference_accuracy=float((reference_best_N == labels_N).mean()),
        budget=budget,
        proved_on=proved_on,
    )


def answers(
    run: "Callable[[torch.Tensor], torch.Tensor]", clips: "Iterable[torch.Tensor]"
) -> Logits:
    """Run a model on batches of clips and return all logits."""
    import torch

    with torch.no_grad():
        return np.concatenate([run(batch).float().cpu().numpy() for batch in clips])
