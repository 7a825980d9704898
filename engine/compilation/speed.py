"""Whether a model in 8 bits is worth it on this GPU: bf16 without any compiler may be faster."""

import time
from collections.abc import Callable

import torch
from torch import Tensor

from engine.errors import RefusedError

MIN_S = 0.5
NUM_WARM_UP = 3


def require_faster_than_bf16(
    precision: str, run: Callable[[Tensor], Tensor], in_bf16: Callable[[Tensor], Tensor],
    clips: Tensor,
) -> dict[str, float]:  # fmt: skip
    """Measure both models in turn.

    Args:
        precision: Precision of the first one.
        run: The compiled model.
        in_bf16: The same model in bf16, not compiled.
        clips: A batch, on the device of both.

    Returns:
        Clips per second of both.

    Raises:
        RefusedError: The compiled model is slower.
    """
    rates = {precision: 0.0, "bf16, not compiled": 0.0}
    for _ in range(2):
        for name, model in zip(rates, (run, in_bf16), strict=True):
            rates[name] = max(rates[name], _rate(model, clips))
    compiled, plain = rates.values()
    if compiled < plain:
        raise RefusedError(
            f"no artifact is written: in {precision} this GPU runs {compiled:,.0f} clips/s, and "
            f"{plain:,.0f} in bf16 without a compiler: use `precision='bf16'`."
        )
    return {name: round(rate, 1) for name, rate in rates.items()}


@torch.no_grad()
def _rate(model: Callable[[Tensor], Tensor], clips: Tensor) -> float:
    for _ in range(NUM_WARM_UP):
        model(clips)
    _wait(clips)
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < MIN_S:
        model(clips)
        _wait(clips)
        count += len(clips)
    return count / (time.perf_counter() - started)


def _wait(clips: Tensor) -> None:
    if clips.is_cuda:
        torch.cuda.synchronize()
