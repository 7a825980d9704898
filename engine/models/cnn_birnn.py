"""MNASNet and a linear embedding on each frame, a bidirectional RNN over time, a 1D convolution."""

from dataclasses import dataclass, field

from torch import nn

from dali_pipelines.settings import Count
from engine.models.recurrent import Recurrence, RecurrentClassifier, RecurrentOptions


@dataclass(frozen=True, kw_only=True)
class Options(RecurrentOptions):
    backbone: str = "mnasnet_050"
    embedding: Count = 256
    recurrence: Recurrence = field(default_factory=lambda: Recurrence(cell="rnn"))


def build(
    options: Options, *, num_frames: int, size: int, num_classes: int, pretrained: bool = False
) -> nn.Module:
    return RecurrentClassifier(
        options,
        size=size,
        num_frames=num_frames,
        num_classes=num_classes,
        pretrained=pretrained,
        embedding=options.embedding,
        transition=True,
    )
