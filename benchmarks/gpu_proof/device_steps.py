"""Training on several GPUs."""

import tempfile
from pathlib import Path
from typing import Any

from benchmarks.gpu_proof.step import Context, Skipped, Step, engine
from benchmarks.gpu_proof.train_steps import dataset, history


def all_devices(context: Context) -> dict[str, Any]:
    """The same run on one device and on all: the losses of each epoch, and the speeds."""
    import torch

    count = 2 if context.rehearse else torch.cuda.device_count()
    if count < 2:
        raise Skipped("there is one GPU")
    found: dict[str, Any] = {"devices": count}
    with tempfile.TemporaryDirectory() as folder:
        root = dataset(Path(folder) / "set", context)
        for devices in (1, count):
            run = Path(folder) / f"run{devices}"
            engine(
                "train", "--data", root, "--model", "cnn-lstm", "--preset", "small", "--out", run,
                "--epochs", 2, "--batch-size", 2 * count, "--devices", devices,
                "--device", context.device,
            )  # fmt: skip
            rows = history(run)
            found[f"on {devices}"] = {
                "train_loss": [row["train_loss"] for row in rows],
                "clips_per_s": rows[-1]["clips_per_s"],
            }
    return found


STEPS: dict[str, Step] = {"all devices": all_devices}
