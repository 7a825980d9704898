"""TimeSformer with divided space-time attention, joint space-time attention, or space attention.

Weights of TimesformerForVideoClassification in `transformers` load by name (`from_transformers`);
the tests compare the logits with that model's. Shape letters: B batch, T frames, N patches of a
frame, D width.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from dali_pipelines.settings import Count, Positive, ShareBelowOne, check
from engine.models.attention import (
    EPS,
    Attention,
    Block,
    Mlp,
    Stem,
    check_heads,
    drop_path,
    init_weights,
)

AttentionKind = Literal["divided", "joint", "space"]


@dataclass(frozen=True, kw_only=True)
class Options:
    dim: Count = 768
    depth: Count = 12
    heads: Count = 12
    mlp_ratio: Positive = 4.0
    patch: Count = 16
    convolutional_stem: bool = False
    attention: AttentionKind = "divided"
    dropout: ShareBelowOne = 0.0
    drop_path: ShareBelowOne = 0.0

    def __post_init__(self) -> None:
        check(self)
        check_heads(self.dim, self.heads)


class TimeSformer(nn.Module):
    """Maps clips (B, T, C, H, W) to logits."""

    def __init__(self, options: Options, *, num_frames: int, size: int, num_classes: int) -> None:
        super().__init__()
        dim = options.dim
        self.num_patches = (size // options.patch) ** 2
        self.kind = options.attention
        self.stem = Stem(dim, options.patch, convolutional=options.convolutional_stem)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.positions = nn.Parameter(torch.zeros(1, self.num_patches + 1, dim))
        if self.kind != "space":
            self.times = nn.Parameter(torch.zeros(1, num_frames, dim))
        rates = torch.linspace(0, options.drop_path, options.depth).tolist()
        block_class = DividedBlock if options.attention == "divided" else Block
        self.blocks = nn.ModuleList(
            block_class(dim, options.heads, options.mlp_ratio, options.dropout, rate)
            for rate in rates
        )
        self.norm = nn.LayerNorm(dim, eps=EPS)
        self.head = nn.Linear(dim, num_classes)
        self.apply(init_weights)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.positions, std=0.02)
        for block in self.blocks:
            if isinstance(block, DividedBlock):  # time attention starts as a no-op
                nn.init.zeros_(block.time_out.weight)

    def forward(self, clips_BTCHW: Tensor) -> Tensor:
        return self.head(self.encode(clips_BTCHW))

    def encode(self, clips_BTCHW: Tensor) -> Tensor:
        """Features (B, D), which the head maps to logits."""
        batch = clips_BTCHW.shape[0]
        patches_BTND = self.stem(clips_BTCHW) + self.positions[:, None, 1:]
        cls_B1D = (self.cls_token + self.positions[:, :1]).expand(batch, -1, -1)
        if self.kind == "space":
            return self._space_attention(cls_B1D, patches_BTND)
        patches_BTND = patches_BTND + self.times[:, :, None]
        if self.kind == "joint":
            tokens = torch.cat([cls_B1D, patches_BTND.flatten(1, 2)], dim=1)
            for block in self.blocks:
                tokens = block(tokens)
            return self.norm(tokens[:, 0])
        for block in self.blocks:
            cls_B1D, patches_BTND = block(cls_B1D, patches_BTND)
        return self.norm(cls_B1D[:, 0])

    def _space_attention(self, cls_B1D: Tensor, patches_BTND: Tensor) -> Tensor:
        frames = patches_BTND.shape[1]
        cls = cls_B1D[:, None].expand(-1, frames, -1, -1)
        tokens = torch.cat([cls, patches_BTND], dim=2).flatten(0, 1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens.unflatten(0, (-1, frames)).mean(dim=1)[:, 0])


class DividedBlock(nn.Module):
    """Attention over time for each position, then attention over space within each frame."""

    def __init__(
        self, dim: int, heads: int, mlp_ratio: float, dropout: float, drop_rate: float
    ) -> None:
        super().__init__()
        self.norm_time = nn.LayerNorm(dim, eps=EPS)
        self.time = Attention(dim, heads, dropout)
        self.time_out = nn.Linear(dim, dim)
        self.norm_space = nn.LayerNorm(dim, eps=EPS)
        self.space = Attention(dim, heads, dropout)
        self.norm_mlp = nn.LayerNorm(dim, eps=EPS)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), dropout)
        self.drop_path = drop_path(drop_rate)

    def forward(self, cls_B1D: Tensor, patches_BTND: Tensor) -> tuple[Tensor, Tensor]:
        batch, frames, num_patches, _ = patches_BTND.shape
        patches_BTND = self.attend_over_time(patches_BTND)

        cls = cls_B1D[:, None].expand(-1, frames, -1, -1)
        by_frame = torch.cat([cls, patches_BTND], dim=2).flatten(0, 1)
        residual = self.drop_path(self.space(self.norm_space(by_frame)))
        residual = residual.unflatten(0, (batch, frames))
        cls_B1D = cls_B1D + residual[:, :, 0].mean(dim=1, keepdim=True)
        patches_BTND = patches_BTND + residual[:, :, 1:]

        tokens = torch.cat([cls_B1D, patches_BTND.flatten(1, 2)], dim=1)
        tokens = tokens + self.drop_path(self.mlp(self.norm_mlp(tokens)))
        return tokens[:, :1], tokens[:, 1:].unflatten(1, (frames, num_patches))

    def attend_over_time(self, patches_BTND: Tensor) -> Tensor:
        batch, _, num_patches, _ = patches_BTND.shape
        by_patch = self.norm_time(patches_BTND).transpose(1, 2).flatten(0, 1)
        residual = self.drop_path(self.time(by_patch)).unflatten(0, (batch, num_patches))
        return patches_BTND + self.time_out(residual.transpose(1, 2))


FROM_TRANSFORMERS = (
    ("timesformer.embeddings.cls_token", "cls_token"),
    ("timesformer.embeddings.position_embeddings", "positions"),
    ("timesformer.embeddings.time_embeddings", "times"),
    ("timesformer.embeddings.patch_embeddings.projection.", "stem.layers."),
    ("timesformer.encoder.layer.", "blocks."),
    ("timesformer.layernorm.", "norm."),
    ("classifier.", "head."),
    (".temporal_layernorm.", ".norm_time."),
    (".temporal_attention.attention.qkv.", ".time.qkv."),
    (".temporal_attention.output.dense.", ".time.out."),
    (".temporal_dense.", ".time_out."),
    (".attention.attention.qkv.", ".space.qkv."),
    (".attention.output.dense.", ".space.out."),
    (".layernorm_before.", ".norm_space."),
    (".layernorm_after.", ".norm_mlp."),
    (".intermediate.dense.", ".mlp.0."),
    (".output.dense.", ".mlp.3."),
)
"""Parts of parameter names in `transformers`, and their replacements here, applied in order."""


def from_transformers(
    weights: dict[str, Tensor], attention: AttentionKind = "divided"
) -> dict[str, Tensor]:
    """Rename the state dict of a `transformers` model to the parameter names of this module."""
    renamed = {}
    for name, weight in weights.items():
        for old, new in FROM_TRANSFORMERS:
            name = name.replace(old, new)
        if attention != "divided":  # Block instead of DividedBlock
            name = name.replace(".space.", ".attention.").replace(
                ".norm_space.", ".norm_attention."
            )
        renamed[name] = weight
    return renamed


def build(options: Options, *, num_frames: int, size: int, num_classes: int) -> nn.Module:
    return TimeSformer(options, num_frames=num_frames, size=size, num_classes=num_classes)
