"""torchvision's video ResNets with fewer channels."""

from typing import Any

from torch import nn
from torchvision.models.video import resnet

CONV_MAKERS: dict[str, tuple[Any, ...]] = {
    "r3d_18": (resnet.Conv3DSimple,) * 4,
    "mc3_18": (resnet.Conv3DSimple, *(resnet.Conv3DNoTemporal,) * 3),
    "r2plus1d_18": (resnet.Conv2Plus1D,) * 4,
}


class NarrowResNet(resnet.VideoResNet):
    """torchvision's VideoResNet with a share of the channels after the stem."""

    def __init__(self, name: str, width: float) -> None:
        self.width = width
        stem = resnet.R2Plus1dStem if name == "r2plus1d_18" else resnet.BasicStem
        super().__init__(resnet.BasicBlock, CONV_MAKERS[name], [2, 2, 2, 2], stem)
        self.fc = nn.Linear(self.inplanes, 1)

    def _make_layer(
        self, block: Any, conv_builder: Any, planes: int, blocks: int, stride: int = 1
    ) -> nn.Sequential:
        return super()._make_layer(
            block, conv_builder, max(1, round(planes * self.width)), blocks, stride
        )
