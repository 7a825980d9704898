"""From files to labels on the GPU, beside what people use today."""

import csv
import json
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.gpu_proof.step import Context, Step, engine
from benchmarks.gpu_proof.train_steps import dataset

MAX_LABELLED = 48
"""Files to label on the CPU, too."""


def beside_others(context: Context) -> dict[str, Any]:
    """`engine bench` of a run and of its artifact, against plain PyTorch and transformers."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        root, run, fast = _models(folder, context)
        few: tuple[object, ...] = ()
        if context.rehearse:
            few = ("--clips", 4, "--repeats", 1, "--seconds", 0.1)
        engine(
            "bench", run, fast, "--data", root, "--against", "torch,torch-compile,hf", *few,
            "--batches", "2" if context.rehearse else "1,8,32", "--out", folder / "bench",
        )  # fmt: skip
        (path,) = (folder / "bench").glob("*.json")
        found: dict[str, Any] = json.loads(path.read_text())
    return found


def same_labels(context: Context) -> dict[str, Any]:
    """A folder labelled on the GPU and on the CPU: the share of equal labels."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        root, run, fast = _models(folder, context)
        models = {"cpu": (run, "cpu"), "gpu": (run, context.device), "artifact": (fast, "auto")}
        paths = sorted(path for path in (root / "videos").rglob("*") if path.is_file())
        listed = folder / "list.txt"
        listed.write_text("\n".join(map(str, paths[:: max(1, len(paths) // MAX_LABELLED)])))
        labels = {}
        for name, (model, device) in models.items():
            out = folder / f"{name}.csv"
            engine(
                "label", listed, "--list", "--model", model, "--out", out,
                "--device", device,
            )  # fmt: skip
            with out.open() as file:
                labels[name] = {row["path"]: row["label"] for row in csv.DictReader(file)}
    expected = labels.pop("cpu")
    return {
        "num_files": len(expected),
        **{
            f"share_equal_{name}": sum(found[path] == label for path, label in expected.items())
            / len(expected)
            for name, found in labels.items()
        },
    }


def _models(folder: Path, context: Context) -> tuple[Path, Path, Path]:
    """A dataset, a run that was trained on it, and its artifact."""
    root, run, fast = dataset(folder / "set", context), folder / "run", folder / "fast"
    preset, epochs = ("small", 1) if context.rehearse else ("base", 3)
    engine(
        "train", "--data", root, "--model", "timesformer", "--preset", preset, "--weights", "none",
        "--epochs", epochs, "--batch-size", 2 if context.rehearse else 16, "--out", run,
    )  # fmt: skip
    engine(
        "compile", run, "--precision", "fp32" if context.rehearse else "bf16", "--out", fast,
        "--backend", "eager" if context.rehearse else "auto", "--accept-drift", 100,
        "--cache", folder / "cache",
    )  # fmt: skip
    return root, run, fast


STEPS: dict[str, Step] = {"beside others": beside_others, "same labels": same_labels}
