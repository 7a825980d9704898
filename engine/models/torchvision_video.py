"""The video models of torchvision, for clips of any length and size.

Weights have torchvision's names after `network.`; the classifier is `head`, as in the other
families. Each model gives torchvision's logits for the same weights, but is built so that it
compiles whole: global means are plain means, and MViT's attention is in mvit_attention.py.
Shape letters: B batch, T frames, C channels, H height, W width.
"""

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from torch import Tensor, nn

from dali_pipelines.settings import Range, ShareBelowOne, check
from engine.errors import UserError
from engine.models import weights
from engine.models.backbone import offline
from engine.models.mvit_attention import PooledAttention

Name = Literal[
    "r3d_18", "mc3_18", "r2plus1d_18", "s3d", "mvit_v1_b", "mvit_v2_s", "swin3d_t", "swin3d_s",
    "swin3d_b",
]  # fmt: skip
NARROW = ("r3d_18", "mc3_18", "r2plus1d_18")
"""Networks whose width can be chosen."""
CLASSIFIER = re.compile(r"(?:fc|classifier\.1|head\.1|head)\.(weight|bias)")
"""Names of the last layer in torchvision's files."""
HEADS = ("fc", "classifier", "head")


@dataclass(frozen=True, kw_only=True)
class Options:
    name: Name = "mvit_v2_s"
    width: Annotated[float, Range(above=0, most=1)] = 1.0
    """Share of the channels; below 1 only for r3d_18, mc3_18 and r2plus1d_18."""
    dropout: ShareBelowOne = 0.0
    """Before the classifier."""

    def __post_init__(self) -> None:
        check(self)
        if self.width < 1 and self.name not in NARROW:
            raise UserError(f"{self.name} has one width: set width=1, or name={NARROW[-1]}.")


class TorchvisionVideo(nn.Module):
    """Maps clips (B, T, C, H, W) to logits."""

    def __init__(self, options: Options, *, num_frames: int, size: int, num_classes: int) -> None:
        super().__init__()
        self.network = _network(options, num_frames, size)
        features = _remove_classifier(self.network)
        self.dropout = nn.Dropout(options.dropout)
        self.head = nn.Linear(features, num_classes)

    def forward(self, clips_BTCHW: Tensor) -> Tensor:
        return self.head(self.dropout(self.encode(clips_BTCHW)))

    def encode(self, clips_BTCHW: Tensor) -> Tensor:
        """Features (B, F)."""
        return self.network(clips_BTCHW.transpose(1, 2))

    @staticmethod
    def from_published(state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename the weights of torchvision's file."""
        renamed = {}
        for name, weight in state.items():
            if last := CLASSIFIER.fullmatch(name):
                renamed[f"head.{last[1]}"] = weight.flatten(1) if weight.ndim == 5 else weight
            else:
                renamed[f"network.{name}"] = weight
        return renamed


class GlobalMean(nn.Module):
    """Mean over time and space; torchvision's adaptive pooling breaks TensorRT's engines."""

    def forward(self, maps_BCTHW: Tensor) -> Tensor:
        return maps_BCTHW.mean(dim=(2, 3, 4))


def build(
    options: Options, *, num_frames: int, size: int, num_classes: int, pretrained: bool = False
) -> nn.Module:
    model = TorchvisionVideo(options, num_frames=num_frames, size=size, num_classes=num_classes)
    if pretrained:
        weights.fit(model, _fetch(options), options.name)
    return model


def _network(options: Options, num_frames: int, size: int) -> Any:
    network: Any
    if options.width < 1:
        from engine.models.narrow_resnet import NarrowResNet

        network = NarrowResNet(options.name, options.width)
    else:
        from torchvision.models import get_model

        network = get_model(options.name, weights=None)
    if options.name == "s3d":
        network.avgpool = _s3d_pool(num_frames, size)
    elif options.name.startswith("mvit"):
        _fit_mvit(network, num_frames, size)
    else:
        network.avgpool = GlobalMean()
    return network


def _remove_classifier(network: Any) -> int:
    """Remove the last layer and the dropout before it; return the number of features."""
    for name in HEADS:
        if hasattr(network, name):
            *_, last = getattr(network, name).modules()
            setattr(network, name, nn.Identity())
            return last.in_channels if isinstance(last, nn.Conv3d) else last.in_features
    raise AssertionError(network)


def _s3d_pool(num_frames: int, size: int) -> nn.Module:
    """S3D's pooling window, cut to the feature map of smaller clips."""
    time, side = -(-num_frames // 4) // 2, -(-size // 16) // 2
    if not time or not side:
        raise UserError(
            f"s3d can't process {num_frames} frames of {size}² pixels: it needs at least 5 frames "
            "of 17² pixels; increase `frames` or `size`."
        )
    return nn.AvgPool3d((min(2, time), min(7, side), min(7, side)), stride=1)


def _fit_mvit(network: Any, num_frames: int, size: int) -> None:
    """Give MViT position embeddings and attention for clips of this shape."""
    time, side = (
        -(-count // stride)
        for count, stride in zip((num_frames, size), network.conv_proj.stride[:2], strict=True)
    )
    old = network.pos_encoding
    is_relative = old.spatial_pos is None
    network.pos_encoding = type(old)(len(old.class_token), (side, side), time, is_relative)
    for embedding in network.pos_encoding.parameters():
        nn.init.trunc_normal_(embedding, std=0.02)
    grid = (time, side, side)
    for block in network.blocks:
        block.attn = PooledAttention(block.attn, grid)
        grid = block.attn.queries


def _fetch(options: Options) -> dict[str, Tensor]:
    if options.width < 1:
        raise UserError(
            "only the full width has published weights: set width=1, or `weights='none'`."
        )
    from torchvision.models import get_model_weights

    try:
        return get_model_weights(options.name).DEFAULT.get_state_dict(
            progress=False, check_hash=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise offline(options.name, error) from error
