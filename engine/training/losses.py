"""Losses, mixup and cutmix, and balancing of rare classes."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from dali_pipelines.loaders.loader_config import Sample
from dali_pipelines.settings import NotNegative, Positive, Share, ShareBelowOne, check

if TYPE_CHECKING:
    from torch import Tensor

LossName = Literal["cross-entropy", "focal"]
Balance = Literal["none", "weights", "sampling"]
"""How rare classes are balanced. weights: their clips have larger weights in the loss.
sampling: their clips are repeated."""


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Settings of the loss."""

    loss: LossName = "cross-entropy"
    focal_gamma: NotNegative = 2.0
    """Gamma of the focal loss; larger values give well-classified clips less weight."""
    label_smoothing: ShareBelowOne = 0.0
    balance: Balance = "none"
    mixup: NotNegative = 0.0
    """Alpha of mixup; 0 turns it off."""
    cutmix: NotNegative = 0.0
    """Alpha of cutmix; 0 turns it off. With mixup and cutmix, each step uses one at random."""
    teacher: str = ""
    """Run or checkpoint of the teacher for distillation; empty for none."""
    teacher_weight: Share = 0.5
    """Share of the distillation loss; the loss with the labels has the rest."""
    temperature: Positive = 4.0
    """Softmax temperature of the teacher's and the student's predictions in distillation."""

    def __post_init__(self) -> None:
        check(self)


class Criterion:
    """Computes one loss for each clip from logits and target probabilities.

    Shape letters: B clips, N classes.
    """

    def __init__(self, config: LossConfig, class_weights_N: "Tensor | None" = None) -> None:
        self._config = config
        self._class_weights_N = class_weights_N

    def __call__(self, logits_BN: "Tensor", targets_BN: "Tensor") -> "Tensor":
        from torch.nn.functional import cross_entropy

        weights_N = self._class_weights_N
        smoothing = self._config.label_smoothing
        if self._config.loss != "focal":
            return cross_entropy(
                logits_BN.float(),
                targets_BN,
                weight=None if weights_N is None else weights_N.to(logits_BN.device),
                label_smoothing=smoothing,
                reduction="none",
            )
        if smoothing:
            targets_BN = targets_BN * (1 - smoothing) + smoothing / targets_BN.shape[1]
        log_probs_BN = logits_BN.float().log_softmax(dim=1)
        doubt_BN = (1 - log_probs_BN.exp()).clamp_min(1e-6)  # the gradient is infinite at zero
        losses_BN = -targets_BN * log_probs_BN * doubt_BN**self._config.focal_gamma
        if weights_N is not None:
            losses_BN = losses_BN * weights_N.to(losses_BN)
        return losses_BN.sum(dim=1)


def class_weights(rows: Sequence[Sample], num_classes: int) -> "Tensor":
    """Class weights inversely proportional to class frequency; their mean over the clips is 1."""
    import torch

    counts = Counter(row.label for row in rows)
    weights = [
        len(rows) / (len(counts) * counts[label]) if counts[label] else 0.0
        for label in range(num_classes)
    ]
    return torch.tensor(weights)


def oversample(rows: Sequence[Sample]) -> list[Sample]:
    """Repeat the clips of smaller classes until all classes have as many as the largest.

    Each repetition has its own `repeat` number, which gives it its own random augmentation.
    """
    by_label: dict[int, list[Sample]] = {}
    for row in rows:
        by_label.setdefault(row.label, []).append(row)
    most = max(map(len, by_label.values()))
    return [
        dataclasses.replace(samples[number % len(samples)], repeat=number // len(samples))
        for samples in by_label.values()
        for number in range(most)
    ]


def mix(
    config: LossConfig, clips: "Tensor", labels_B: "Tensor", num_classes: int
) -> "tuple[Tensor, Tensor]":
    """Apply mixup or cutmix, if configured; return the clips and the target probabilities."""
    import torch
    from torch.nn.functional import one_hot
    from torchvision.transforms.v2 import CutMix, MixUp
    from torchvision.tv_tensors import Video

    targets_BN = one_hot(labels_B, num_classes).to(torch.float32)
    transforms = [
        transform(alpha=alpha, num_classes=num_classes)
        for transform, alpha in ((MixUp, config.mixup), (CutMix, config.cutmix))
        if alpha
    ]
    if not transforms:
        return clips, targets_BN
    chosen = transforms[int(torch.randint(len(transforms), ()))]
    mixed, targets_BN = chosen(Video(clips), targets_BN)
    return mixed.as_subclass(torch.Tensor), targets_BN
