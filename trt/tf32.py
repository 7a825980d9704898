"""Whether a GPU may compute fp32 matrix products and convolutions in TF32, with 10-bit mantissas.

PyTorch allows it for convolutions by default, so exact fp32 has to be asked for.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

Result = TypeVar("Result")


def set_tf32(allowed: bool) -> None:
    """Allow or forbid TF32 in this process."""
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Context that allows or forbids TF32; the setting before is restored."""
    products = torch.get_float32_matmul_precision()
    convolutions = torch.backends.cudnn.allow_tf32
    set_tf32(allowed)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions


def with_tf32(
    run: Callable[[torch.Tensor], Result], allowed: bool
) -> Callable[[torch.Tensor], Result]:
    """A function that calls `run` with TF32 allowed or forbidden."""

    @functools.wraps(run, updated=())
    def call(clips: torch.Tensor) -> Result:
        with tf32(allowed):
            return run(clips)

    return call
