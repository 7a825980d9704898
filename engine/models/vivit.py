"""ViViT with a `factorised` encoder, or with `joint` space-time attention from `transformers`.

The factorised model is model 2 of the paper, with mean pooling in place of class tokens: one
transformer encodes the tokens of each time step, and a second one encodes the mean tokens over
time. The joint model is the module of `transformers`, for published weights. Shape letters:
B batch, T time steps, N positions, D width.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from dali_pipelines.settings import Count, Positive, ShareBelowOne, check
from engine.errors import UserError
from engine.models.attention import EPS, Block, Stem, check_heads, init_weights


@dataclass(frozen=True, kw_only=True)
class Options:
    kind: Literal["factorised", "joint"] = "joint"
    dim: Count = 768
    depth: Count = 12
    time_depth: Count = 4
    """Layers over time; only in the factorised model."""
    heads: Count = 12
    mlp_ratio: Positive = 4.0
    patch: Count = 16
    tubelet: Count = 2
    """Frames in one token."""
    convolutional_stem: bool = False
    dropout: ShareBelowOne = 0.0
    drop_path: ShareBelowOne = 0.0

    def __post_init__(self) -> None:
        check(self)
        check_heads(self.dim, self.heads)


class FactorizedViViT(nn.Module):
    """Maps clips (B, T, C, H, W) to logits; a space encoder, then a time encoder."""

    def __init__(self, options: Options, *, num_frames: int, size: int, num_classes: int) -> None:
        super().__init__()
        dim = options.dim
        self.stem = Stem(
            dim, options.patch, convolutional=options.convolutional_stem, tubelet=options.tubelet
        )
        self.positions = nn.Parameter(torch.zeros(1, (size // options.patch) ** 2, dim))
        self.times = nn.Parameter(torch.zeros(1, -(-num_frames // options.tubelet), dim))
        self.space = _blocks(options, options.depth)
        self.time = _blocks(options, options.time_depth)
        self.norm = nn.LayerNorm(dim, eps=EPS)
        self.head = nn.Linear(dim, num_classes)
        self.apply(init_weights)
        for embedding in (self.positions, self.times):
            nn.init.trunc_normal_(embedding, std=0.02)

    def forward(self, clips_BTCHW: Tensor) -> Tensor:
        return self.head(self.encode(clips_BTCHW))

    def encode(self, clips_BTCHW: Tensor) -> Tensor:
        """Features (B, D), which the head maps to logits."""
        tokens_BTND = self.stem(clips_BTCHW)
        batch = tokens_BTND.shape[0]
        encoded = self.space(tokens_BTND.flatten(0, 1) + self.positions)
        means_BTD = encoded.mean(dim=1).unflatten(0, (batch, -1))
        encoded_BTD = self.time(means_BTD + self.times)
        return self.norm(encoded_BTD.mean(dim=1))


class JointViViT(nn.Module):
    """Wraps the module of `transformers`; maps clips (B, T, C, H, W) to logits."""

    def __init__(self, options: Options, *, num_frames: int, size: int, num_classes: int) -> None:
        from transformers import VivitConfig, VivitForVideoClassification

        super().__init__()
        self.network = VivitForVideoClassification(
            VivitConfig(
                image_size=size,
                num_frames=num_frames,
                tubelet_size=[options.tubelet, options.patch, options.patch],
                hidden_size=options.dim,
                num_hidden_layers=options.depth,
                num_attention_heads=options.heads,
                intermediate_size=int(options.dim * options.mlp_ratio),
                hidden_dropout_prob=options.dropout,
                attention_probs_dropout_prob=options.dropout,
                num_labels=num_classes,  # type: ignore[call-arg]
            )
        )

    def forward(self, clips_BTCHW: Tensor) -> Tensor:
        return self.network(pixel_values=clips_BTCHW).logits

    @property
    def head(self) -> nn.Module:
        return self.network.classifier

    def encode(self, clips_BTCHW: Tensor) -> Tensor:
        """Features (B, D), which the head maps to logits."""
        return self.network.vivit(pixel_values=clips_BTCHW).last_hidden_state[:, 0]


def build(options: Options, *, num_frames: int, size: int, num_classes: int) -> nn.Module:
    if options.kind == "joint" and (options.convolutional_stem or options.drop_path):
        raise UserError(
            "the joint vivit has neither convolutional_stem nor drop_path: set kind=factorised."
        )
    model_class = FactorizedViViT if options.kind == "factorised" else JointViViT
    return model_class(options, num_frames=num_frames, size=size, num_classes=num_classes)


def _blocks(options: Options, depth: int) -> nn.Sequential:
    rates = torch.linspace(0, options.drop_path, depth).tolist()
    return nn.Sequential(
        *(
            Block(options.dim, options.heads, options.mlp_ratio, options.dropout, rate)
            for rate in rates
        )
    )
