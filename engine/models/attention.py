"""The transformer parts that TimeSformer and ViViT share: fused attention, MLP, stochastic depth.

Shape letters: B batch, L tokens, D width.
"""

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from dali_pipelines.errors import SpecError
from engine.errors import UserError

EPS = 1e-6


def check_heads(dim: int, heads: int) -> None:
    """Each head gets an equal part of the width."""
    if dim % heads:
        raise SpecError(f"dim must be a multiple of the number of heads, {heads}, not {dim}")


class Attention(nn.Module):
    def __init__(self, dim: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.dropout = dropout

    def forward(self, x_BLD: Tensor) -> Tensor:
        batch, length, dim = x_BLD.shape
        qkv = self.qkv(x_BLD).reshape(batch, length, 3, self.heads, dim // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        dropout = self.dropout if self.training else 0.0
        mixed = scaled_dot_product_attention(query, key, value, dropout_p=dropout)
        return self.out(mixed.transpose(1, 2).reshape(batch, length, dim))


class Mlp(nn.Sequential):
    def __init__(self, dim: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__(
            nn.Linear(dim, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, dim),
            nn.Dropout(dropout),
        )


def drop_path(rate: float) -> nn.Module:
    """Leaves a residual branch out for some samples of a training batch."""
    if rate == 0:
        return nn.Identity()
    from timm.layers import DropPath  # takes a second to import

    return DropPath(rate)


class Block(nn.Module):
    """Attention and MLP, each behind a LayerNorm and beside a shortcut."""

    def __init__(
        self, dim: int, heads: int, mlp_ratio: float, dropout: float = 0.0, drop_rate: float = 0.0
    ) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(dim, eps=EPS)
        self.attention = Attention(dim, heads, dropout)
        self.norm_mlp = nn.LayerNorm(dim, eps=EPS)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), dropout)
        self.drop_path = drop_path(drop_rate)

    def forward(self, x_BLD: Tensor) -> Tensor:
        x_BLD = x_BLD + self.drop_path(self.attention(self.norm_attention(x_BLD)))
        return x_BLD + self.drop_path(self.mlp(self.norm_mlp(x_BLD)))


class Stem(nn.Module):
    """Frames to tokens: one big patch each, or small convolutions that learn from less data.

    From what the convolutions find in a place, its mean over the clip is taken away, and a last one
    goes over three frames: so a token knows how its place changes, and what stands still is gone.
    With `tubelet` 2, say, a token is made of two frames.
    """

    def __init__(self, dim: int, patch: int, *, convolutional: bool, tubelet: int = 1) -> None:
        super().__init__()
        self.over_time: nn.Module | None = None
        if not convolutional:
            size, kind = ((patch, patch), nn.Conv2d) if tubelet == 1 else (
                (tubelet, patch, patch), nn.Conv3d,
            )  # fmt: skip
            self.layers: nn.Module = kind(3, dim, size, stride=size)
            return
        steps = patch.bit_length() - 1
        if patch != 2**steps:
            raise UserError(
                f"patch must be a power of 2 where convolutional_stem is true, not {patch}."
            )
        layers: list[nn.Module] = []
        width = 3
        for step in range(steps):
            wider = max(16, dim >> (steps - 1 - step))
            layers += [
                nn.Conv2d(width, wider, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(wider),
                nn.GELU(),
            ]
            width = wider
        self.layers = nn.Sequential(*layers)
        self.over_time = nn.Conv3d(width, dim, (3, 1, 1), stride=(tubelet, 1, 1), padding=(1, 0, 0))

    def forward(self, clips_BTCHW: Tensor) -> Tensor:
        """(B, T, N, D): tokens of N places at each of T times."""
        batch = clips_BTCHW.shape[0]
        if isinstance(self.layers, nn.Conv3d):
            maps_BDTHW = self.layers(clips_BTCHW.transpose(1, 2))
        else:
            maps = self.layers(clips_BTCHW.flatten(0, 1))
            maps_BDTHW = maps.unflatten(0, (batch, -1)).transpose(1, 2)
            if self.over_time is not None:
                changes = maps_BDTHW - maps_BDTHW.mean(dim=2, keepdim=True)
                maps_BDTHW = self.over_time(changes)
        return maps_BDTHW.flatten(3).permute(0, 2, 3, 1)


def init_weights(module: nn.Module) -> None:
    """As vision transformers are begun: a narrow normal, biases at nought."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
