"""MobileNetV2 (or another backbone) on each frame, LSTM over time."""

from dataclasses import dataclass, field

from torch import nn

from engine.models.recurrent import Recurrence, RecurrentClassifier, RecurrentOptions


@dataclass(frozen=True, kw_only=True)
class Options(RecurrentOptions):
    backbone: str = "mobilenetv2_100"
    recurrence: Recurrence = field(default_factory=lambda: Recurrence(bidirectional=False))


def build(
    options: Options, *, num_frames: int, size: int, num_classes: int, pretrained: bool = False
) -> nn.Module:
    return RecurrentClassifier(
        options, size=size, num_frames=num_frames, num_classes=num_classes, pretrained=pretrained
    )
