"""What is minimized, and what is done for classes that are rare."""

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
"""weights: a rare class's clips count more. sampling: they are seen more often."""


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    loss: LossName = "cross-entropy"
    focal_gamma: NotNegative = 2.0
    """How much less `focal` minds what is already known."""
    label_smoothing: ShareBelowOne = 0.0
    balance: Balance = "none"
    mixup: NotNegative = 0.0
    """Alpha of the mixing of whole clips; 0 mixes none."""
    cutmix: NotNegative = 0.0
    """The same for rectangles cut out of clips; with both, each step takes one by chance."""
    teacher: str = ""
    """A run or checkpoint whose answers are learned, too."""
    teacher_weight: Share = 0.5
    """Share of the teacher's answers in the loss; the labels have the rest."""
    temperature: Positive = 4.0
    """How much the teacher's and the student's answers are softened for that."""

    def __post_init__(self) -> None:
        check(self)


class Criterion:
    """Logits and wanted probabilities to one loss for each clip. B clips, N classes."""

    def __init__(self, config: LossConfig, class_weights_N: "Tensor | None" = None) -> None:
        self._config = config
        self._class_weights_N = class_weights_N

    def __call__(self, logits_BN: "Tensor", wanted_BN: "Tensor") -> "Tensor":
        from torch.nn.functional import cross_entropy

        weights_N = self._class_weights_N
        smoothing = self._config.label_smoothing
        if self._config.loss != "focal":
            return cross_entropy(
                logits_BN.float(),
                wanted_BN,
                weight=None if weights_N is None else weights_N.to(logits_BN.device),
                label_smoothing=smoothing,
                reduction="none",
            )
        if smoothing:
            wanted_BN = wanted_BN * (1 - smoothing) + smoothing / wanted_BN.shape[1]
        log_found_BN = logits_BN.float().log_softmax(dim=1)
        doubt_BN = (1 - log_found_BN.exp()).clamp_min(1e-6)  # at zero the gradient is infinite
        losses_BN = -wanted_BN * log_found_BN * doubt_BN**self._config.focal_gamma
        if weights_N is not None:
            losses_BN = losses_BN * weights_N.to(losses_BN)
        return losses_BN.sum(dim=1)


def class_weights(rows: Sequence[Sample], num_classes: int) -> "Tensor":
    """In inverse proportion to a class's clips, 1 on average over the clips."""
    import torch

    counts = Counter(row.label for row in rows)
    weights = [
        len(rows) / (len(counts) * counts[label]) if counts[label] else 0.0
        for label in range(num_classes)
    ]
    return torch.tensor(weights)


def oversample(rows: Sequence[Sample]) -> list[Sample]:
    """Clips of rare classes again and again, until all classes count as many as the largest.

    Each time a clip is varied in another way, since `repeat` is part of what draws its look.
    """
    by_label: dict[int, list[Sample]] = {}
    for row in rows:
        by_label.setdefault(row.label, []).append(row)
    most = max(map(len, by_label.values()))
    return [
        dataclasses.replace(own[number % len(own)], repeat=number // len(own))
        for own in by_label.values()
        for number in range(most)
    ]


def mix(
    config: LossConfig, clips: "Tensor", labels_B: "Tensor", num_classes: int
) -> "tuple[Tensor, Tensor]":
    """Clips, mixed with their neighbors where that is asked for, and wanted probabilities."""
    import torch
    from torch.nn.functional import one_hot
    from torchvision.transforms.v2 import CutMix, MixUp
    from torchvision.tv_tensors import Video

    wanted_BN = one_hot(labels_B, num_classes).to(torch.float32)
    kinds = [
        kind(alpha=alpha, num_classes=num_classes)
        for kind, alpha in ((MixUp, config.mixup), (CutMix, config.cutmix))
        if alpha
    ]
    if not kinds:
        return clips, wanted_BN
    chosen = kinds[int(torch.randint(len(kinds), ()))]
    mixed, wanted_BN = chosen(Video(clips), wanted_BN)
    return mixed.as_subclass(torch.Tensor), wanted_BN
