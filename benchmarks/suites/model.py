"""The model alone: clips per second of artifacts beside the model that they were made from.

Every way gets the same bytes, in turn, after a warm-up. The yardstick is the run in eager PyTorch,
fp32, pictures channels-first, as people run it today; `eager` is the same with our own layout.
`share_of_peak` is the model's arithmetic over what this machine's matrix units were measured to do
in the same precision.
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.harness import in_turn, summary
from dali_pipelines.spec import ClipSpec
from engine.commands.opened import Predictor, open_predictor, shape_of
from engine.training import checkpoint

YARDSTICK = "eager, channels-first"
PEAK_SIDE = 2048
PEAK_S = 1.0
"""For how long the peak is measured."""


def measure(
    run: Path,
    artifacts: list[Path],
    *,
    batches: list[int],
    repeats: int,
    on_done: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """A row for each way and batch; the ratio is the median of the repeats' ratios."""
    opened = {YARDSTICK: as_people_run_it(run), "eager": open_predictor(run)}
    opened |= {path.name: open_predictor(path) for path in artifacts}
    peaks = {name: matrix_peak(name) for name in ("fp32", "bf16", "int8")}
    model, config = checkpoint.load_model(opened["eager"].path)
    flops = count_flops(model, config.clip)
    shape = shape_of(opened["eager"].clip)
    rows = []
    for batch in batches:
        clips = torch.randint(0, 256, (batch, *shape), dtype=torch.uint8)
        ways = {name: _way(predictor, clips) for name, predictor in opened.items()}
        in_turn(ways, repeats=1, on_done=on_done)
        rates = in_turn(ways, repeats=repeats, on_done=on_done)
        for name, each in rates.items():
            ratios = [rate / base for rate, base in zip(each, rates[YARDSTICK], strict=True)]
            precision = opened[name].runs_on.rpartition(", ")[2]
            row = summary(name, each) | {
                "batch": batch,
                "precision": precision,
                "times_yardstick": round(statistics.median(ratios), 2),
            }
            if precision in peaks:
                row["share_of_peak"] = round(row["clips_per_s"] * flops / peaks[precision], 3)
            rows.append(row)
    return {
        "rows": rows,
        "gflop_per_clip": round(flops / 1e9, 3),
        "matrix_peak_gflops": {name: round(peak / 1e9) for name, peak in peaks.items()},
        "threads": torch.get_num_threads(),
    }


def num_steps(num_artifacts: int, num_batches: int, repeats: int) -> int:
    return (2 + num_artifacts) * num_batches * (repeats + 1)


def _way(predictor: Predictor, clips: Tensor) -> Callable[[], int]:
    def run() -> int:
        predictor(clips)
        if predictor.device.type == "cuda":
            torch.cuda.synchronize()
        return len(clips)

    return run


def as_people_run_it(run: Path) -> Predictor:
    """The run's model with its pictures channels-first, which is what torch does by itself."""
    predictor = open_predictor(run)
    backbone = getattr(predictor.run.model, "backbone", None)  # type: ignore[attr-defined]
    if backbone is not None:
        backbone.register_forward_pre_hook(lambda _, pictures: _channels_first(*pictures))
    return predictor


def _channels_first(pictures_BCHW: Tensor) -> Tensor:
    return pictures_BCHW.contiguous(memory_format=torch.contiguous_format)


def count_flops(model: nn.Module, spec: ClipSpec) -> float:
    """Of one clip: a multiplication and an addition count as two."""
    from torch.utils.flop_counter import FlopCounterMode

    clip = torch.zeros(1, *shape_of(spec))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(clip)
    recurrent = sum(
        2 * weight.numel() * spec.num_frames
        for each in model.modules()
        if isinstance(each, nn.RNNBase)
        for weight in each.parameters()
        if weight.ndim > 1
    )
    return counter.get_total_flops() + recurrent


def matrix_peak(precision: str) -> float:
    """Operations a second of one large product, the best of those that fit into a second."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    kinds = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}
    shape = (PEAK_SIDE, PEAK_SIDE)
    left = torch.ones(shape, device=device).to(kinds[precision])
    right = torch.ones(shape, device=device).to(kinds[precision])
    product: Any = torch._int_mm if precision == "int8" else torch.matmul
    product(left, right)
    best, end = float("inf"), time.perf_counter() + PEAK_S
    while best == float("inf") or time.perf_counter() < end:
        started = time.perf_counter()
        product(left, right)
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return 2 * PEAK_SIDE**3 / best
