"""Speed of the model without loading: artifacts against the model that they were compiled from.

All models get the same clips, in turn, after a warm-up. The reference is the run in eager PyTorch,
fp32, with channels-first frames, as is common; `eager` is the same with our memory layout.
`share_of_peak` is the model's FLOP/s divided by the measured peak of this machine's matrix product
in the same precision.
"""

import inspect
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.harness import interleaved, summary
from benchmarks.machine import matrix_peaks
from dali_pipelines.spec import ClipSpec
from engine.predictor import Predictor, open_predictor
from engine.training import checkpoint

REFERENCE = "eager, channels-first"


def measure(
    run: Path,
    artifacts: list[Path],
    *,
    batches: list[int],
    repeats: int,
    on_done: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Measure a row for each model and batch size; ratios are medians over the repeats."""
    predictors = {REFERENCE: open_channels_first(run), "eager": open_predictor(run)}
    predictors |= {path.name: open_predictor(path) for path in artifacts}
    peaks = matrix_peaks()
    model, config = checkpoint.load_model(predictors["eager"].path)
    flops = count_flops(model, config.clip)
    shape = predictors["eager"].clip.shape
    rows = []
    for batch in batches:
        clips = torch.randint(0, 256, (batch, *shape), dtype=torch.uint8)
        steps = {name: _step(predictor, clips) for name, predictor in predictors.items()}
        interleaved(steps, repeats=1, on_done=on_done)
        rates = interleaved(steps, repeats=repeats, on_done=on_done)
        for name, each in rates.items():
            ratios = [rate / base for rate, base in zip(each, rates[REFERENCE], strict=True)]
            precision = predictors[name].runs_on.rpartition(", ")[2]
            row = summary(name, each) | {
                "batch": batch,
                "precision": precision,
                "times_yardstick": round(statistics.median(ratios), 2),
            }
            if precision in peaks:
                row["share_of_peak"] = round(row["clips_per_s"] * flops / 1e9 / peaks[precision], 3)
            rows.append(row)
    return {
        "rows": rows,
        "gflop_per_clip": round(flops / 1e9, 3),
        "matrix_peak_gflops": peaks,
        "threads": torch.get_num_threads(),
    }


def num_steps(num_artifacts: int, num_batches: int, repeats: int) -> int:
    return (2 + num_artifacts) * num_batches * (repeats + 1)


def _step(predictor: Predictor, clips: Tensor) -> Callable[[], int]:
    def run() -> int:
        predictor(clips)
        if predictor.device.type == "cuda":
            torch.cuda.synchronize()
        return len(clips)

    return run


def open_channels_first(run: Path) -> Predictor:
    """Open a run with channels-first frames, the default of PyTorch."""
    predictor = open_predictor(run)
    channels_first(inspect.unwrap(predictor.run).model)
    return predictor


def channels_first(model: nn.Module) -> nn.Module:
    backbone = getattr(model, "backbone", None)
    if backbone is not None:
        backbone.register_forward_pre_hook(
            lambda _, inputs: inputs[0].contiguous(memory_format=torch.contiguous_format)
        )
    return model


def count_flops(model: nn.Module, spec: ClipSpec) -> float:
    """Count the FLOPs of one clip; a multiply-add counts as two."""
    from torch.utils.flop_counter import FlopCounterMode

    clip = torch.zeros(1, *spec.shape)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    model.requires_grad_(
        False
    )  # the counter's hooks can't handle weights that are inputs of layers
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(clip)
    finally:
        for weight in trained:
            weight.requires_grad_(True)
    recurrent = sum(
        2 * weight.numel() * spec.num_frames
        for module in model.modules()
        if isinstance(module, nn.RNNBase)
        for weight in module.parameters()
        if weight.ndim > 1
    )
    return counter.get_total_flops() + recurrent
