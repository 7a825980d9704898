"""MobileNetV2 (or another backbone) on each frame, LSTM over time."""

from dataclasses import dataclass, field

from torch import nn

from engine.models.backbone import Backbone
from engine.models.recurrent import Recurrence, RecurrentClassifier


@dataclass(frozen=True, kw_only=True)
class Options:
    backbone: str = "mobilenetv2_100"
    pretrained: bool = True
    freeze_backbone: bool = False
    reduction: int = 0
    """See Backbone: 0 averages over the picture, 8 or 16 keep where things are."""
    recurrence: Recurrence = field(
        default_factory=lambda: Recurrence(hidden=256, bidirectional=False)
    )


def build(options: Options, *, num_frames: int, size: int, num_classes: int) -> nn.Module:
    return RecurrentClassifier(
        Backbone(
            options.backbone,
            size=size,
            pretrained=options.pretrained,
            reduction=options.reduction,
        ),
        options.recurrence,
        num_classes=num_classes,
        freeze_backbone=options.freeze_backbone,
    )
