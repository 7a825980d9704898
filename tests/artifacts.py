"""A model as small as can be, and artifacts compiled from it."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from trt import artifact
from trt.backends import BACKENDS
from trt.build_input import BuildInput
from trt.config import ArtifactConfig, Target
from trt.probe import this_device, versions
from trt.program import Uint8Input, lowered

SHAPE = (4, 3, 16, 16)


class Tiny(nn.Module):
    """A convolution, a recurrent layer and a LayerNorm: what the families are made of."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=4, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.recurrent = nn.LSTM(8 * 16, 16, batch_first=True, bidirectional=True)
        self.last = nn.LayerNorm(32)
        self.head = nn.Linear(32, 5)

    def forward(self, clips_BTCHW: Tensor) -> Tensor:
        batch, frames = clips_BTCHW.shape[:2]
        maps = self.norm(self.conv(clips_BTCHW.flatten(0, 1))).relu()
        hidden, _ = self.recurrent(maps.flatten(1).unflatten(0, (batch, frames)))
        return self.head(self.last(hidden.mean(dim=1)))


def compiled(
    folder: Path,
    model: Uint8Input,
    clips: Tensor,
    backend: str,
    target: Target | None = None,
    clip: dict[str, Any] | None = None,
) -> Path:
    target = target or Target()
    folder.mkdir()
    if target.precision not in BACKENDS[backend].LOWERS:
        model = lowered(model, target.precision, target.fp32_layers)
    inputs = BuildInput(
        model=model,
        example=clips[:1],
        target=target,
        calibration=lambda: list(clips[:16].split(1)),
    )
    partition = BACKENDS[backend].build(inputs, folder)
    config = ArtifactConfig(
        backend=backend, asked=target.precision, target=target, clip=clip or {}, model={},
        class_names=list("abcde"), source="", chosen_by="", key="", device=this_device(),
        versions=versions(BACKENDS[backend].PACKAGES), partition=partition,
    )  # fmt: skip
    artifact.seal(folder, config)
    return folder
