"""Published sizes, compiled: how much faster than eager PyTorch, and whether they say the same.

Run `python -m benchmarks.suites.compiled`. No published weights can be had everywhere, so that
backbones are random; their batch statistics and their heads are learnt from synthetic clips, under
a stratified split, where the scene tells much. The models' answers have margins then, as trained
ones have. `engine compile` builds each precision and proves it on held-out clips; whatever the
outcome is, it is written down, so the budget is set wide here. Then `engine bench --stage model`
times all of them in turn.
"""

import argparse
import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.machine import file_name, fingerprint
from benchmarks.suites.training import RESULTS, engine

MODELS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "cnn-lstm": ("cnn-lstm", 16, {}),
    "cnn-birnn": ("cnn-birnn", 16, {}),
    "vit-lstm": ("vit-lstm", 8, {"backbone": "vit_small_patch16_224"}),
    "timesformer": ("timesformer", 8, {}),
}
"""Family, frames, and what differs from the base preset."""
PRECISIONS = ("fp32", "bf16", "int8")
SEED = 2
LEARNT_FROM = 320
"""Clips."""
BATCH_SIZE = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--clips", type=int, default=1600, help="clips to draw, in 8 classes")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--proof-clips", type=int, default=256)
    parser.add_argument("--calibration-clips", type=int, default=64)
    parser.add_argument("--keep", type=Path, help="folder for the runs and artifacts")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    facts = fingerprint()
    path = options.out / file_name("compiled", facts)
    result = json.loads(path.read_text()) if path.exists() else {"models": {}}
    result |= {"command": "python -m benchmarks.suites.compiled", **facts}
    result["protocol"] = " ".join((__doc__ or "").split())
    with tempfile.TemporaryDirectory(prefix="engine-bench-") as temporary:
        folder = options.keep or Path(temporary)
        root = folder / "set"
        if not root.exists():
            engine("data", "synth", root, "--clips-per-class", options.clips // 8, "--seed", SEED)
            engine("data", "split", root, "--scheme", "stratified")
        for name in options.models:
            run = folder / name
            if not run.exists():
                make_run(root, run, name)
            result["models"][name] = compare(run, folder, options)
            path.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {path}")


def compare(run: Path, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    artifacts = []
    for precision in PRECISIONS:
        artifacts.append(folder / f"{run.name}-{precision}")
        if not artifacts[-1].exists():
            engine(
                "compile", run, "--backend", "openvino", "--precision", precision,
                "--out", artifacts[-1], "--clips", options.proof_clips, "--accept-drift", 100,
                "--calibration-clips", options.calibration_clips, "--cache", folder / "cache",
            )  # fmt: skip
    engine("bench", run, *artifacts, "--stage", "model", "--out", folder / f"{run.name}-bench")
    (measured,) = (folder / f"{run.name}-bench").glob("model_*.json")
    figures = json.loads(measured.read_text())
    keys = (
        "num_clips", "agreement", "accuracy", "accuracy_interval", "reference_accuracy",
        "reference_accuracy_interval", "max_error",
    )  # fmt: skip
    parity = {}
    for artifact in artifacts:
        config = json.loads((artifact / "config.json").read_text())
        parity[artifact.name] = {key: config["parity"][key] for key in keys} | config["build"]
    kept = ("rows", "gflop_per_clip", "matrix_peak_gflops", "threads")
    return {"parity": parity, **{key: figures[key] for key in kept}}


def make_run(root: Path, run: Path, name: str) -> None:
    """A checkpoint whose backbone is random and whose head has learnt."""
    import torch

    from dali_pipelines.feed import Feed
    from dali_pipelines.loader import DaliLoader
    from engine.data import manifest
    from engine.data.clip_rows import clip_rows
    from engine.machine import describe_machine
    from engine.models import registry
    from engine.training import checkpoint

    family, frames, overrides = MODELS[name]
    listed = manifest.load(root)
    names = listed.class_names
    spec, clip = registry.ModelSpec.of_preset(family, "base", len(names), **overrides)
    clip = dataclasses.replace(clip, num_frames=frames, sampling="equidistant")
    torch.manual_seed(0)
    model = registry.build(spec, clip)
    rows, _ = clip_rows(listed, "train")
    feed = Feed(spec=clip, batch_size=BATCH_SIZE, shuffle=True)
    batches = list(DaliLoader(rows[:: max(1, len(rows) // LEARNT_FROM)], feed))
    settle_batch_statistics(model, [batch.clips for batch in batches[:4]])
    fit_head(model.eval(), batches)
    run.mkdir(parents=True)
    config = checkpoint.Config(
        model=spec, clip=clip, class_names=names, step=0, metrics={},
        versions=describe_machine().libraries,
    )  # fmt: skip
    saved = checkpoint.save(run, config, model.state_dict(), {})
    checkpoint.mark_best(run, saved, "nothing: its head alone learnt, and nothing was chosen", 0.0)
    dataclasses.replace(listed, root=run).save()
    facts = {"data": str(root.absolute()), "scheme": "stratified seed 0"}
    (run / "run.json").write_text(json.dumps(facts))


def settle_batch_statistics(model: Any, batches: list[Any]) -> None:
    import torch

    norms = [each for each in model.modules() if isinstance(each, torch.nn.BatchNorm2d)]
    for each in norms:
        each.momentum = None  # a plain mean over what it sees
        each.reset_running_stats()
    with torch.no_grad():
        for clips in batches if norms else []:
            model.train()(clips)
    for each in norms:
        each.momentum = 0.1


def fit_head(model: Any, batches: list[Any]) -> None:
    """Logistic regression on what goes into the head, written into the head."""
    import torch

    convolutional = any(isinstance(each, torch.nn.BatchNorm2d) for each in model.modules())
    taken: list[torch.Tensor] = []
    hook = model.head.register_forward_pre_hook(lambda _, inputs: taken.append(inputs[0].float()))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=not convolutional):
        for batch in batches:
            model(batch.clips)
    hook.remove()
    features, labels = torch.cat(taken), torch.cat([batch.labels for batch in batches])
    mean, std = features.mean(dim=0), features.std(dim=0) + 1e-6
    scaled = (features - mean) / std
    weight = torch.zeros(model.head.out_features, features.shape[1], requires_grad=True)
    bias = torch.zeros(model.head.out_features, requires_grad=True)
    solver = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        solver.zero_grad()
        found = torch.nn.functional.cross_entropy(scaled @ weight.T + bias, labels)
        found = found + 1e-3 * weight.square().sum()
        found.backward()
        return found

    solver.step(loss)
    with torch.no_grad():
        model.head.weight.copy_(weight / std)
        model.head.bias.copy_(bias - (weight / std) @ mean)


if __name__ == "__main__":
    main()
