"""ViT on each frame, LSTM over time."""

from dataclasses import dataclass

from torch import nn

from engine.models.recurrent import RecurrentClassifier, RecurrentOptions


@dataclass(frozen=True, kw_only=True)
class Options(RecurrentOptions):
    backbone: str = "vit_base_patch16_224"


def build(
    options: Options, *, num_frames: int, size: int, num_classes: int, pretrained: bool = False
) -> nn.Module:
    return RecurrentClassifier(
        options, size=size, num_frames=num_frames, num_classes=num_classes, pretrained=pretrained
    )
