"""The fingerprint of results: date, commit and machine; and the machine's measured peaks."""

import dataclasses
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.harness import rounded
from engine.machine import describe_machine

PEAK_SIDE = 2048
GPU_PEAK_SIDE = 8192
RUNS_PER_EVENT = 5
PEAK_S = 1.0
"""Seconds for which a peak is measured."""
COPY_BYTES = 256 << 20


def fingerprint() -> dict[str, Any]:
    return {
        "date": date.today().isoformat(),
        "commit": commit_of(Path(__file__).parents[1]),
        "machine": dataclasses.asdict(describe_machine()),
    }


def file_name(theme: str, facts: dict[str, Any]) -> str:
    """Return the name of a result file, from the theme, the machine and the month."""
    return f"{theme}_{_short_name(facts['machine'])}_{facts['date'][:7].replace('-', '')}.json"


def result_file(out: Path, theme: str, facts: dict[str, Any]) -> Path:
    """Return the path of a result file in the folder `out`, which is created if needed."""
    out.mkdir(parents=True, exist_ok=True)
    return out / file_name(theme, facts)


def command_line(module: str) -> str:
    """Return the command of this process without `--keep` and `--out`, whose folders differ."""
    kept = []
    words = iter(sys.argv[1:])
    for word in words:
        name, equals, _ = word.partition("=")
        if name not in ("--keep", "--out"):
            kept.append(word)
        elif not equals:
            next(words, None)
    return shlex.join(["python", "-m", module, *kept])


def _short_name(machine: dict[str, Any]) -> str:
    """The GPU, or the number of cores, for file names."""
    gpu = machine["gpu"]
    name = gpu["name"] if gpu else f"cpu{machine['num_cores']}"
    return "".join(letter for letter in name.lower() if letter.isalnum())


def commit_of(root: Path) -> str:
    """Return the commit of a checkout."""
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    result = subprocess.run(command, capture_output=True, text=True)
    return result.stdout.strip() or "unknown"


def peaks() -> dict[str, Any]:
    """Measure the peaks of matrix multiplication and memory copies, to compare results with."""
    return {"matrix_peak_gflops": matrix_peaks(), "copy_peak_gb_s": copy_peak()}


def matrix_peaks() -> dict[str, float]:
    """Measure GFLOP/s of one large product of random matrices, for each precision.

    Products of ones draw less power, so a GPU runs them at a higher clock than real ones.
    """
    import torch

    from trt.tf32 import tf32

    products: dict[str, tuple[torch.dtype, Any]] = {
        "fp32": (torch.float32, torch.matmul),
        "tf32": (torch.float32, torch.matmul),
        "bf16": (torch.bfloat16, torch.matmul),
        "int8": (torch.int8, torch._int_mm),
    }
    on_gpu = torch.cuda.is_available()
    sizes = (GPU_PEAK_SIDE,) if on_gpu else (PEAK_SIDE // 8, PEAK_SIDE)
    if not on_gpu:
        del products["tf32"]
    gflops = {}
    for name, (dtype, product) in products.items():
        for size in sizes:
            values = 100 * torch.randn((size, size), device=_device())
            side = values.clamp(-127, 127).to(dtype)
            with tf32(name == "tf32"):
                seconds = _best(partial(product, side, side))
            gflops[name] = rounded(2 * size**3 / seconds / 1e9)
            if seconds * (sizes[-1] / size) ** 3 > PEAK_S:
                break  # a precision without instructions of this processor would take minutes
    return gflops


def copy_peak() -> dict[str, float]:
    """Measure GB/s of copies within host memory, and from there to a GPU."""
    import torch

    source = torch.ones(COPY_BYTES, dtype=torch.uint8)
    target = torch.empty_like(source)
    gb_per_s = {"host": round(COPY_BYTES / _best(lambda: target.copy_(source)) / 1e9, 1)}
    if torch.cuda.is_available():
        pinned, on_gpu = source.pin_memory(), source.cuda()
        gb_per_s["to GPU"] = round(COPY_BYTES / _best(lambda: on_gpu.copy_(pinned)) / 1e9, 1)
    return gb_per_s


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _best(work: Callable[[], object]) -> float:
    """Seconds of the fastest run within `PEAK_S`, after one warm-up run."""
    import torch

    work()
    once = _once_on_gpu if torch.cuda.is_available() else _once
    best, end = once(work), time.perf_counter() + PEAK_S
    while time.perf_counter() < end:
        best = min(best, once(work))
    return best


def _once(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _once_on_gpu(work: Callable[[], object]) -> float:
    """By the GPU's clock, and for several runs, so that launching them isn't counted."""
    import torch

    started, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    started.record()
    for _ in range(RUNS_PER_EVENT):
        work()
    ended.record()
    ended.synchronize()
    return started.elapsed_time(ended) / 1000 / RUNS_PER_EVENT
