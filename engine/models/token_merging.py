"""Token merging: similar tokens of a trained transformer become one, a few in each layer.

This is the bipartite soft matching of Bolya et al., "Token Merging: Your ViT But Faster": of the
tokens at even places, those that are most similar to a token at an odd place are averaged with it.
Each token has a size, the number of patches that it stands for. All shapes but that of the batch
are static. merged_layers.py has the layers that merge. Shape letters: B batch, N tokens, M tokens
that are left, E tokens at even places, R merged tokens, D width of a token, K width of a key.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


def schedule(num_tokens: int, num_layers: int, share: float) -> list[int]:
    """Number of tokens to merge in each layer: about equally many, and at most half of them.

    Args:
        num_tokens: Tokens before the first layer.
        num_layers: Number of layers.
        share: Share of the tokens that are merged by the last layer.
    """
    counts = []
    left = num_tokens
    for layer in range(1, num_layers + 1):
        wanted = num_tokens - round(num_tokens * share * layer / num_layers)
        counts.append(max(0, min(left - wanted, left // 2)))
        left -= counts[-1]
    return counts


def take(values: Tensor, places: Tensor) -> Tensor:
    """Rows `places` (B, M) of `values` (B, N, ...).

    Compilers copy whole rows then; for `gather` they need an index of each number.
    """
    rows = torch.arange(values.shape[0], device=values.device)[:, None]
    return values[rows, places]


class Merged(NamedTuple):
    """Result of a merge."""

    tokens_BMD: Tensor
    sizes_BM: Tensor
    places_BN: Tensor | None
    """New place of each token, if wanted."""


class Merge(nn.Module):
    """Merges a fixed number of tokens with their most similar ones.

    Args:
        num_tokens: Number of tokens.
        num_merged: How many fewer there are afterwards; at most half.
        with_places: Also return the new place of each token.
    """

    quantizable = False
    """Similarities and averages in int8 would cost accuracy and save nothing."""

    def __init__(self, num_tokens: int, num_merged: int, *, with_places: bool = False) -> None:
        super().__init__()
        assert 0 < num_merged <= num_tokens // 2, (num_tokens, num_merged)
        self.num_merged = num_merged
        self.with_places = with_places
        num_odd = num_tokens // 2
        self.num_kept = num_tokens - num_odd - num_merged  # tokens at even places
        odd = torch.arange(num_odd)
        self.register_buffer("odd", odd, persistent=False)
        targets = torch.cat([torch.full((self.num_kept,), -1), odd])
        self.register_buffer("targets", targets[:, None], persistent=False)

    def forward(self, tokens_BND: Tensor, keys_BNK: Tensor, sizes_BN: Tensor | None) -> Merged:
        """Merge tokens whose keys are similar; `sizes_BN` None: all are 1."""
        order_BE, target_BE = _match(keys_BNK)
        merged_BR, kept = order_BE[:, : self.num_merged], order_BE[:, self.num_merged :]
        odd = (2 * self.odd + 1).expand(kept.shape[0], -1)
        left_BM = torch.cat([2 * kept, odd], dim=1)
        sums_BMR = (self.targets == take(target_BE, merged_BR)[:, None]).float()
        own: Tensor | float = 1.0
        if sizes_BN is not None:
            own = take(sizes_BN, left_BM)
            sums_BMR = sums_BMR * take(sizes_BN, 2 * merged_BR)[:, None]
        sizes_BM = own + sums_BMR.sum(dim=2)
        # As weights of at most 1: a token times its size may overflow fp16.
        weights_BMR = (sums_BMR / sizes_BM[..., None]).to(tokens_BND.dtype)
        own_weights_BM1 = (own / sizes_BM)[..., None].to(tokens_BND.dtype)
        tokens_BMD = take(tokens_BND, left_BM) * own_weights_BM1
        tokens_BMD = tokens_BMD + weights_BMR @ take(tokens_BND, 2 * merged_BR)
        places_BN = self._places(order_BE, target_BE) if self.with_places else None
        return Merged(tokens_BMD=tokens_BMD, sizes_BM=sizes_BM, places_BN=places_BN)

    def _places(self, order_BE: Tensor, target_BE: Tensor) -> Tensor:
        """New place of each token."""
        num_odd = len(self.odd)
        rank_BE = order_BE.float().topk(order_BE.shape[1], largest=False).indices
        even = torch.where(
            rank_BE < self.num_merged, self.num_kept + target_BE, rank_BE - self.num_merged
        )
        odd = (self.num_kept + self.odd).expand_as(even[:, :num_odd])
        pairs = torch.stack([even[:, :num_odd], odd], dim=2).flatten(1)
        return torch.cat([pairs, even[:, num_odd:]], dim=1)


def _match(keys_BNK: Tensor) -> tuple[Tensor, Tensor]:
    """Order of the even tokens, most similar first, and the odd token that each is most similar to.

    In fp32: in fp16 the squares may overflow.
    """
    keys_BNK = functional.normalize(keys_BNK.float(), dim=2)
    similarity_BEO = keys_BNK[:, ::2] @ keys_BNK[:, 1::2].transpose(1, 2)
    best_BE1, target_BE1 = similarity_BEO.topk(1, dim=2)  # not max, which TensorRT lacks
    best_BE = best_BE1.flatten(1)
    return best_BE.topk(best_BE.shape[1]).indices, target_BE1.flatten(1)
