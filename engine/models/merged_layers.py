"""Transformer layers that merge tokens between attention and MLP.

Each class wraps one kind of layer: of ours, of timm or of `transformers`. In eval mode it computes
what that layer computes, as long as nothing was merged. Shape letters: B batch, T frames, N tokens
that can be merged (with divided attention: places, each with its tokens of all frames), L all
tokens, H heads, K width of a head, D width.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.models.token_merging import Merge, take

Heads = tuple[Tensor, Tensor, Tensor]
"""Query, key and value, each (B, H, L, K)."""


class SizedAttention(nn.Module):
    """Attention in which a token counts as often as its size.

    Args:
        num_prefix: Number of tokens in front that are never merged, such as a class token.
    """

    def __init__(self, num_prefix: int) -> None:
        super().__init__()
        self.num_prefix = num_prefix

    def forward(self, heads: Heads, sizes_BN: Tensor | None) -> Tensor:
        """Return the mixed values (B, L, H * K); `sizes_BN` None: all are 1."""
        query, key, value = heads
        bias = None
        if sizes_BN is not None:
            bias_BL = functional.pad(sizes_BN.log(), (self.num_prefix, 0)).to(query.dtype)
            bias = bias_BL[:, None, None]
        # Called by its full name, because ModelOpt looks for it to quantize the products.
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return mixed.transpose(1, 2).flatten(2)


class MergedLayer(nn.Module):
    """A layer with joint attention of all tokens.

    Args:
        layer: The layer, whose weights are used.
        merge: What merges the tokens; None merges nothing.
        num_prefix: Number of tokens in front that are never merged.
    """

    def __init__(self, layer: nn.Module, merge: Merge | None, *, num_prefix: int) -> None:
        super().__init__()
        self.layer: Any = layer
        self.merge = merge
        self.num_prefix = num_prefix
        self.attention = SizedAttention(num_prefix)

    def forward(
        self, tokens_BLD: Tensor, sizes_BN: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return the tokens, their sizes, and the new place of each token if wanted."""
        heads = self.project(tokens_BLD)
        tokens_BLD = tokens_BLD + self.output(self.attention(heads, sizes_BN))
        places_BN = None
        if self.merge is not None:
            keys_BNK = heads[1][:, :, self.num_prefix :].mean(dim=1)
            rest, sizes_BN, places_BN = self.merge(
                tokens_BLD[:, self.num_prefix :], keys_BNK, sizes_BN
            )
            tokens_BLD = torch.cat([tokens_BLD[:, : self.num_prefix], rest], dim=1)
        return tokens_BLD + self.mlp(tokens_BLD), sizes_BN, places_BN

    def project(self, tokens_BLD: Tensor) -> Heads:
        """Query, key and value of the normalized tokens."""
        raise NotImplementedError

    def output(self, mixed_BLD: Tensor) -> Tensor:
        """The residual of attention."""
        raise NotImplementedError

    def mlp(self, tokens_BLD: Tensor) -> Tensor:
        """The residual of the MLP."""
        raise NotImplementedError


class OurLayer(MergedLayer):
    """engine.models.attention.Block."""

    def project(self, tokens_BLD: Tensor) -> Heads:
        layer = self.layer
        return _split(layer.attention.qkv(layer.norm_attention(tokens_BLD)), layer.attention.heads)

    def output(self, mixed_BLD: Tensor) -> Tensor:
        return self.layer.attention.out(mixed_BLD)

    def mlp(self, tokens_BLD: Tensor) -> Tensor:
        return self.layer.mlp(self.layer.norm_mlp(tokens_BLD))


class TimmLayer(MergedLayer):
    """timm.models.vision_transformer.Block."""

    def project(self, tokens_BLD: Tensor) -> Heads:
        layer, attention = self.layer, self.layer.attn
        query, key, value = _split(attention.qkv(layer.norm1(tokens_BLD)), attention.num_heads)
        return attention.q_norm(query), attention.k_norm(key), value

    def output(self, mixed_BLD: Tensor) -> Tensor:
        attention = self.layer.attn
        return self.layer.ls1(attention.proj(attention.norm(mixed_BLD)))

    def mlp(self, tokens_BLD: Tensor) -> Tensor:
        return self.layer.ls2(self.layer.mlp(self.layer.norm2(tokens_BLD)))


class VideoMaeLayer(MergedLayer):
    """VideoMAELayer of `transformers`."""

    def project(self, tokens_BLD: Tensor) -> Heads:
        attention = self.layer.attention.attention
        normed = self.layer.layernorm_before(tokens_BLD)
        return _heads(
            attention.query(normed), attention.key(normed), attention.value(normed),
            attention.num_attention_heads,
        )  # fmt: skip

    def output(self, mixed_BLD: Tensor) -> Tensor:
        return self.layer.attention.output(mixed_BLD, None)

    def mlp(self, tokens_BLD: Tensor) -> Tensor:
        layer = self.layer
        return layer.output.dense(layer.intermediate(layer.layernorm_after(tokens_BLD)))


class VivitLayer(MergedLayer):
    """VivitLayer of `transformers`."""

    def project(self, tokens_BLD: Tensor) -> Heads:
        attention = self.layer.attention
        normed = self.layer.layernorm_before(tokens_BLD)
        return _heads(
            attention.q_proj(normed), attention.k_proj(normed), attention.v_proj(normed),
            attention.num_attention_heads,
        )  # fmt: skip

    def output(self, mixed_BLD: Tensor) -> Tensor:
        return self.layer.attention.o_proj(mixed_BLD)

    def mlp(self, tokens_BLD: Tensor) -> Tensor:
        return self.layer.mlp(self.layer.layernorm_after(tokens_BLD))


class MergedLayers(nn.Module):
    """All layers, one after the other: maps tokens (B, L, D) to tokens.

    Args:
        layers: The layers.
        restores: Return as many tokens as came in, each with the values of the token that stands
            for it. Otherwise return those that are left.
    """

    def __init__(self, layers: Sequence[MergedLayer], *, restores: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.num_prefix = layers[0].num_prefix
        self.restores = restores

    def forward(self, tokens_BLD: Tensor, *_: object, **__: object) -> Tensor:
        sizes_BN = places_BN = None
        for layer in self.layers:
            tokens_BLD, sizes_BN, moved_BN = layer(tokens_BLD, sizes_BN)
            if moved_BN is not None:
                places_BN = moved_BN if places_BN is None else take(moved_BN, places_BN)
        if not self.restores or places_BN is None:
            return tokens_BLD
        rest = take(tokens_BLD[:, self.num_prefix :], places_BN)
        return torch.cat([tokens_BLD[:, : self.num_prefix], rest], dim=1)


class DividedLayer(nn.Module):
    """engine.models.timesformer.DividedBlock.

    The same places are merged in all frames, so that attention over time keeps its meaning. They
    are compared by their keys of all frames.
    """

    def __init__(self, layer: nn.Module, merge: Merge | None) -> None:
        super().__init__()
        self.layer: Any = layer
        self.merge = merge
        self.attention = SizedAttention(num_prefix=1)

    def forward(
        self, cls_B1D: Tensor, patches_BTND: Tensor, sizes_BN: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        batch, frames = patches_BTND.shape[:2]
        patches_BTND = self.attend_over_time(patches_BTND)

        cls = cls_B1D[:, None].expand(-1, frames, -1, -1)
        heads = self.project(torch.cat([cls, patches_BTND], dim=2).flatten(0, 1))
        sizes = None
        if sizes_BN is not None:  # for each frame
            sizes = sizes_BN[:, None].expand(-1, frames, -1).flatten(0, 1)
        residual = self.output(self.attention(heads, sizes)).unflatten(0, (batch, frames))
        cls_B1D = cls_B1D + residual[:, :, 0].mean(dim=1, keepdim=True)
        patches_BTND = patches_BTND + residual[:, :, 1:]

        if self.merge is not None:
            keys_BTNK = heads[1][:, :, 1:].mean(dim=1).unflatten(0, (batch, frames))
            rows = patches_BTND.transpose(1, 2).flatten(2)
            keys_BNK = keys_BTNK.transpose(1, 2).flatten(2)
            rows, sizes_BN, _ = self.merge(rows, keys_BNK, sizes_BN)
            patches_BTND = rows.unflatten(2, (frames, -1)).transpose(1, 2)

        num_places = patches_BTND.shape[2]
        tokens = torch.cat([cls_B1D, patches_BTND.flatten(1, 2)], dim=1)
        tokens = tokens + self.mlp(tokens)
        return tokens[:, :1], tokens[:, 1:].unflatten(1, (frames, num_places)), sizes_BN

    def attend_over_time(self, patches_BTND: Tensor) -> Tensor:
        return self.layer.attend_over_time(patches_BTND)

    def project(self, tokens_BLD: Tensor) -> Heads:
        layer = self.layer
        return _split(layer.space.qkv(layer.norm_space(tokens_BLD)), layer.space.heads)

    def output(self, mixed_BLD: Tensor) -> Tensor:
        return self.layer.space.out(mixed_BLD)

    def mlp(self, tokens_BLD: Tensor) -> Tensor:
        return self.layer.mlp(self.layer.norm_mlp(tokens_BLD))


class HfDividedLayer(DividedLayer):
    """TimesformerLayer of `transformers`."""

    def attend_over_time(self, patches_BTND: Tensor) -> Tensor:
        layer = self.layer
        batch, _, num_places, _ = patches_BTND.shape
        by_place = patches_BTND.transpose(1, 2).flatten(0, 1)
        mixed = layer.temporal_attention(layer.temporal_layernorm(by_place))[0]
        mixed = layer.temporal_dense(mixed).unflatten(0, (batch, num_places))
        return patches_BTND + mixed.transpose(1, 2)

    def project(self, tokens_BLD: Tensor) -> Heads:
        attention = self.layer.attention.attention
        return _split(attention.qkv(self.layer.layernorm_before(tokens_BLD)), attention.num_heads)

    def output(self, mixed_BLD: Tensor) -> Tensor:
        return self.layer.attention.output(mixed_BLD)

    def mlp(self, tokens_BLD: Tensor) -> Tensor:
        layer = self.layer
        return layer.output(layer.intermediate(layer.layernorm_after(tokens_BLD)))


class DividedLayers(nn.Module):
    """All layers with divided attention, one after the other."""

    def __init__(self, layers: Sequence[DividedLayer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, cls_B1D: Tensor, patches_BTND: Tensor) -> tuple[Tensor, Tensor]:
        sizes_BN = None
        for layer in self.layers:
            cls_B1D, patches_BTND, sizes_BN = layer(cls_B1D, patches_BTND, sizes_BN)
        return cls_B1D, patches_BTND


class HfDividedLayers(DividedLayers):
    """Takes and returns tokens as TimesformerEncoder does; of those, it returns the class token."""

    def __init__(self, layers: Sequence[DividedLayer], *, num_frames: int) -> None:
        super().__init__(layers)
        self.num_frames = num_frames

    def forward(self, tokens_BLD: Tensor, *_: object) -> tuple[Tensor]:  # type: ignore[override]
        patches_BTND = tokens_BLD[:, 1:].unflatten(1, (-1, self.num_frames)).transpose(1, 2)
        cls_B1D, _patches = super().forward(tokens_BLD[:, :1], patches_BTND)
        return (cls_B1D,)


def _split(projected: Tensor, num_heads: int) -> Heads:
    """Split the output of one linear layer for query, key and value."""
    query, key, value = projected.unflatten(2, (3, num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    return query, key, value


def _heads(query: Tensor, key: Tensor, value: Tensor, num_heads: int) -> Heads:
    query, key, value = (
        each.unflatten(2, (num_heads, -1)).transpose(1, 2) for each in (query, key, value)
    )
    return query, key, value
