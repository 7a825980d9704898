"""Which layers break in a low precision, so that just those can be kept in fp32.

Each layer by itself is made to compute in the low precision, on some clips, while the rest of the
model stays as it is; what that does to the logits ranks it. The worst are then kept, one, two, four
and so on, until the compiled model passes: `widen` says what to try next.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from trt.program import DTYPES, Uint8Input, cast

NUM_CLIPS = 16
INT8_LEVELS = 127
FP8_MOST = 448.0
"""The greatest number of float8_e4m3fn."""
OF_ITS_OWN = 2.0
"""A module breaks by what it does between its layers (a softmax, say) where it does this many times
more harm than they do one by one."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    name: str
    kind: str
    error: float
    """The greatest change of a logit when this layer alone is lowered."""


def rank(
    model: Uint8Input,
    precision: str,
    clips: Tensor,
    on_layer: Callable[[], None] = lambda: None,
) -> list[Layer]:
    """All layers with weights, and those around them that do harm of their own; the worst first."""
    root = model.model
    found: dict[str, Layer] = {}
    with torch.no_grad():
        right = model(clips)
        for name in candidates(model, precision, clips[:1]):
            layer = root.get_submodule(name)
            with _lowered(layer, precision):
                error = float((model(clips) - right).abs().nan_to_num(torch.inf, torch.inf).max())
            within = [each.error for each in found.values() if each.name.startswith(f"{name}.")]
            if error > OF_ITS_OWN * sum(within):
                found[name] = Layer(name=name, kind=type(layer).__name__, error=error)
            on_layer()
    return sorted(found.values(), key=lambda each: -each.error)


def widen(ranked: list[Layer]) -> Iterator[tuple[str, ...]]:
    """The layers to keep, in turn: the worst one, two, four …, but never all."""
    count = 1
    while count < len(ranked):
        yield tuple(each.name for each in ranked[:count])
        count *= 2


def candidates(model: Uint8Input, precision: str, clip: Tensor) -> list[str]:
    """Modules with weights of their own, then those next around them but for plain sequences.

    Only those that are called as modules count: of others, inputs and outputs can't be cast. In 8
    bits only what multiplies matrices is lowered, and nothing around it.
    """
    root = model.model
    called = _called(model, clip)
    with_weights = [
        name
        for name, each in root.named_modules()
        if name in called and any(weight.ndim > 1 or precision in DTYPES for weight in _own(each))
    ]
    if precision not in DTYPES:
        return with_weights
    parents = {name.rpartition(".")[0] for name in with_weights} & called - {*with_weights}
    plain = (nn.Sequential, nn.ModuleList)
    around = sorted(name for name in parents if not isinstance(root.get_submodule(name), plain))
    return with_weights + around


def _called(model: Uint8Input, clip: Tensor) -> set[str]:
    names: set[str] = set()
    hooks = [
        each.register_forward_pre_hook(lambda _, __, name=name: names.add(name))
        for name, each in model.model.named_modules()
        if name
    ]
    with torch.no_grad():
        model(clip)
    for hook in hooks:
        hook.remove()
    return names


def _own(module: nn.Module) -> list[nn.Parameter]:
    return list(module.parameters(recurse=False))


@contextmanager
def _lowered(layer: nn.Module, precision: str) -> Iterator[None]:
    """As long as it lasts, the layer computes in the low precision (int8, fp8: as if it did)."""
    before = {name: each.data for name, each in layer.named_parameters()}
    buffers = {name: each.data for name, each in layer.named_buffers()}
    dtype = DTYPES.get(precision)
    hooks = []
    if dtype is not None:
        layer.to(dtype)
        hooks.append(layer.register_forward_pre_hook(lambda _, inputs: cast(inputs, dtype)))
        hooks.append(layer.register_forward_hook(lambda _, __, found: cast(found, torch.float32)))
    else:
        for each in layer.parameters():
            each.data = _rounded(each.data, precision, by_row=each.ndim > 1)
        hooks.append(
            layer.register_forward_pre_hook(
                lambda _, inputs: tree_map(lambda each: _rounded(each, precision), inputs)
            )
        )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for name, parameter in layer.named_parameters():
            parameter.data = before[name]
        for name, buffer in layer.named_buffers():
            buffer.data = buffers[name]


def _rounded(values: Any, precision: str, *, by_row: bool = False) -> Any:
    """Through 8 bits and back, scaled by the greatest value of all, or of each row."""
    if not isinstance(values, Tensor):
        return values
    if by_row:
        most = values.abs().flatten(1).amax(dim=1).reshape(-1, *[1] * (values.ndim - 1))
    else:
        most = values.abs().amax()
    if precision == "fp8":
        scale = most.clamp_min(1e-12) / FP8_MOST
        return (values / scale).to(torch.float8_e4m3fn).to(values.dtype) * scale
    scale = most.clamp_min(1e-12) / INT8_LEVELS
    return (values / scale).round() * scale
