"""Finds the layers that lose accuracy in a low precision, so that only these are kept in fp32.

Layers are ranked by the change of the logits when only this layer runs in the low precision. Then
the worst 1, 2, 4, … layers are kept in fp32 until the compiled model passes; see `widen`.
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
FP8_MAX = 448.0
"""Largest number of float8_e4m3fn."""
OWN_ERROR_FACTOR = 2.0
"""A module counts in addition to its layers, because of operations between them such as a softmax,
if its error is larger than this factor times the sum of their errors."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A layer and its error in a low precision."""

    name: str
    kind: str
    """Class of the module."""
    error: float
    """Largest change of a logit if only this layer runs in the low precision."""


def rank(
    model: Uint8Input,
    precision: str,
    clips: Tensor,
    on_layer: Callable[[], None] = lambda: None,
) -> list[Layer]:
    """Rank the layers by their error in a low precision.

    Args:
        model: A model in fp32.
        precision: The low precision.
        clips: Clips to run the model on.
        on_layer: Called after each layer.

    Returns:
        The layers, largest error first. Modules around them are included if they add errors.
    """
    root = model.model
    layers: dict[str, Layer] = {}
    with torch.no_grad():
        expected = model(clips)
        for name in candidates(model, precision, clips[:1]):
            layer = root.get_submodule(name)
            with _lowered(layer, precision):
                change = (model(clips) - expected).abs()
                error = float(change.nan_to_num(torch.inf, torch.inf).max())
            inner_errors = [
                inner.error for inner in layers.values() if inner.name.startswith(f"{name}.")
            ]
            if error > OWN_ERROR_FACTOR * sum(inner_errors):
                layers[name] = Layer(name=name, kind=type(layer).__name__, error=error)
            on_layer()
    return sorted(layers.values(), key=lambda layer: -layer.error)


def widen(ranked: list[Layer]) -> Iterator[tuple[str, ...]]:
    """Yield the names of the worst 1, 2, 4, … layers, but never of all."""
    count = 1
    while count < len(ranked):
        yield tuple(layer.name for layer in ranked[:count])
        count *= 2


def candidates(model: Uint8Input, precision: str, clip: Tensor) -> list[str]:
    """List the modules to rank: those with their own weights, then their direct parents.

    Containers are left out, and modules whose forward isn't called, because their inputs can't be
    cast. In 8 bits only modules with weight matrices are listed, without their parents.
    """
    root = model.model
    called = _called(model, clip)
    with_weights = [
        name
        for name, module in root.named_modules()
        if name in called
        and any(weight.ndim > 1 or precision in DTYPES for weight in _own_parameters(module))
    ]
    if precision not in DTYPES:
        return with_weights
    parents = {name.rpartition(".")[0] for name in with_weights} & called - {*with_weights}
    containers = (nn.Sequential, nn.ModuleList)
    around = (name for name in parents if not isinstance(root.get_submodule(name), containers))
    return with_weights + sorted(around)


def _called(model: Uint8Input, clip: Tensor) -> set[str]:
    names: set[str] = set()
    hooks = [
        module.register_forward_pre_hook(lambda _, __, name=name: names.add(name))
        for name, module in model.model.named_modules()
        if name
    ]
    with torch.no_grad():
        model(clip)
    for hook in hooks:
        hook.remove()
    return names


def _own_parameters(module: nn.Module) -> list[nn.Parameter]:
    return list(module.parameters(recurse=False))


@contextmanager
def _lowered(layer: nn.Module, precision: str) -> Iterator[None]:
    """Context in which the layer computes in the low precision; int8 and fp8 are simulated."""
    parameters = {name: parameter.data for name, parameter in layer.named_parameters()}
    buffers = {name: buffer.data for name, buffer in layer.named_buffers()}
    dtype = DTYPES.get(precision)
    hooks = []
    if dtype is not None:
        layer.to(dtype)
        hooks.append(layer.register_forward_pre_hook(lambda _, inputs: cast(inputs, dtype)))
        hooks.append(layer.register_forward_hook(lambda _, __, output: cast(output, torch.float32)))
    else:
        for parameter in layer.parameters():
            parameter.data = _rounded(parameter.data, precision, by_row=parameter.ndim > 1)
        hooks.append(
            layer.register_forward_pre_hook(
                lambda _, inputs: tree_map(lambda value: _rounded(value, precision), inputs)
            )
        )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for name, parameter in layer.named_parameters():
            parameter.data = parameters[name]
        for name, buffer in layer.named_buffers():
            buffer.data = buffers[name]


def _rounded(values: Any, precision: str, *, by_row: bool = False) -> Any:
    """Quantize to 8 bits and back, scaled by the largest value of the tensor or of each row."""
    if not isinstance(values, Tensor):
        return values
    if by_row:
        largest = values.abs().flatten(1).amax(dim=1).reshape(-1, *[1] * (values.ndim - 1))
    else:
        largest = values.abs().amax()
    if precision == "fp8":
        scale = largest.clamp_min(1e-12) / FP8_MAX
        return (values / scale).to(torch.float8_e4m3fn).to(values.dtype) * scale
    scale = largest.clamp_min(1e-12) / INT8_LEVELS
    return (values / scale).round() * scale
