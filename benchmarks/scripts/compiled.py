"""Speed of compiled models against eager PyTorch, and agreement of their labels.

Run `python -m benchmarks.scripts.compiled`. It has two parts; select one with `--only`:

speed: models of published sizes, compiled by `engine compile` in each precision and timed by
`engine bench --stage model`. Their weights are random, which doesn't affect the speed, so the
parity check is disabled by `--accept-drift 100`.
agreement: small presets trained by `engine train` on a dataset that nothing was tuned on, compiled
in each precision with the default parity budget; a refused precision is recorded as such.
"""

import argparse
import dataclasses
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.machine import fingerprint, result_file
from benchmarks.scripts.training import RESULTS, draw, engine

MODELS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "cnn-lstm": ("cnn-lstm", 16, {}),
    "cnn-birnn": ("cnn-birnn", 16, {}),
    "vit-lstm": ("vit-lstm", 8, {"backbone": "vit_small_patch16_224"}),
    "timesformer": ("timesformer", 8, {}),
}
"""Family, frames, and what differs from the base preset."""
PRECISIONS = ("fp32", "bf16", "int8")
SEED = 2
NUM_PROOF_CLIPS = 8
"""Few, because parity of random weights is not evaluated."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--clips", type=int, default=1600, help="number of synthetic clips, in 8 classes"
    )
    parser.add_argument("--only", choices=("speed", "agreement"))
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--keep", type=Path, help="folder for the runs and artifacts")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    facts = fingerprint()
    path = result_file(options.out, "compiled", facts)
    result = json.loads(path.read_text()) if path.exists() else {"speed": {}, "agreement": {}}
    result |= {"command": "python -m benchmarks.scripts.compiled", **facts}
    result["protocol"] = " ".join((__doc__ or "").split())
    with tempfile.TemporaryDirectory(prefix="engine-bench-") as temporary:
        folder = options.keep or Path(temporary)
        root = folder / "set"
        if not root.exists():
            draw(root, options.clips, SEED)
        for part in [options.only] if options.only else ["speed", "agreement"]:
            measure = speed if part == "speed" else agreement
            for name in options.models:
                result[part][name] = measure(name, root, folder)
                path.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {path}")


def speed(name: str, root: Path, folder: Path) -> dict[str, Any]:
    run = folder / name
    if not run.exists():
        make_run(name, root, run)
    artifacts = []
    for precision in PRECISIONS:
        artifacts.append(folder / f"{name}-{precision}")
        if not artifacts[-1].exists():
            engine(
                "compile", run, "--backend", "openvino", "--precision", precision,
                "--out", artifacts[-1], "--clips", NUM_PROOF_CLIPS, "--accept-drift", 100,
                "--calibration-clips", NUM_PROOF_CLIPS, "--cache", folder / "cache",
            )  # fmt: skip
    engine("bench", run, *artifacts, "--stage", "model", "--out", folder / f"{name}-bench")
    (measured,) = (folder / f"{name}-bench").glob("model_*.json")
    figures = json.loads(measured.read_text())
    built = {path.name: config_of(path)["build"] for path in artifacts}
    keys = ("rows", "gflop_per_clip", "matrix_peak_gflops", "threads")
    return {"build": built, **{key: figures[key] for key in keys}}


def agreement(name: str, root: Path, folder: Path) -> dict[str, Any]:
    run = folder / f"{name}-small"
    if not run.exists():
        engine(
            "train", "--data", root, "--model", name, "--preset", "small", "--out", run,
            "--cache", folder / "frames",
        )  # fmt: skip
    rows: dict[str, Any] = {}
    for precision in PRECISIONS:
        artifact = folder / f"{name}-small-{precision}"
        try:
            engine(
                "compile", run, "--backend", "openvino", "--precision", precision,
                "--out", artifact, "--clips", 320, "--cache", folder / "cache",
            )  # fmt: skip
        except subprocess.CalledProcessError as error:
            rows[precision] = {"refused": error.returncode}
            continue
        config = config_of(artifact)
        rows[precision] = {**config["parity"], "kept": config["target"]["fp32_layers"]}
    return rows


def config_of(artifact: Path) -> dict[str, Any]:
    return json.loads((artifact / "config.json").read_text())


def make_run(name: str, root: Path, run: Path, *, num_frames: int | None = None) -> None:
    """Save a checkpoint with random weights.

    Batch statistics come from real clips, so that activations keep their scale.
    """
    import torch

    from dali_pipelines.loaders.dali_loader import DaliLoader
    from dali_pipelines.loaders.loader_config import LoaderConfig
    from engine.data import manifest
    from engine.data.samples import samples_of
    from engine.machine import describe_machine
    from engine.models import registry
    from engine.training import checkpoint

    family, frames, overrides = MODELS[name]
    listed = manifest.load(root)
    names = listed.class_names
    spec, clip = registry.ModelSpec.of_preset(family, "base", len(names), **overrides)
    clip = dataclasses.replace(clip, num_frames=num_frames or frames, sampling="equidistant")
    torch.manual_seed(0)
    model = registry.build(spec, clip).train()
    rows, _ = samples_of(listed, "train")
    with torch.no_grad():
        for clips, _, _ in DaliLoader(rows[:16], LoaderConfig(spec=clip, batch_size=4)):
            model(clips)
    run.mkdir(parents=True)
    config = checkpoint.CheckpointConfig(
        model=spec, clip=clip, class_names=names, step=0, metrics={},
        versions=describe_machine().libraries,
    )  # fmt: skip
    saved = checkpoint.save(run, config, model.state_dict(), {})
    checkpoint.mark_best(run, saved, "nothing: its weights are random", 0.0)
    dataclasses.replace(listed, root=run).save()
    facts = {"data": str(root.absolute()), "scheme": "grouped seed 0"}
    (run / "run.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main()
