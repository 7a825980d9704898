"""X3D: a narrow 3D network of depthwise convolutions, for CPUs.

Modules have PyTorchVideo's names, so that its published weights load by name; only the classifier
is called `head`, as in the other families. Unlike there, the output is logits, and features are
averaged over the whole clip whatever its size. Shape letters: B batch, C channels, T frames,
H height, W width.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dali_pipelines.settings import Positive, ShareBelowOne, check
from engine.errors import UserError
from engine.models import weights
from engine.models.backbone import offline

ROOT = "https://dl.fbaipublicfiles.com/pytorchvideo/model_zoo/kinetics"
URLS = {"x3d_s": f"{ROOT}/X3D_S.pyth", "x3d_m": f"{ROOT}/X3D_M.pyth"}
S_FRAMES = 13
"""Clips up to this length start from the weights of X3D-S, longer ones from those of X3D-M. Both
have the same layers."""
PUBLISHED = (2.0, 2.2)
"""Width and depth of X3D-S and X3D-M."""
STEM, DEPTHS = 12, (1, 2, 5, 3)
"""Channels of the stem, and blocks of each stage, before `width` and `depth` multiply them."""
BOTTLENECK = 2.25
"""Channels of a block's depthwise convolution, relative to the block's output."""
SQUEEZE = 1 / 16
FEATURES = 2048


@dataclass(frozen=True, kw_only=True)
class Options:
    width: Positive = PUBLISHED[0]
    """Multiplies the channels."""
    depth: Positive = PUBLISHED[1]
    """Multiplies the blocks of each stage."""
    dropout: ShareBelowOne = 0.5
    """Before the classifier."""

    def __post_init__(self) -> None:
        check(self)


class X3D(nn.Module):
    """Maps clips (B, T, C, H, W) to logits."""

    def __init__(self, options: Options, *, num_classes: int) -> None:
        super().__init__()
        channels, stage_channels = rounded(STEM * options.width), STEM
        blocks: list[nn.Module] = [Stem(channels)]
        for depth in DEPTHS:
            out = rounded(stage_channels * options.width)
            blocks.append(Stage(channels, out, num_blocks=math.ceil(depth * options.depth)))
            channels, stage_channels = out, rounded(stage_channels * 2)
        blocks.append(Pool(channels, int(BOTTLENECK * channels)))
        self.blocks = nn.ModuleList(blocks)
        self.dropout = nn.Dropout(options.dropout)
        self.head = nn.Linear(FEATURES, num_classes)
        self.apply(_init)

    def forward(self, clips_BTCHW: Tensor) -> Tensor:
        return self.head(self.dropout(self.encode(clips_BTCHW)))

    def encode(self, clips_BTCHW: Tensor) -> Tensor:
        """Features (B, F)."""
        maps_BCTHW = clips_BTCHW.transpose(1, 2)
        for block in self.blocks:
            maps_BCTHW = block(maps_BCTHW)
        return maps_BCTHW.flatten(1)

    @staticmethod
    def from_published(state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename the weights of PyTorchVideo's file."""
        return {name.replace("blocks.5.proj.", "head."): weight for name, weight in state.items()}


class Stem(nn.Module):
    """A convolution over space, then a depthwise one over time."""

    def __init__(self, out: int) -> None:
        super().__init__()
        self.conv = nn.Sequential()
        self.conv.add_module("conv_t", _conv(3, out, (1, 3, 3), stride=(1, 2, 2)))
        self.conv.add_module("conv_xy", _conv(out, out, (5, 1, 1), groups=out))
        self.norm = nn.BatchNorm3d(out)

    def forward(self, clips_BCTHW: Tensor) -> Tensor:
        return self.norm(self.conv(clips_BCTHW)).relu()


class Stage(nn.Module):
    """Residual blocks, the first of which halves the resolution."""

    def __init__(self, channels: int, out: int, *, num_blocks: int) -> None:
        super().__init__()
        self.res_blocks = nn.Sequential(
            *(
                Residual(
                    channels if number == 0 else out,
                    out,
                    stride=2 if number == 0 else 1,
                    squeeze=number % 2 == 0,
                )
                for number in range(num_blocks)
            )
        )

    def forward(self, maps_BCTHW: Tensor) -> Tensor:
        return self.res_blocks(maps_BCTHW)


class Residual(nn.Module):
    """A bottleneck and its shortcut, which is a convolution if the shapes differ."""

    def __init__(self, channels: int, out: int, *, stride: int, squeeze: bool) -> None:
        super().__init__()
        self.branch1_conv: nn.Module = nn.Identity()
        self.branch1_norm: nn.Module = nn.Identity()
        if channels != out or stride > 1:
            self.branch1_conv = _conv(channels, out, (1, 1, 1), stride=(1, stride, stride))
        if channels != out:
            self.branch1_norm = nn.BatchNorm3d(out)
        self.branch2 = Bottleneck(channels, out, stride=stride, squeeze=squeeze)

    def forward(self, maps_BCTHW: Tensor) -> Tensor:
        shortcut = self.branch1_norm(self.branch1_conv(maps_BCTHW))
        return (shortcut + self.branch2(maps_BCTHW)).relu()


class Bottleneck(nn.Module):
    """Widens, convolves each channel in space and time, weighs the channels, and narrows."""

    def __init__(self, channels: int, out: int, *, stride: int, squeeze: bool) -> None:
        super().__init__()
        inner = int(BOTTLENECK * out)
        self.conv_a = _conv(channels, inner, (1, 1, 1))
        self.norm_a = nn.BatchNorm3d(inner)
        self.conv_b = _conv(inner, inner, (3, 3, 3), stride=(1, stride, stride), groups=inner)
        self.norm_b = nn.Sequential(
            nn.BatchNorm3d(inner), SqueezeExcitation(inner) if squeeze else nn.Identity()
        )
        self.act_b = nn.SiLU()
        self.conv_c = _conv(inner, out, (1, 1, 1))
        self.norm_c = nn.BatchNorm3d(out)

    def forward(self, maps_BCTHW: Tensor) -> Tensor:
        wide = self.norm_a(self.conv_a(maps_BCTHW)).relu()
        wide = self.act_b(self.norm_b(self.conv_b(wide)))
        return self.norm_c(self.conv_c(wide))


class SqueezeExcitation(nn.Module):
    """Multiplies each channel by a weight that is computed from the means of all."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = rounded(channels * SQUEEZE)
        self.block = nn.Sequential(
            nn.Conv3d(channels, squeezed, 1), nn.ReLU(), nn.Conv3d(squeezed, channels, 1),
            nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, maps_BCTHW: Tensor) -> Tensor:
        return maps_BCTHW * self.block(maps_BCTHW.mean(dim=(2, 3, 4), keepdim=True))


class Pool(nn.Module):
    """Features of the clip (B, FEATURES, 1, 1, 1)."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.pool = nn.Module()
        self.pool.pre_conv = _conv(channels, inner, (1, 1, 1))
        self.pool.pre_norm = nn.BatchNorm3d(inner)
        self.pool.post_conv = _conv(inner, FEATURES, (1, 1, 1))

    def forward(self, maps_BCTHW: Tensor) -> Tensor:
        pool = self.pool
        maps_BCTHW = pool.pre_norm(pool.pre_conv(maps_BCTHW)).relu()
        return pool.post_conv(maps_BCTHW.mean(dim=(2, 3, 4), keepdim=True)).relu()


def build(
    options: Options, *, num_frames: int, size: int, num_classes: int, pretrained: bool = False
) -> nn.Module:
    model = X3D(options, num_classes=num_classes)
    if pretrained:
        name = "x3d_s" if num_frames <= S_FRAMES else "x3d_m"
        if (options.width, options.depth) != PUBLISHED:
            raise UserError(
                "only width=2 and depth=2.2 have published weights: set these, or `weights='none'`."
            )
        weights.fit(model, _fetch(name), name)
    return model


def rounded(channels: float) -> int:
    """The nearest multiple of 8, but at least 8 and at least 90% of `channels`."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * channels else nearest + 8


def _fetch(name: str) -> dict[str, Tensor]:
    try:
        file = torch.hub.load_state_dict_from_url(
            URLS[name], map_location="cpu", progress=False, weights_only=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise offline(name, error) from error
    return file["model_state"]


def _conv(
    channels: int,
    out: int,
    kernel: tuple[int, int, int],
    *,
    stride: tuple[int, int, int] = (1, 1, 1),
    groups: int = 1,
) -> nn.Conv3d:
    padding = tuple(length // 2 for length in kernel)
    return nn.Conv3d(
        channels, out, kernel, stride=stride, padding=padding, groups=groups, bias=False
    )


def _init(module: nn.Module) -> None:
    if isinstance(module, nn.Conv3d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
        nn.init.zeros_(module.bias)
