"""Benchmark of all backends and precisions against eager PyTorch and `torch.compile`.

Weights and clips are random: this measures the speed, and the error of the logits against eager
fp32. A backend that can't be built is a row with its error. On a GPU, clips are already there.
"""

import statistics
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import interleaved, repeated, summary
from benchmarks.machine import matrix_peaks
from benchmarks.stages.model import count_flops
from engine.models import registry
from engine.predictor import as_uint8_input
from trt import artifact
from trt.backends import BACKENDS, build
from trt.build_input import BuildInput
from trt.config import PRECISIONS, ArtifactConfig, BatchRange, Precision, Target
from trt.probe import this_device, this_gpu, versions
from trt.program import Uint8Input, lowered
from trt.tf32 import tf32

NAMES = ("eager", "inductor", "tensorrt", "tensorrt-rtx", "openvino", "onnx")
CALIBRATION = 8


def measure(
    family: str,
    preset: str,
    *,
    batch: int,
    repeats: int,
    min_s: float = 0.0,
    backends: Sequence[str] = NAMES,
    precisions: Sequence[Precision] = PRECISIONS,
    with_compile: bool = True,
    with_peaks: bool = True,
) -> dict[str, Any]:
    """Measure each model in turn.

    Args:
        family: Model family.
        preset: One of its presets.
        batch: Clips per batch.
        repeats: How often each model is timed.
        min_s: Shortest duration of one timing.
        backends: Backends to build; those that can't run here are left out.
        precisions: Precisions to build.
        with_compile: Also measure `torch.compile`.
        with_peaks: Also measure this machine's peak, and each model's share of it.
    """
    gpu = this_gpu()
    device = "cuda" if gpu else "cpu"
    spec, clip = registry.ModelSpec.of_preset(family, preset, 51)
    torch.manual_seed(0)
    model = as_uint8_input(registry.build(spec, clip), clip)
    clips = torch.randint(0, 256, (batch, *clip.shape), dtype=torch.uint8)
    flops = count_flops(model.model, clip)
    on_device = model.to(device)
    models: dict[str, Callable[[Tensor], Tensor]] = {"eager fp32": on_device}
    if with_compile:
        models["torch.compile fp32"] = torch.compile(on_device)
        models["torch.compile bf16"] = torch.compile(lowered(model, "bf16"))
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        for name in backends:
            if not BACKENDS[name].probe(gpu).usable or not BACKENDS[name].runs_on(gpu):
                continue
            for precision in precisions:
                if BACKENDS[name].resolve_precision(precision, gpu)[0] != precision:
                    continue
                try:
                    stage = Path(folder) / f"{name}-{precision}"
                    models[f"{name} {precision}"] = built(model, name, precision, clips, stage)
                except Exception:  # record the error and continue
                    failed.append({"name": f"{name} {precision}", "error": traceback.format_exc()})
                finally:
                    model.to(device)
        with tf32(False):
            peaks = matrix_peaks() if with_peaks else {}
            rows = _timed(models, clips.to(device), repeats, min_s, flops, peaks)
    return {"family": family, "preset": preset, "batch": batch, "device": this_device(),
            "gflop_per_clip": flops / 1e9, "rows": rows + failed}  # fmt: skip


def built(
    model: Uint8Input, name: str, precision: Precision, clips: Tensor, stage: Path
) -> Callable[[Tensor], Tensor]:
    """Build a model with a backend in the new folder `stage`, calibrated on `clips`."""
    stage.mkdir()
    backend = BACKENDS[name]
    batches = BatchRange(min=1, opt=len(clips), max=len(clips))
    target = Target(precision=precision, batches=batches)
    on_cpu = model if precision in backend.LOWERS else lowered(model, precision)
    inputs = BuildInput(
        model=on_cpu.to("cpu"),
        example=clips[:1],
        target=target,
        calibration=lambda: clips[:CALIBRATION].split(1),
    )
    partition = build(name, inputs, stage)
    config = ArtifactConfig(
        backend=name, asked=precision, target=target, clip={}, model={}, class_names=[], source="",
        chosen_by="", key="", device=this_device(), versions=versions(backend.PACKAGES),
        partition=partition,
    )  # fmt: skip
    on_gpu = backend.runs_on(this_gpu()) == "cuda"
    return artifact.Artifact(config, backend.load(stage, config), on_gpu=on_gpu)


def _timed(
    models: dict[str, Callable[[Tensor], Tensor]],
    clips: Tensor,
    repeats: int,
    min_s: float,
    flops: float,
    peaks: dict[str, float],
) -> list[dict[str, Any]]:
    failed: list[dict[str, Any]] = []
    reference = None
    errors: dict[str, float] = {}
    for name, model in list(models.items()):
        try:
            with torch.no_grad():
                logits = model(clips).float().cpu()
        except Exception:
            failed.append({"name": name, "error": traceback.format_exc()})
            del models[name]
            continue
        reference = logits if reference is None else reference
        errors[name] = float((logits - reference).abs().max())

    rates = timed_in_turn(models, clips, repeats, min_s)
    eager = statistics.median(rates["eager fp32"])
    rows = []
    for name, each in rates.items():
        row = summary(name, each) | {"max_error": errors[name]}
        row["times_eager"] = round(row["clips_per_s"] / eager, 2)
        peak = peaks.get({"fp16": "bf16"}.get(name.split()[-1], name.split()[-1]))
        if peak:
            row["share_of_peak"] = round(row["clips_per_s"] * flops / 1e9 / peak, 3)
        rows.append(row)
    return rows + failed


def timed_in_turn(
    models: dict[str, Callable[[Tensor], Tensor]], clips: Tensor, repeats: int, min_s: float
) -> dict[str, list[float]]:
    """Clips per second of each model, for each repeat; not timed once before, to warm up."""

    def step(model: Callable[[Tensor], Tensor]) -> Callable[[], int]:
        def run() -> int:
            with torch.no_grad():
                model(clips)
            if clips.is_cuda:
                torch.cuda.synchronize()
            return len(clips)

        return repeated(run, min_s)

    steps = {name: step(model) for name, model in models.items()}
    interleaved(steps, repeats=1)
    return interleaved(steps, repeats=repeats)
