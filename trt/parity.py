"""Whether a compiled model gives the same answers as the model that it was made from.

N clips, C classes.
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
    agreement: float = 0.99
    """Least share of clips that get the same label."""
    drop: float = 0.005
    """Greatest loss of accuracy."""
    accepted: bool = False
    """Whether a user asked for a wider one than the default."""


@dataclass(frozen=True, kw_only=True)
class Parity:
    num_clips: int
    max_error: float
    """Of a logit."""
    mean_error: float
    agreement: float
    accuracy: float
    reference_accuracy: float
    budget: Budget
    proved_on: str
    """The device that gave the answers."""

    @property
    def drop(self) -> float:
        return self.reference_accuracy - self.accuracy

    @property
    def passed(self) -> bool:
        return self.agreement >= self.budget.agreement and self.drop <= self.budget.drop

    def to_dict(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "passed": self.passed}

    def in_words(self) -> str:
        return (
            f"{self.agreement:.2%} of {self.num_clips} clips get the same label, top-1 "
            f"{self.accuracy:.1%} against {self.reference_accuracy:.1%}, logits at most "
            f"{self.max_error:.3g} apart ({self.mean_error:.2g} in the mean)"
        )


def compare(
    reference_NC: Logits,
    found_NC: Logits,
    labels_N: NDArray[np.int64],
    *,
    budget: Budget,
    proved_on: str,
) -> Parity:
    """A clip whose logits are no numbers agrees with nothing."""
    with np.errstate(all="ignore"):
        errors = np.abs(found_NC.astype(np.float64) - reference_NC)
    sound_N = np.isfinite(found_NC).all(axis=1)
    errors[~np.isfinite(errors)] = np.inf
    best_N = np.where(sound_N, np.nan_to_num(found_NC).argmax(axis=1), -1)
    theirs_N = reference_NC.argmax(axis=1)
    return Parity(
        num_clips=len(labels_N),
        max_error=float(errors.max()),
        mean_error=float(errors.mean()),
        agreement=float((best_N == theirs_N).mean()),
        accuracy=float((best_N == labels_N).mean()),
        reference_accuracy=float((theirs_N == labels_N).mean()),
        budget=budget,
        proved_on=proved_on,
    )


def answers(
    run: "Callable[[torch.Tensor], torch.Tensor]", clips: "Iterable[torch.Tensor]"
) -> Logits:
    """The logits of every clip of every batch."""
    import torch

    with torch.no_grad():
        return np.concatenate([run(batch).float().cpu().numpy() for batch in clips])
