"""The attention of MViT over tokens of one clip shape, with fused kernels.

It has the weights and names of torchvision's module, and computes the same. Instead of building a
large matrix in place, it hands PyTorch's attention operator a bias; and the tables of relative
positions fit the clip, so nothing is resampled or indexed from the CPU in a forward pass.
Shape letters: B batch, N heads, Q and K positions of queries and keys along one axis, D width.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention

Grid = tuple[int, int, int]
"""Number of tokens over time, height and width."""
AXES = ("t", "h", "w")


class PooledAttention(nn.Module):
    """Attention between pooled queries and keys, with relative positions if `theirs` has them.

    Args:
        theirs: torchvision's `MultiscaleAttention`; its layers are used.
        grid: Tokens of the block's input, besides the class token.
    """

    def __init__(self, theirs: Any, grid: Grid) -> None:
        super().__init__()
        self.num_heads, self.scale = theirs.num_heads, theirs.scaler
        self.adds_query = theirs.residual_pool
        self.skips_class = not theirs.residual_with_cls_embed
        self.qkv, self.project = theirs.qkv, theirs.project
        self.pool_q, self.pool_k, self.pool_v = theirs.pool_q, theirs.pool_k, theirs.pool_v
        self.queries, self.keys = _pooled(grid, self.pool_q), _pooled(grid, self.pool_k)
        self.is_relative = theirs.rel_pos_h is not None
        if self.is_relative:
            for axis, queries, keys in zip(AXES, self.queries, self.keys, strict=True):
                table = torch.empty(2 * max(queries, keys) - 1, theirs.head_dim)
                nn.init.trunc_normal_(table, std=0.02)
                self.register_parameter(f"rel_pos_{axis}", nn.Parameter(table))
                rows_QK = _distances(queries, keys)
                self.register_buffer(f"rows_{axis}", rows_QK, persistent=False)

    def forward(self, tokens: Tensor, grid: Grid) -> tuple[Tensor, Grid]:
        projected = self.qkv(tokens).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = projected.unbind(0)
        query = query if self.pool_q is None else self.pool_q(query, grid)[0]
        key = key if self.pool_k is None else self.pool_k(key, grid)[0]
        value = value if self.pool_v is None else self.pool_v(value, grid)[0]
        bias = self._bias(query[:, :, 1:]) if self.is_relative else None
        mixed = scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=self.scale)
        if self.adds_query:
            mixed = mixed + (pad(query[:, :, 1:], (0, 0, 1, 0)) if self.skips_class else query)
        return self.project(mixed.transpose(1, 2).flatten(2)), self.queries

    def _bias(self, query: Tensor) -> Tensor:
        """Scores from the distances along each axis; none to and from the class token."""
        query_BNTHWD = query.unflatten(2, self.queries)
        over_t = _scores(query_BNTHWD, self.rel_pos_t[self.rows_t], 2)
        over_h = _scores(query_BNTHWD, self.rel_pos_h[self.rows_h], 3)
        over_w = _scores(query_BNTHWD, self.rel_pos_w[self.rows_w], 4)
        total = over_t[..., None, None] + over_h[..., None, :, None] + over_w[..., None, None, :]
        return pad(total.flatten(5, 7).flatten(2, 4), (1, 0, 1, 0))


def _scores(query_BNTHWD: Tensor, table_QKD: Tensor, dim: int) -> Tensor:
    """Products of each query with the rows of its distances along `dim`: (B, N, T, H, W, K)."""
    first = query_BNTHWD.movedim(dim, 0)
    products = first.flatten(1, 4) @ table_QKD.transpose(1, 2)
    return products.unflatten(1, (-1, *first.shape[2:5])).movedim(0, dim)


def _distances(queries: int, keys: int) -> Tensor:
    """Row of the table for each query and key; the axis with fewer positions is stretched."""
    query_step, key_step = max(keys / queries, 1.0), max(queries / keys, 1.0)
    query_Q1 = torch.arange(queries)[:, None] * query_step
    key_1K = (torch.arange(keys)[None] + (1.0 - keys)) * key_step
    return (query_Q1 - key_1K).long()


def _pooled(grid: Grid, pool: Any) -> Grid:
    if pool is None:
        return grid
    time, height, width = (
        -(-size // stride) for size, stride in zip(grid, pool.pool.stride, strict=True)
    )
    return time, height, width
