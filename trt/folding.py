"""What can be worked out before a model is compiled: batch normalization goes into convolutions.

The parts are found by watching one clip pass, so that any library's modules will do; whether the
folded model still says the same is looked at, too.
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
"""Of the greatest logit."""


def folded(model: Uint8Input, example: Tensor) -> Uint8Input:
    """A copy without the batch normalizations that follow a convolution."""
    changed = copy.deepcopy(model).eval()
    with torch.no_grad():
        for first, second in _pairs(changed, example):
            convolution, norm = changed.get_submodule(first), changed.get_submodule(second)
            _replace(changed, first, fuse_conv_bn_eval(convolution, norm))
            _replace(changed, second, nn.Sequential(*norm.children()))  # an activation, in timm
        right, found = model(example), changed(example)
    scale = max(1.0, float(right.abs().max()))
    close = math.isfinite(scale) and float((right - found).abs().max()) <= TOLERANCE * scale
    return changed if close else model


def _pairs(model: nn.Module, example: Tensor) -> list[tuple[str, str]]:
    """Convolutions whose very output is what a batch normalization takes in."""
    made_by: dict[int, str] = {}
    alive: list[Tensor] = []  # so that no address comes twice
    pairs = []

    def made(name: str, found: Tensor) -> None:
        made_by[id(found)] = name
        alive.append(found)

    def taken(name: str, inputs: tuple[Tensor, ...]) -> None:
        if id(inputs[0]) in made_by:
            pairs.append((made_by[id(inputs[0])], name))

    hooks = []
    for name, each in model.named_modules():
        if isinstance(each, CONVOLUTIONS):
            hooks.append(each.register_forward_hook(lambda _, __, out, n=name: made(n, out)))
        elif isinstance(each, NORMS):
            hooks.append(each.register_forward_pre_hook(lambda _, given, n=name: taken(n, given)))
    try:
        model(example)
    finally:
        for hook in hooks:
            hook.remove()
    return pairs


def _replace(model: nn.Module, name: str, by: nn.Module) -> None:
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, by)
