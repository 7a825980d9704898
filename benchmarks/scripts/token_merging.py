"""Speed and labels of transformers that merge tokens, against the same transformers unmerged.

Run `python -m benchmarks.scripts.token_merging`. It has two parts; select one with `--only`:

speed: a model with random weights, which don't affect the speed, built by each precision with and
without merging. All are timed in turn on the same clips, and a ratio is the median over the repeats
of a merged model's speed divided by that of the unmerged one in the same precision.
labels: small presets trained by `engine train`, compiled with each share of merged tokens: whether
the build passes the parity check, and its accuracy. Then what `--merge-tokens auto` chooses.
"""

import argparse
import dataclasses
import json
import statistics
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import summary
from benchmarks.machine import command_line, fingerprint, result_file
from benchmarks.scripts.compiled import config_of
from benchmarks.scripts.training import RESULTS, draw, engine
from benchmarks.stages.backends import built, timed_in_turn
from engine.models import registry
from engine.models.merged_model import with_merged_tokens
from engine.predictor import as_uint8_input
from trt.backends import BACKENDS, choose
from trt.config import Precision
from trt.probe import this_device, this_gpu

SHARES = (0.5, 0.7, 0.8, 0.9)
PRECISIONS: tuple[Precision, ...] = ("bf16", "int8")
LABELLED = ("timesformer", "vivit", "vit-lstm", "hf")
NUM_CLASSES = 400
REFUSED = 3
"""Exit code of a build that doesn't pass."""
SEED = 5
"""Seed of the synthetic dataset; the presets were tuned on the one with seed 0."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", choices=("speed", "labels"))
    parser.add_argument("--model", default="timesformer", choices=registry.PRESETS)
    parser.add_argument("--preset", default="base", help="size of the model of the speed part")
    parser.add_argument("--frames", type=int, help="frames of a clip; default: the preset's")
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES)
    parser.add_argument("--precisions", nargs="+", default=PRECISIONS)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--batch", type=int, default=1, help="clips in a batch")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="shortest time of a repeat")
    parser.add_argument("--labelled", nargs="+", default=LABELLED, choices=LABELLED)
    parser.add_argument("--clips", type=int, default=1600, help="synthetic clips, in 8 classes")
    parser.add_argument("--keep", type=Path, help="folder for the runs and artifacts")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    facts = fingerprint()
    path = result_file(options.out, "token_merging", facts)
    result = json.loads(path.read_text()) if path.exists() else {"speed": {}, "labels": {}}
    result |= {"command": command_line("benchmarks.scripts.token_merging"), **facts}
    result["protocol"] = " ".join((__doc__ or "").split())
    with tempfile.TemporaryDirectory(prefix="engine-bench-") as temporary:
        folder = options.keep or Path(temporary) / "kept"
        folder.mkdir(parents=True, exist_ok=True)
        if options.only != "labels":
            name = f"{options.model} {options.preset}"
            result["speed"][name] = speed(options, Path(temporary))
            path.write_text(json.dumps(result, indent=2) + "\n")
        if options.only != "speed":
            root = folder / "set"
            if not root.exists():
                draw(root, options.clips, SEED)
            for family in options.labelled:
                result["labels"][family] = labels(family, root, folder, options.precisions)
                path.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {path}")


def speed(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Clips per second of each precision and share, measured in turn."""
    gpu = this_gpu()
    backend = choose(gpu)[0] if options.backend == "auto" else options.backend
    spec, clip = registry.ModelSpec.of_preset(options.model, options.preset, NUM_CLASSES)
    clip = dataclasses.replace(clip, num_frames=options.frames or clip.num_frames)
    torch.manual_seed(0)
    model = registry.build(spec, clip).eval()
    clips = torch.randint(0, 256, (options.batch, *clip.shape), dtype=torch.uint8)
    models: dict[str, Callable[[Tensor], Tensor]] = {}
    merged_in_words, skipped = {}, []
    for precision in options.precisions:
        runs, why = BACKENDS[backend].resolve_precision(precision, gpu)
        if runs != precision:
            skipped.append(f"{precision}: {why}")
            continue
        for share in (0.0, *options.shares):
            merging = model
            if share:
                merging, words = with_merged_tokens(model, share, family=options.model)
                merged_in_words[str(share)] = words
            name = f"{precision} {share}"
            print(f"building {name}", flush=True)
            whole = as_uint8_input(merging, clip)
            models[name] = built(whole, backend, precision, clips, folder / name.replace(" ", "-"))
    rows = timed(models, clips, options.repeats, options.seconds)
    return {
        "model": options.model, "preset": options.preset, "frames": clip.num_frames,
        "size": clip.crop, "batch": options.batch, "backend": backend, "device": this_device(),
        "threads": torch.get_num_threads(), "merging": merged_in_words, "skipped": skipped,
        "rows": rows,
    }  # fmt: skip


def timed(
    models: dict[str, Callable[[Tensor], Tensor]], clips: Tensor, repeats: int, min_s: float
) -> list[dict[str, Any]]:
    """A row for each model, with its speed relative to the unmerged one of its precision."""
    on_device = clips.cuda() if torch.cuda.is_available() else clips
    rates = timed_in_turn(models, on_device, repeats, min_s)
    rows = []
    for name, each in rates.items():
        precision, share = name.split()
        base = rates[f"{precision} 0.0"]
        ratios = [rate / unmerged for rate, unmerged in zip(each, base, strict=True)]
        rows.append(
            summary(name, each)
            | {"precision": precision, "merged": float(share)}
            | {"times_unmerged": round(statistics.median(ratios), 2)}
            | {"ratios": [round(ratio, 3) for ratio in ratios]}
        )
    return rows


def labels(family: str, root: Path, folder: Path, precisions: list[str]) -> dict[str, Any]:
    """Result of the parity check of a trained small preset, for each precision and share."""
    run = folder / f"{family}-small"
    if not run.exists():
        engine(
            "train", "--data", root, "--model", family, "--preset", "small", "--out", run,
            "--cache", folder / "frames",
        )  # fmt: skip
    rows: dict[str, Any] = {}
    for precision in precisions:
        for share in (*map(str, (0, *SHARES)), "auto"):
            rows[f"{precision} {share}"] = _checked(run, folder, precision, share)
    return rows


def _checked(run: Path, folder: Path, precision: str, share: str) -> dict[str, Any]:
    """The parity of one build; a share that doesn't pass is built again to record by how much."""
    artifact = folder / f"{run.name}-{precision}-{share}"
    command = [
        "compile", run, "--precision", precision, "--merge-tokens", share, "--out", artifact,
        "--clips", 320, "--cache", folder / "cache",
    ]  # fmt: skip
    refused = False
    if not artifact.exists():
        try:
            engine(*command)
        except subprocess.CalledProcessError as error:
            if error.returncode != REFUSED:
                raise
            engine(*command, "--accept-drift", 100)
            refused = True
    config = config_of(artifact)
    refused = refused or bool(config["parity"]["budget"]["accepted"])
    target = config["target"]
    return {
        **config["parity"], "refused": refused, "runs": target["precision"],
        "merged": target["merged_tokens"], "kept": target["fp32_layers"],
    }  # fmt: skip


if __name__ == "__main__":
    main()
