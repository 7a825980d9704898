"""Training on the GPU: the time of a step, a whole run, and a run that is killed."""

import functools
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu_proof.step import ROOT, Context, Step, engine, failure

FAMILIES = ("vit-lstm", "cnn-lstm", "cnn-birnn", "timesformer", "vivit", "hf", "torchvision", "x3d")
PRECISIONS = ("fp32", "tf32", "bf16")
KILL_S = 300


def step_times(family: str, context: Context) -> list[dict[str, Any]]:
    """Clips per second of forward, backward and update, eager and compiled, and the memory."""
    import torch

    from benchmarks.harness import interleaved, repeated, summary
    from benchmarks.training_step import training_step
    from engine.models import registry

    preset, batch_size, repeats = ("small", 2, 1) if context.rehearse else ("base", 16, 5)
    spec, clip = registry.ModelSpec.of_preset(family, preset, 51)
    model = registry.build(spec, clip)
    clips = torch.randn(batch_size, *clip.shape)
    steps, memory = {}, {}
    for precision in PRECISIONS:
        ways = {"eager": model} if context.rehearse else {
            "eager": model, "compiled": torch.compile(model),
        }  # fmt: skip
        for way, called in ways.items():
            name = f"{way} {precision}"
            step = training_step(model, clips, called, precision)
            if not context.rehearse:
                torch.cuda.reset_peak_memory_stats()
            step()
            if not context.rehearse:
                memory[name] = torch.cuda.max_memory_allocated() >> 20
            steps[name] = repeated(step, context.min_s)
    interleaved(steps, repeats=1)
    return [
        {**summary(name, rates), "memory_mib": memory.get(name), "batch_size": batch_size}
        for name, rates in interleaved(steps, repeats=repeats).items()
    ]


def whole_run(context: Context) -> dict[str, Any]:
    """A run of `engine train --loader dali`, from files: its last epoch."""
    with tempfile.TemporaryDirectory() as folder:
        root = dataset(Path(folder) / "set", context)
        run = Path(folder) / "run"
        engine("train", "--data", root, "--out", run, *_settings(context), "--loader", "dali")
        rows = history(run)
    return {"epochs": len(rows), **rows[-1]}


def killed_run(context: Context) -> dict[str, Any]:
    """A run that gets SIGKILL after its first checkpoint, and is resumed: it has every epoch."""
    with tempfile.TemporaryDirectory() as folder:
        root = dataset(Path(folder) / "set", context)
        run = Path(folder) / "run"
        words = ["train", "--data", root, "--out", run, *_settings(context)]
        command = [sys.executable, "-m", "engine", *map(str, words)]
        with (Path(folder) / "output.txt").open("w+") as output:
            process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)
            ends_at = time.monotonic() + KILL_S
            while not history(run) and process.poll() is None and time.monotonic() < ends_at:
                time.sleep(0.05)
            process.send_signal(signal.SIGKILL)
            process.wait()
            before = history(run)
            if not before:
                output.seek(0)
                raise failure("engine train", output.read())
        engine("train", "--out", run, "--resume", "--data", root)
        rows = history(run)
    epochs = [row["epoch"] for row in rows]
    assert epochs == list(range(1, len(epochs) + 1)), epochs
    assert rows[: len(before)] == before, "epochs before the kill have changed"
    return {"epochs_before": len(before), "epochs": len(rows)}


def dataset(root: Path, context: Context) -> Path:
    """Synthetic clips, split by source."""
    classes, clips = (2, 6) if context.rehearse else (8, 50)
    engine("data", "synth", root, "--classes", classes, "--clips-per-class", clips)
    engine("data", "split", root, "--scheme", "grouped")
    return root


def history(run: Path) -> list[dict[str, float]]:
    from engine.training import history

    return history.read(run)


def _settings(context: Context) -> tuple[object, ...]:
    preset, epochs, batch_size = ("small", 2, 2) if context.rehearse else ("base", 4, 16)
    return (
        "--model", "cnn-lstm", "--preset", preset, "--weights", "none", "--epochs", epochs,
        "--batch-size", batch_size, "--device", context.device,
    )  # fmt: skip


STEPS: dict[str, Step] = {
    **{f"step of {family}": functools.partial(step_times, family) for family in FAMILIES},
    "whole run": whole_run,
    "killed run": killed_run,
}
