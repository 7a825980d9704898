"""Folds batch normalizations into the convolutions before them.

The pairs are found by tracing one clip with hooks, so models of any library are supported. The
folded model is compared with the original.
"""

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from trt.program import Uint8Input

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
TOLERANCE = 1e-3
"""Largest change of a logit, relative to the largest logit."""


def folded(model: Uint8Input, example: Tensor) -> Uint8Input:
    """Return a copy without the batch normalizations that directly follow a convolution.

    Returns the model itself if folding would change its logits.
    """
    changed = copy.deepcopy(model).eval()
    with torch.no_grad():
        for first, second in _conv_norm_pairs(changed, example):
            convolution, norm = changed.get_submodule(first), changed.get_submodule(second)
            _replace(changed, first, fuse_conv_bn_eval(convolution, norm))
            _replace(
                changed, second, nn.Sequential(*norm.children())
            )  # timm's norms hold an activation
        expected, actual = model(example), changed(example)
    scale = max(1.0, float(expected.abs().max()))
    error = float((expected - actual).abs().max())
    is_close = math.isfinite(scale) and error <= TOLERANCE * scale
    return changed if is_close else model


def _conv_norm_pairs(model: nn.Module, example: Tensor) -> list[tuple[str, str]]:
    """List the names of (convolution, batch normalization) that directly follow each other."""
    producers: dict[int, str] = {}
    alive: list[Tensor] = []  # keeps the ids unique
    pairs = []

    def record(name: str, output: Tensor) -> None:
        producers[id(output)] = name
        alive.append(output)

    def match(name: str, inputs: tuple[Tensor, ...]) -> None:
        if id(inputs[0]) in producers:
            pairs.append((producers[id(inputs[0])], name))

    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, CONVOLUTIONS):
            hooks.append(module.register_forward_hook(lambda _, __, out, n=name: record(n, out)))
        elif isinstance(module, NORMS):
            hooks.append(module.register_forward_pre_hook(lambda _, args, n=name: match(n, args)))
    try:
        model(example)
    finally:
        for hook in hooks:
            hook.remove()
    return pairs


def _replace(model: nn.Module, name: str, replacement: nn.Module) -> None:
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, replacement)
