"""Accuracy and speed of training, on synthetic clips with a grouped split.

Run `python -m benchmarks.scripts.training`. It has three parts; select one with `--only`:

families: the small preset of each family is trained by `engine train` from files. Its best
checkpoint is tested on the test split, and again with the frames of each clip in random order.
waiting: the share of training time spent waiting for data, for each loader, in the first and the
second epoch.
step: a training step of TimeSformer against the model of `transformers`, in turn.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.harness import interleaved, summary
from benchmarks.machine import fingerprint, result_file
from benchmarks.training_step import training_step
from engine.training import history

RESULTS = Path(__file__).parents[1] / "results"
FAMILIES = ("cnn-lstm", "cnn-birnn", "vit-lstm", "timesformer", "vivit")
SEED = 1
"""Seed of the synthetic dataset; the presets were tuned on the one with seed 0."""
PARTS = ("families", "waiting", "step")
STEP_MODELS = {
    "8 frames of 112, width 384, depth 6": {"size": 112, "dim": 384, "depth": 6, "heads": 6},
    "base: 8 frames of 224, width 768, depth 12": {
        "size": 224, "dim": 768, "depth": 12, "heads": 12,
    },
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--data", type=Path, help="a synthetic dataset; by default, a new one is made"
    )
    parser.add_argument(
        "--clips", type=int, default=1600, help="number of synthetic clips, in 8 classes"
    )
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--models", nargs="+", default=FAMILIES, choices=FAMILIES)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    facts = fingerprint()
    path = result_file(options.out, "training", facts)
    result = json.loads(path.read_text()) if path.exists() else {}
    result |= {"command": "python -m benchmarks.scripts.training", **facts}
    with tempfile.TemporaryDirectory(prefix="engine-bench-") as folder:
        root = options.data or draw(Path(folder) / "set", options.clips, SEED)
        result["num_clips"] = options.clips
        for part in [options.only] if options.only else PARTS:
            if part == "families":
                rows = {row["model"]: row for row in result.get("families", [])}
                for model in options.models:
                    rows[model] = family(root, model, Path(folder) / model)
                    print(json.dumps(rows[model]))
                result["families"] = [rows[model] for model in FAMILIES if model in rows]
            elif part == "waiting":
                result["waiting"] = waiting(root, Path(folder))
            else:
                result["step"] = step()
            path.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {path}")


def draw(root: Path, num_clips: int, seed: int) -> Path:
    engine("data", "synth", root, "--clips-per-class", num_clips // 8, "--seed", seed)
    engine("data", "split", root, "--scheme", "grouped")
    return root


def engine(*arguments: object) -> float:
    """Run a command and return its duration in seconds."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "engine", *map(str, arguments)], check=True)
    return time.perf_counter() - started


def train(root: Path, run: Path, *arguments: object) -> tuple[float, list[dict[str, float]]]:
    seconds = engine("train", "--data", root, "--preset", "small", "--out", run, *arguments)
    return seconds, history.read(run)


def family(root: Path, model: str, run: Path) -> dict[str, Any]:
    from engine.training import checkpoint

    seconds, rows = train(root, run, "--model", model, "--cache", run.parent / "cache")
    best = checkpoint.best_of(run)
    assert best is not None
    return {
        "model": model,
        "train_seconds": round(seconds, 1),
        "epochs": len(rows),
        "clips_per_s": round(rows[-1]["clips_per_s"], 1),
        "val_top1": max(row["val_top1"] for row in rows),
        "test_top1": test_top1(root, best, shuffled=False),
        "test_top1_shuffled": test_top1(root, best, shuffled=True),
        "split": "grouped seed 0; the checkpoint was chosen on val; one center view a clip",
    }


def test_top1(root: Path, path: Path, *, shuffled: bool) -> float:
    import torch

    from dali_pipelines.loaders.dali_loader import DaliLoader
    from dali_pipelines.loaders.loader_config import LoaderConfig
    from engine.data import manifest
    from engine.data.samples import samples_of
    from engine.training import checkpoint

    model, config = checkpoint.load_model(path)
    rows, _ = samples_of(manifest.load(root), "test")
    order = torch.Generator().manual_seed(0)
    num_correct = 0
    with torch.no_grad():
        for clips, labels, _ in DaliLoader(rows, LoaderConfig(spec=config.clip, batch_size=32)):
            if shuffled:
                frames = clips.shape[1]
                clips = torch.stack(
                    [clip[torch.randperm(frames, generator=order)] for clip in clips]
                )
            num_correct += int((model(clips).argmax(dim=1) == labels).sum())
    return num_correct / len(rows)


def waiting(root: Path, folder: Path) -> list[dict[str, Any]]:
    flags_of: dict[str, tuple[object, ...]] = {
        "torch": ("--loader", "torch"),
        "dali": ("--loader", "dali"),
        "dali, cache": ("--loader", "dali", "--cache", folder / "waiting-cache"),
    }
    rows: list[dict[str, Any]] = []
    for name, flags in flags_of.items():
        run = folder / f"waiting-{len(rows)}"
        _, history = train(root, run, "--model", "cnn-lstm", "--epochs", 2, *flags)
        rows.append(
            {
                "loader": name,
                "waiting_share": [round(row["waiting_share"], 3) for row in history],
                "clips_per_s": [round(row["clips_per_s"], 1) for row in history],
            }
        )
    return rows


def step(repeats: int = 5, batch_size: int = 2) -> list[dict[str, Any]]:
    import torch

    results = []
    for name, shape in STEP_MODELS.items():
        clips = torch.randn(batch_size, 8, 3, shape["size"], shape["size"])
        steps = {
            kind: training_step(model, clips, logits_of)
            for kind, (model, logits_of) in (
                ("ours", our_timesformer(**shape)),
                ("transformers", their_timesformer(**shape)),
            )
        }
        interleaved(steps, repeats=1)
        rates = interleaved(steps, repeats=repeats)
        rows = [summary(kind, kind_rates) for kind, kind_rates in rates.items()]
        ratios = [a / b for a, b in zip(rates["ours"], rates["transformers"], strict=True)]
        results.append(
            {
                "model": name,
                "batch_size": batch_size,
                "rows": rows,
                "times_transformers": round(statistics.median(ratios), 3),
                "of_each_repeat": [round(ratio, 3) for ratio in ratios],
            }
        )
    return results


def our_timesformer(*, size: int, dim: int, depth: int, heads: int) -> Any:
    from engine.models import timesformer

    options = timesformer.Options(dim=dim, depth=depth, heads=heads)
    model = timesformer.build(options, num_frames=8, size=size, num_classes=10).train()
    return model, model


def their_timesformer(*, size: int, dim: int, depth: int, heads: int) -> Any:
    from transformers import TimesformerConfig, TimesformerForVideoClassification

    config = TimesformerConfig(
        image_size=size,
        num_frames=8,
        hidden_size=dim,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        intermediate_size=4 * dim,
        num_labels=10,  # type: ignore[call-arg]
    )
    model = TimesformerForVideoClassification(config).train()
    return model, lambda clips: model(clips).logits


if __name__ == "__main__":
    main()
