"""Replaces the layers of a trained transformer with layers that merge tokens.

Models without tokens that can be merged are refused.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from engine.errors import UserError
from engine.models import merged_layers as layers
from engine.models.hf import HfClassifier, num_tokens
from engine.models.recurrent import RecurrentClassifier
from engine.models.timesformer import TimeSformer
from engine.models.timm_loading import load_timm
from engine.models.token_merging import Merge, schedule
from engine.models.vivit import FactorizedViViT, JointViViT

SUPPORTED = (
    "timesformer, vivit, vit-lstm with a ViT of timm, and hf with videomae, timesformer or vivit"
)


def with_merged_tokens(model: nn.Module, share: float, *, family: str) -> tuple[nn.Module, str]:
    """A copy of a trained model that merges tokens.

    Args:
        model: Maps clips to logits.
        share: Share of the tokens that are merged by the last layer.
        family: Name of its family, for the error.

    Returns:
        The copy, and what is merged in words.

    Raises:
        UserError: It has no tokens that can be merged.
    """
    replace_layers = require_tokens(model, family)
    changed = copy.deepcopy(model).eval()
    return changed, replace_layers(changed, share)


def require_tokens(model: nn.Module, family: str) -> Callable[[Any, float], str]:
    """Raise UserError if a model has no tokens that can be merged.

    Returns:
        The function that replaces the layers of such a model, and says in words what is merged.
    """
    for model_class, replace_layers in REPLACEMENTS.items():
        if isinstance(model, model_class):
            return replace_layers
    if isinstance(model, HfClassifier):
        kind = model.network.config.model_type
        if kind in HF_REPLACEMENTS:
            return HF_REPLACEMENTS[kind]
        family = f"{family} with {kind}"
    if isinstance(model, RecurrentClassifier) and _is_timm_vit(model.backbone.network):
        return _recurrent
    raise UserError(
        f"`merge_tokens` needs a transformer with tokens to merge ({SUPPORTED}), not {family}."
    )


def _timesformer(model: TimeSformer, share: float) -> str:
    total = model.num_patches
    if model.kind == "divided":
        merges, words = _merges(total, len(model.blocks), share, "places in all frames")
        wrapped = [
            layers.DividedLayer(block, merge)
            for block, merge in zip(model.blocks, merges, strict=True)
        ]
        model.blocks = nn.ModuleList([layers.DividedLayers(wrapped)])
        return words
    unit = "places in each frame"
    if model.kind == "joint":
        total, unit = total * model.times.shape[1], "tokens"
    stack, words = _joint(
        list(model.blocks), layers.OurLayer, total, share, unit=unit, num_prefix=1
    )
    model.blocks = nn.ModuleList([stack])
    return words


def _factorized_vivit(model: FactorizedViViT, share: float) -> str:
    """Replace the space encoder; the time encoder has few tokens, one for each time step."""
    model.space, words = _joint(
        list(model.space), layers.OurLayer, model.positions.shape[1], share,
        unit="places in each time step", num_prefix=0, restores=True,
    )  # fmt: skip
    return words


def _vivit(model: JointViViT | HfClassifier, share: float) -> str:
    network: Any = model.network
    stack, words = _joint(
        list(network.vivit.layers), layers.VivitLayer, num_tokens(network.config), share,
        num_prefix=1,
    )  # fmt: skip
    network.vivit.layers = nn.ModuleList([stack])
    return words


def _videomae(model: HfClassifier, share: float) -> str:
    network: Any = model.network
    encoder = network.videomae.encoder
    stack, words = _joint(
        list(encoder.layer), layers.VideoMaeLayer, num_tokens(network.config), share,
        num_prefix=0, restores=network.config.use_mean_pooling,
    )  # fmt: skip
    encoder.layer = nn.ModuleList([stack])
    return words


def _hf_timesformer(model: HfClassifier, share: float) -> str:
    network: Any = model.network
    encoder, frames = network.timesformer.encoder, network.config.num_frames
    total = num_tokens(network.config) // frames
    merges, words = _merges(total, len(encoder.layer), share, "places in all frames")
    wrapped = [
        layers.HfDividedLayer(layer, merge)
        for layer, merge in zip(encoder.layer, merges, strict=True)
    ]
    encoder.layer = nn.ModuleList([layers.HfDividedLayers(wrapped, num_frames=frames)])
    return words


def _recurrent(model: RecurrentClassifier, share: float) -> str:
    """Replace the blocks; identities keep their number, by which timm names feature levels."""
    network: Any = model.backbone.network
    blocks = list(network.blocks)
    stack, words = _joint(
        blocks, layers.TimmLayer, network.patch_embed.num_patches, share,
        unit="places in each frame", num_prefix=network.num_prefix_tokens,
        restores=network.global_pool != "token",
    )  # fmt: skip
    network.blocks = nn.Sequential(*(nn.Identity() for _ in blocks[1:]), stack)
    return words


REPLACEMENTS: dict[type[nn.Module], Callable[[Any, float], str]] = {
    TimeSformer: _timesformer,
    FactorizedViViT: _factorized_vivit,
    JointViViT: _vivit,
}
HF_REPLACEMENTS: dict[str, Callable[[Any, float], str]] = {
    "videomae": _videomae,
    "vivit": _vivit,
    "timesformer": _hf_timesformer,
}
"""By type of model. V-JEPA 2 isn't among them: it rotates queries and keys by their places."""


def _is_timm_vit(network: nn.Module) -> bool:
    """Whether it is a ViT of timm with plain attention in all blocks."""
    load_timm()
    from timm.layers import Attention
    from timm.models import vision_transformer as timm_vit

    if not isinstance(network, timm_vit.VisionTransformer):
        return False
    return all(
        type(block) is timm_vit.Block and type(block.attn) is Attention and block.attn.gate is None
        for block in network.blocks
    )


def _joint(
    blocks: Sequence[nn.Module],
    layer_class: type[layers.MergedLayer],
    total: int,
    share: float,
    *,
    num_prefix: int,
    restores: bool = False,
    unit: str = "tokens",
) -> tuple[layers.MergedLayers, str]:
    """The merging layers, and what they merge in words."""
    merges, words = _merges(total, len(blocks), share, unit, with_places=restores)
    wrapped = [
        layer_class(block, merge, num_prefix=num_prefix)
        for block, merge in zip(blocks, merges, strict=True)
    ]
    return layers.MergedLayers(wrapped, restores=restores), words


def _merges(
    total: int, num_layers: int, share: float, unit: str, *, with_places: bool = False
) -> tuple[list[Merge | None], str]:
    left = total
    merges: list[Merge | None] = []
    for count in schedule(total, num_layers, share):
        merges.append(Merge(left, count, with_places=with_places) if count else None)
        left -= count
    return merges, f"merging {unit}: {total} before the first layer, {left} after the last"
