"""Real people: `python -m benchmarks.scripts.people --clips UT-Interaction=FOLDER --weights FILE`.

Each set is a folder with `list.csv` (path, label, source), or has a folder for each class. Three
parts; select one with `--only`:

models: a set is divided into folds by source, and each model is trained and tested on all folds by
`engine train --folds` and `engine evaluate`: each clip is tested once, by a model that has seen no
clip of its source. The accuracy is pooled over all clips, and its interval is resampled by source.
Weights are those of EfficientNet-Lite0, trained on ImageNet, or random.
chart: clips per second from files to labels, by `engine bench`, against that accuracy: a few of the
models in fp32, and in int8 with the artifacts of all folds tested, beside plain PyTorch.
leak: one model on a stratified split, where most test clips share source and class with training
clips, and on a grouped one, with the same settings and several seeds.
"""

import argparse
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.budget import on_front
from benchmarks.machine import file_name, fingerprint
from benchmarks.report import draw_front
from benchmarks.rows import BenchRow
from benchmarks.scripts.training import RESULTS, engine

PARTS = ("models", "chart", "leak")
PAIRS, GESTURES, SILHOUETTES = "UT-Interaction", "EgoGestAR", "J-HMDB silhouettes"
FOLDS = {PAIRS: 10, GESTURES: 6}
SEEDS = (0, 1, 2)
NUM_CALIBRATION = 48
SECONDS = 3
WEIGHTS = "WEIGHTS"
"""Stands for the file of `--weights`."""


class Model(NamedTuple):
    name: str
    flags: tuple[object, ...]
    """Of `engine train`."""


def _lite0(words: str, frames: int, size: int, *flags: object, family: str = "cnn-lstm") -> Model:
    return Model(
        f"{family}, {words}, {frames} × {size}²",
        ("--model", family, "--option", "backbone=tf_efficientnet_lite0", "--weights", WEIGHTS,
         "--frames", frames, "--size", size, *flags),
    )  # fmt: skip


def _small(family: str, *flags: object, words: str = "") -> Model:
    return Model(
        f"{family} small, from random weights{words}",
        ("--model", family, "--preset", "small", *flags),
    )


PROBE_8, PROBE_16, PROBE_224 = (
    _lite0("recurrent probe", frames, size, "--probe", "recurrent", family="cnn-birnn")
    for frames, size in ((8, 112), (16, 160), (16, 224))
)
MODELS = {
    PAIRS: [
        PROBE_8, PROBE_16, PROBE_224,
        _lite0("recurrent probe", 32, 160, "--probe", "recurrent", family="cnn-birnn"),
        _lite0("recurrent probe", 8, 112, "--probe", "recurrent"),
        _lite0("recurrent probe", 16, 160, "--probe", "recurrent"),
        _lite0("attentive probe", 8, 112, "--probe", "attentive"),
        _lite0("attentive probe", 16, 160, "--probe", "attentive"),
        _lite0("attentive probe", 16, 224, "--probe", "attentive"),
        _lite0("linear probe", 16, 160, "--probe", "linear"),
        _lite0("fine-tuned", 8, 112, "--epochs", 12, "--lr", 3e-4),
    ],
    GESTURES: [
        _small("cnn-lstm", "--no-flip", "--epochs", 40),
        _small("cnn-lstm", "--no-flip", "--epochs", 40, "--frames", 1, "--option", "centered=false",
               words=", one frame"),
        _lite0("attentive probe", 16, 160, "--no-flip", "--probe", "attentive", "--option",
               "reduction=16"),
    ],
}  # fmt: skip
CHART = [(PROBE_16, ("1x1", "3x1")), (PROBE_8, ("1x1",)), (PROBE_224, ("1x1",))]
"""Models of the chart, and views per video."""
LEAK = ("--model", "cnn-lstm", "--preset", "small", "--epochs", 12)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--clips", action="append", required=True, metavar="NAME=FOLDER")
    parser.add_argument("--weights", type=Path, required=True, help="of EfficientNet-Lite0")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument(
        "--keep", type=Path, help="folder for sets and runs; finished ones are kept"
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    facts = fingerprint()
    path = options.out / file_name("people", facts)
    result = json.loads(path.read_text()) if path.exists() else {}
    names = sorted(text.partition("=")[0] for text in options.clips)
    result |= {
        "command": "python -m benchmarks.scripts.people "
        + " ".join(f"--clips '{name}=FOLDER'" for name in names)
        + f" --weights {options.weights.name}",
        **facts,
        "protocol": " ".join((__doc__ or "").split()),
    }
    with tempfile.TemporaryDirectory(prefix="engine-people-") as temporary:
        for text in options.clips:
            name, _, source = text.partition("=")
            folder = (options.keep or Path(temporary)) / name.replace(" ", "-")
            root = _copy(Path(source), folder / "set")
            parts = {"models": name in MODELS, "chart": name == PAIRS, "leak": name == SILHOUETTES}
            for part in options.only:
                if parts[part]:
                    measure = {"models": _models, "chart": _chart, "leak": _leak}[part]
                    rows = result.setdefault(part, {}).setdefault(name, [])
                    rows.clear()
                    for row in measure(name, root, folder, options.weights):
                        rows.append(row)
                        print(json.dumps(row), flush=True)
                        path.write_text(json.dumps(result, indent=2) + "\n")
    if chart := result.get("chart", {}).get(PAIRS):
        for row, front in zip(chart, on_front(chart), strict=True):
            row["on_front"] = front
        path.write_text(json.dumps(result, indent=2) + "\n")
        model = PROBE_16.name.rpartition(",")[0]
        title = f"{PAIRS}, {FOLDS[PAIRS]}-fold cross-validation; {model}"
        draw_front(path.with_suffix(".png"), chart, label=_label, title=title)
    print(f"written to {path}")


def _label(row: BenchRow) -> str:
    """What differs between the rows of the chart."""
    clip, how = row["name"].split(", ")[-2:]
    return f"{clip}, {how}" + (f", {row['views']} views" if row["views"] != "1x1" else "")


def _copy(source: Path, root: Path) -> Path:
    """A copy of a set, in which files can be written."""
    if not root.exists():
        shutil.copytree(source, root, copy_function=shutil.copyfile)
        for folder, _, _ in os.walk(root):
            Path(folder).chmod(0o755)
        listed = root / "list.csv"
        engine("data", "index", root, *(("--list", listed) if listed.exists() else ()))
    return root


def _models(name: str, root: Path, folder: Path, weights: Path) -> Iterator[dict[str, Any]]:
    for model in MODELS[name]:
        runs = _train(model, name, root, folder, weights)
        pooled = _evaluate(runs)
        yield {
            "name": model.name,
            "flags": " ".join(map(str, model.flags)),
            "top1": pooled["video"]["top1"],
            "interval": pooled["video"]["top1_interval"],
            "over_folds": pooled["over_folds"]["top1"],
            "num_clips": pooled["protocol"]["num_clips"],
        }


def _train(model: Model, name: str, root: Path, folder: Path, weights: Path) -> Path:
    """Train all folds, or what is missing of them."""
    engine("data", "split", root, "--scheme", "grouped", "--folds", FOLDS[name])
    runs = folder / model.name.replace(" ", "-").replace(",", "")
    flags = [weights if flag is WEIGHTS else flag for flag in model.flags]
    engine(
        "train", "--data", root, "--folds", "all", "--out", runs, "--cache", folder / "cache",
        *flags,
    )  # fmt: skip
    return runs


def _evaluate(runs: Path, views: str = "1x1") -> dict[str, Any]:
    out = runs / f"report-{views}"
    if not out.exists():
        engine("evaluate", runs, "--views", views, "--out", out)
    pooled: dict[str, Any] = json.loads((out / "report.json").read_text())[0]
    return pooled


def _chart(name: str, root: Path, folder: Path, weights: Path) -> Iterator[BenchRow]:
    for model, all_views in CHART:
        runs = _train(model, name, root, folder, weights)
        artifacts = [_compile(run) for run in sorted(runs.glob("fold-*")) if run.suffix != ".int8"]
        bench = runs / "bench"
        engine(
            "bench", runs / "fold-1", artifacts[0], "--against", "torch", "--views",
            ",".join(all_views), "--seconds", SECONDS, "--repeats", 3, "--out", bench,
        )  # fmt: skip
        (measured,) = bench.glob("end_to_end_*.json")
        for row in json.loads(measured.read_text())["rows"]:
            by_int8 = row.get("precision") == "int8"
            if "error" in row or (row["kind"] != "ours" and row["views"] != "1x1"):
                continue
            accuracy = (
                _pooled(artifacts, row["views"])
                if by_int8
                else _evaluate(runs, row["views"])["video"]
            )
            what = {"torch": "plain PyTorch"}.get(row["kind"], "int8" if by_int8 else "fp32")
            yield {
                "name": f"{model.name}, {what}", "kind": row["kind"], "batch": row["batch"],
                "views": row["views"], "clips_per_s": row["clips_per_s"],
                "repeats": row["repeats"], "spread": row["spread"],
                "top1": accuracy["top1"], "top1_interval": accuracy["top1_interval"],
            }  # fmt: skip


def _compile(run: Path) -> Path:
    """The int8 artifact of a fold; its accuracy is measured, so any drift is accepted."""
    artifact = run.with_suffix(".int8")
    if not artifact.exists():
        engine(
            "compile", run, "--precision", "int8", "--backend", "openvino", "--out", artifact,
            "--calibration-clips", NUM_CALIBRATION, "--accept-drift", 100,
        )  # fmt: skip
    return artifact


def _pooled(artifacts: list[Path], views: str) -> dict[str, Any]:
    """Accuracy of the folds' artifacts, each on the test clips of its fold."""
    import engine as api
    from engine.evaluation.pooling import pool

    tested = [api.evaluate(artifact, views=views) for artifact in artifacts]
    return pool(tested, scheme="folds", checkpoint="artifacts").pooled.scores


def _leak(name: str, root: Path, folder: Path, weights: Path) -> Iterator[dict[str, Any]]:
    for seed in SEEDS:
        for scheme in ("stratified", "grouped"):
            engine("data", "split", root, "--scheme", scheme, "--seed", seed)
            run = folder / f"leak-{seed}" / scheme
            if not (run / "evaluation").exists():
                engine(
                    "train", "--data", root, "--out", run, "--seed", seed, "--cache",
                    folder / "cache", *LEAK,
                )  # fmt: skip
                engine("evaluate", run)
            (report,) = json.loads((run / "evaluation" / "report.json").read_text())
            yield {
                "scheme": scheme, "seed": seed, "top1": report["video"]["top1"],
                "interval": report["video"]["top1_interval"],
                "num_clips": report["protocol"]["num_clips"],
            }  # fmt: skip


if __name__ == "__main__":
    main()
