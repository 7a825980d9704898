"""Attentive pooling: a learned query collects what matters over frames and places.

Shape letters: B batch, T frames, P places of a frame, F features, C channels (F = C × P), D width,
H heads.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.models.attention import EPS, Mlp

HEADS = 4


class AttentivePooling(nn.Module):
    """Maps the features of all frames (B, T, F) to one vector (B, D).

    Args:
        features: Features of a frame.
        num_places: Places in a frame, for each of which it has the same channels.
        num_frames: Frames in a clip.
        dim: Width of the vector; a multiple of four.
        dropout: Share of the features, and of the result, that training drops.
    """

    def __init__(
        self, features: int, *, num_places: int, num_frames: int, dim: int, dropout: float
    ) -> None:
        super().__init__()
        self.num_places = num_places
        self.embed = nn.Linear(features // num_places, dim)
        self.times = nn.Parameter(torch.zeros(1, num_frames, 1, dim))
        self.places = nn.Parameter(torch.zeros(1, 1, num_places, dim))
        self.norm = nn.LayerNorm(dim, eps=EPS)
        self.query = nn.Parameter(torch.zeros(1, 1, dim))
        self.key_value = nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, dim)
        self.norm_mlp = nn.LayerNorm(dim, eps=EPS)
        self.mlp = Mlp(dim, 2 * dim, dropout)
        self.dropout = nn.Dropout(dropout)
        for embedding in (self.times, self.places, self.query):
            nn.init.trunc_normal_(embedding, std=0.02)

    def forward(self, features_BTF: Tensor) -> Tensor:
        channels_BTPC = features_BTF.unflatten(2, (-1, self.num_places)).transpose(2, 3)
        tokens_BTPD = self.embed(self.dropout(channels_BTPC)) + self.times + self.places
        tokens_BLD = self.norm(tokens_BTPD.flatten(1, 2))
        key, value = (_split(part) for part in self.key_value(tokens_BLD).chunk(2, dim=2))
        query = _split(self.query).expand(key.shape[0], -1, -1, -1)
        mixed_BH1 = functional.scaled_dot_product_attention(query, key, value)
        pooled_BD = self.out(mixed_BH1.transpose(1, 2).flatten(1))
        return pooled_BD + self.mlp(self.norm_mlp(pooled_BD))


def _split(tokens_BLD: Tensor) -> Tensor:
    """Divide the width among the heads: (B, H, L, D / H)."""
    return tokens_BLD.unflatten(2, (HEADS, -1)).transpose(1, 2)
