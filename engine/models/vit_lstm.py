"""ViT on each frame, LSTM over time."""

from dataclasses import dataclass, field

from torch import nn

from engine.models.backbone import Backbone
from engine.models.recurrent import Recurrence, RecurrentClassifier


@dataclass(frozen=True, kw_only=True)
class Options:
    backbone: str = "vit_base_patch16_224"
    pretrained: bool = True
    freeze_backbone: bool = False
    recurrence: Recurrence = field(default_factory=Recurrence)


def build(options: Options, *, num_frames: int, size: int, num_classes: int) -> nn.Module:
    return RecurrentClassifier(
        Backbone(options.backbone, size=size, pretrained=options.pretrained),
        options.recurrence,
        num_classes=num_classes,
        freeze_backbone=options.freeze_backbone,
    )
