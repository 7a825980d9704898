"""Speed of published model sizes from files to labels against baselines, and scaling.

Run `python -m benchmarks.scripts.deployed`. Models are prepared first (`--only prepare --keep
FOLDER` stops there). Then there are two parts; select one with `--only`:

table: each model is compiled in bf16 and int8 and compared with the baselines by `engine bench`, on
the same clips. No published weights are available here, so weights are random except for the last
layer, which is fitted to training clips. That doesn't affect speed, but accuracy and agreement of
such labels mean nothing.
scaling: clips per second and memory of one artifact with 1 and 2 cores, with 1, 3 and 10 views, and
with a subset and all of the clips; and of the same network with 8, 16 and 32 frames.
"""

import argparse
import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.machine import fingerprint, result_file
from benchmarks.pipeline import PipelineSpec, Setting
from benchmarks.scripts.compiled import make_run
from benchmarks.scripts.training import RESULTS, draw, engine
from benchmarks.worker import Worker

SEED = 3
NUM_FIT_CLIPS = {"cnn-lstm": 240, "vit-lstm": 160, "timesformer": 64}
"""Models of the table, and the number of clips that their last layer is fitted to."""
AGAINST = {"cnn-lstm": "torch,onnxruntime,torchcodec", "vit-lstm": "torch", "timesformer": "hf"}
NUM_TEST_CLIPS = {"cnn-lstm": 200, "vit-lstm": 200, "timesformer": 24}
BATCH = {"cnn-lstm": 8, "vit-lstm": 8, "timesformer": 4}
"""Smaller for the model that takes seconds per clip in fp32."""
REPEATS, SECONDS = 3, 5
NUM_PROOF_CLIPS = 32
PRECISIONS = ("bf16", "int8")
RIDGE = 1e-2
FRAMES = (8, 16, 32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--clips", type=int, default=2000, help="number of synthetic clips, in 8 classes"
    )
    parser.add_argument("--only", choices=("prepare", "table", "scaling"))
    parser.add_argument("--models", nargs="+", default=list(NUM_FIT_CLIPS), choices=NUM_FIT_CLIPS)
    parser.add_argument("--keep", type=Path, help="folder for the runs and artifacts")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    facts = fingerprint()
    path = result_file(options.out, "deployed", facts)
    result = json.loads(path.read_text()) if path.exists() else {"table": {}, "scaling": []}
    result |= {"command": "python -m benchmarks.scripts.deployed", **facts}
    result["protocol"] = " ".join((__doc__ or "").split())
    with tempfile.TemporaryDirectory(prefix="engine-bench-") as temporary:
        folder = options.keep or Path(temporary)
        root = folder / "set"
        if not root.exists():
            draw(root, options.clips, SEED)
        for name in options.models:
            prepare(name, root, folder)
        artifacts = prepare_frames(root, folder)
        if options.only == "prepare":
            return
        if options.only != "scaling":
            for name in options.models:
                result["table"][name] = table(name, folder, options.out)
                path.write_text(json.dumps(result, indent=2) + "\n")
        if options.only != "table":
            result["scaling"] = scaling(root, folder, artifacts)
            path.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {path}")


def prepare(name: str, root: Path, folder: Path) -> None:
    run = folder / name
    if not run.exists():
        make_run(name, root, run)
        fit_head(run, root, NUM_FIT_CLIPS[name])
    for precision in PRECISIONS:
        compile_once(run, folder / f"{name}-{precision}", precision)


def compile_once(run: Path, artifact: Path, precision: str) -> None:
    """Compile without a parity check: the benchmark measures the agreement."""
    if not artifact.exists():
        engine(
            "compile", run, "--backend", "openvino", "--precision", precision, "--out", artifact,
            "--clips", NUM_PROOF_CLIPS, "--calibration-clips", NUM_PROOF_CLIPS,
            "--accept-drift", 100, "--cache", artifact.parent / "cache",
        )  # fmt: skip


def prepare_frames(root: Path, folder: Path) -> dict[int, Path]:
    """Compile cnn-lstm with random weights for each number of frames."""
    artifacts = {}
    for frames in FRAMES:
        artifacts[frames] = folder / f"cnn-lstm-{frames}-frames"
        run = folder / f"cnn-lstm-{frames}-run"
        if not run.exists():
            make_run("cnn-lstm", root, run, num_frames=frames)
        compile_once(run, artifacts[frames], "int8")
    return artifacts


def table(name: str, folder: Path, out: Path) -> dict[str, Any]:
    artifacts = [folder / f"{name}-{precision}" for precision in PRECISIONS]
    bench = folder / f"{name}-bench"
    engine(
        "bench", folder / name, *artifacts, "--against", AGAINST[name], "--clips",
        NUM_TEST_CLIPS[name], "--repeats", REPEATS, "--seconds", SECONDS, "--batches", BATCH[name],
        "--out", bench,
    )  # fmt: skip
    (measured,) = bench.glob("end_to_end_*.json")
    for chart in bench.glob("*.png"):
        (out / f"{name}_{chart.name}").write_bytes(chart.read_bytes())
    result = json.loads(measured.read_text())
    del result["command"]  # contains a temporary folder
    return result


def fit_head(run: Path, root: Path, count: int) -> None:
    """Fit the last layer by ridge regression from features to classes."""
    import torch

    from dali_pipelines.loaders.dali_loader import DaliLoader
    from dali_pipelines.loaders.loader_config import LoaderConfig
    from engine.data import manifest
    from engine.data.samples import samples_of
    from engine.training import checkpoint

    saved = checkpoint.named_or_best(run)
    assert saved is not None
    model, config = checkpoint.load_model(saved)
    model.eval()
    features: list[Any] = []
    model.head.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    rows, _ = samples_of(manifest.load(root), "train")
    step = max(1, len(rows) // count)
    labels = []
    with torch.no_grad():
        for clips, batch_labels, _ in DaliLoader(
            rows[::step], LoaderConfig(spec=config.clip, batch_size=4)
        ):
            model(clips)
            labels.append(batch_labels)
        x = torch.cat(features).double()
        targets = torch.nn.functional.one_hot(torch.cat(labels), len(config.class_names)).double()
        mean, spread = x.mean(dim=0), x.std(dim=0).clamp_min(1e-6)
        z = (x - mean) / spread
        gram = z.T @ z / len(z) + RIDGE * torch.eye(z.shape[1], dtype=z.dtype)
        weight = torch.linalg.solve(gram, z.T @ (targets - targets.mean(dim=0)) / len(z)).T
        model.head.weight.copy_(10 * weight / spread)
        model.head.bias.copy_(10 * (targets.mean(dim=0) - (weight / spread) @ mean))
    fitted = checkpoint.save(run, dataclasses.replace(config, step=1), model.state_dict(), {})
    checkpoint.mark_best(run, fitted, "nothing: all but the last layer is random", 0.0)


def scaling(root: Path, folder: Path, of_frames: dict[int, Path]) -> list[dict[str, Any]]:
    """Measure cnn-lstm in int8; each row varies one of cores, views, clips and frames.

    Defaults: 16 frames, 2 cores, one view, 200 clips.
    """
    from engine.data import manifest
    from engine.data.samples import samples_of

    all_clips, _ = samples_of(manifest.load(root))
    subset = all_clips[:: max(1, len(all_clips) // 200)][:200]
    base = folder / "cnn-lstm-int8"
    rows = [
        _measured(base, subset, Setting(), varied="cores", value=cores, cores=cores)
        for cores in (1, 2)
    ]
    for views in (1, 3, 10):
        few = subset[: 200 // views]
        rows.append(_measured(base, few, Setting(num_clips=views), varied="views", value=views))
    for clips in (subset, all_clips):
        rows.append(_measured(base, clips, Setting(), varied="clips", value=len(clips)))
    for frames, artifact in of_frames.items():
        rows.append(_measured(artifact, subset, Setting(), varied="frames", value=frames))
    return rows


def _measured(
    path: Path,
    rows: list[Any],
    setting: Setting,
    *,
    varied: str,
    value: int,
    cores: int | None = None,
) -> dict[str, Any]:
    with Worker(PipelineSpec(name=varied, kind="ours", path=path), cores=cores) as worker:
        worker.ask("open", rows[0])
        worker.ask("label", rows[:16], setting)
        with worker.watched():
            answer = worker.ask("label", rows, setting)
        seconds = worker.ask("label", rows, setting)["seconds"]
    assert len(answer["probabilities"]) == len(rows)
    rates = [len(rows) / duration_s for duration_s in (answer["seconds"], seconds)]
    row = {
        "varied": varied,
        "value": value,
        "num_clips": len(rows),
        "clips_per_s": round(sum(rates) / 2, 1),
        "repeats": [round(rate, 1) for rate in rates],
        "peak_mib": round(worker.peak_mib),
    }
    print(json.dumps(row))
    return row


if __name__ == "__main__":
    main()
