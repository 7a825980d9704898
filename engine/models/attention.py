"""Transformer layers shared by TimeSformer and ViViT: attention, MLP, block and stem.

Shape letters: B batch, L tokens, D width.
"""

from torch import Tensor, nn
from torch.nn import functional

from dali_pipelines.errors import SpecError
from engine.errors import UserError
from engine.models.timm_loading import load_timm

EPS = 1e-6


def check_heads(dim: int, heads: int) -> None:
    """Raise SpecError unless `dim` can be split evenly among the heads."""
    if dim % heads:
        raise SpecError(f"dim must be a multiple of the number of heads, {heads}, not {dim}")


class Attention(nn.Module):
    """Multi-head self-attention with `scaled_dot_product_attention`."""

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
        # Called by its full name, because ModelOpt looks for it to quantize the products.
        mixed = functional.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
        return self.out(mixed.transpose(1, 2).reshape(batch, length, dim))


class Mlp(nn.Sequential):
    """Two linear layers with GELU and dropout."""

    def __init__(self, dim: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__(
            nn.Linear(dim, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, dim),
            nn.Dropout(dropout),
        )


def drop_path(rate: float) -> nn.Module:
    """Stochastic depth: drops a residual branch for random samples of a training batch."""
    if rate == 0:
        return nn.Identity()
    load_timm()
    from timm.layers import DropPath  # takes a second to import

    return DropPath(rate)


class Block(nn.Module):
    """Pre-norm transformer block: attention and MLP, each with a residual connection."""

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
    """Turns frames into tokens, by patch embedding or by a convolutional stem for small datasets.

    The convolutional stem subtracts the mean over the clip from each position's features, and then
    applies a convolution over three frames. So tokens describe motion, and static content is
    removed.

    Args:
        dim: Width of the tokens.
        patch: Width and height of the patch of one token, in pixels.
        convolutional: Use the convolutional stem; `patch` must be a power of 2.
        tubelet: Number of frames in each token.

    Raises:
        UserError: `patch` is not a power of 2 with the convolutional stem.
    """

    def __init__(self, dim: int, patch: int, *, convolutional: bool, tubelet: int = 1) -> None:
        super().__init__()
        self.over_time: nn.Module | None = None
        if not convolutional:
            size, conv_class = ((patch, patch), nn.Conv2d) if tubelet == 1 else (
                (tubelet, patch, patch), nn.Conv3d,
            )  # fmt: skip
            self.layers: nn.Module = conv_class(3, dim, size, stride=size)
            return
        steps = patch.bit_length() - 1
        if patch != 2**steps:
            raise UserError(
                f"patch must be a power of 2 if convolutional_stem is true, not {patch}."
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
        """Return tokens (B, T, N, D) for N positions at each of T time steps."""
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
    """Initialize linear layers as in ViT: truncated normal weights with std 0.02, zero biases."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
