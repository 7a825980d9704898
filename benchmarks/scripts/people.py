"""Real people: `python -m benchmarks.scripts.people --clips UT-Interaction=FOLDER --weights FILE`.

Each set is a folder with `list.csv` (path, label, source), or has a folder for each class. Four
parts; select one with `--only`:

models: a set is divided into folds by source, and each model is trained and tested on all folds by
`engine train --folds` and `engine evaluate`: each clip is tested once, by a model that has seen no
clip of its source. The accuracy is pooled over all clips, and its interval is resampled by source.
Weights are those of EfficientNet-Lite0, trained on ImageNet, or random.
chart: clips per second from files to labels, by `engine bench`, against that accuracy: a few of the
models in fp32, and in int8 with the artifacts of all folds tested, beside plain PyTorch.
tune: the validation accuracy of the small models with several learning rates.
leak: one model on a stratified split, where most test clips share source and class with training
clips, and on a grouped one, with the same settings and several seeds.
On a machine with a GPU, `--jobs` trains several models at a time.
"""

import argparse
import csv
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from benchmarks.budget import on_front
from benchmarks.machine import fingerprint, result_file
from benchmarks.report import draw_front
from benchmarks.rows import BenchRow
from benchmarks.scripts.training import RESULTS, engine
from dali_pipelines.cores import num_cores

Task = TypeVar("Task")
Result = TypeVar("Result")

PARTS = ("models", "chart", "tune", "leak")
PAIRS, GESTURES, SILHOUETTES = "UT-Interaction", "EgoGestAR", "J-HMDB silhouettes"
FOLDS = {PAIRS: 10, GESTURES: 6}
SEEDS = (0, 1, 2)
SCHEMES = ("stratified", "grouped")
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
        _lite0("fine-tuned, half of the backbone frozen", 8, 112, "--epochs", 12, "--lr", 3e-4,
               "--freeze-share", 0.5),
        _lite0("fine-tuned, half of the backbone frozen", 16, 160, "--epochs", 10, "--lr", 3e-4,
               "--freeze-share", 0.5, family="cnn-birnn"),
        _small("cnn-lstm", "--epochs", 60),
        _small("torchvision", "--epochs", 60),
    ],
    GESTURES: [
        _lite0("recurrent probe", 16, 160, "--no-flip", "--probe", "recurrent",
               family="cnn-birnn"),
        _lite0("attentive probe over places", 16, 160, "--no-flip", "--probe", "attentive",
               "--option", "reduction=16"),
        _lite0("attentive probe over places", 1, 160, "--no-flip", "--probe", "attentive",
               "--option", "reduction=16", "--option", "centered=false"),
        _small("cnn-lstm", "--no-flip", "--epochs", 60),
        _small("timesformer", "--no-flip", "--epochs", 60),
        _small("cnn-lstm", "--no-flip", "--epochs", 60, "--frames", 1, "--option",
               "centered=false", words=", one frame"),
    ],
}  # fmt: skip
CHART = [(PROBE_16, ("1x1", "3x1")), (PROBE_8, ("1x1",)), (PROBE_224, ("1x1",))]
"""Models of the chart, and views per video."""
LEAK = ("--model", "cnn-lstm", "--preset", "small", "--epochs", 20)
TUNED = [
    ("cnn-lstm", (1e-3, 2e-3, 4e-3)), ("cnn-birnn", (1e-3, 2e-3)), ("vit-lstm", (5e-4, 2e-3)),
    ("timesformer", (5e-4, 1e-3, 2e-3)), ("vivit", (5e-4, 1e-3)), ("hf", (1e-3,)),
    ("torchvision", (1e-3, 2e-3)), ("x3d", (2e-3,)),
]  # fmt: skip
"""Families, and learning rates of their small presets."""
TUNING_EPOCHS = {SILHOUETTES: 30, GESTURES: 60}


class People(NamedTuple):
    """A set of clips."""

    name: str
    root: Path
    folder: Path
    """For runs."""
    weights: Path
    jobs: int
    match: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--clips", action="append", required=True, metavar="NAME=FOLDER")
    parser.add_argument("--weights", type=Path, required=True, help="of EfficientNet-Lite0")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    parser.add_argument("--match", default="", help="only models whose name contains this")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument(
        "--keep", type=Path, help="folder for sets and runs; finished ones are kept"
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    facts = fingerprint()
    gpu, cpu = facts["machine"]["gpu"], facts["machine"]["cpu"]
    path = result_file(options.out, "people", facts)
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
            people = People(
                name, _copy(Path(source), folder / "set"), folder, options.weights, options.jobs,
                options.match,
            )  # fmt: skip
            parts = {"models": name in MODELS, "chart": name == PAIRS,
                     "tune": name in TUNING_EPOCHS, "leak": name == SILHOUETTES}  # fmt: skip
            measure = {"models": _models, "chart": _chart, "tune": _tune, "leak": _leak}
            for part in options.only:
                if parts[part]:
                    rows = result.setdefault(part, {}).setdefault(name, [])
                    for measured in measure[part](people):
                        row = {**measured, "machine": gpu["name"] if gpu else cpu}
                        _replace(rows, row)
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


def _replace(rows: list[dict[str, Any]], new: dict[str, Any]) -> None:
    """Put a row in the place of the one that it measures again."""
    for place, row in enumerate(rows):
        if (row["name"], row.get("views")) == (new["name"], new.get("views")):
            rows[place] = new
            return
    rows.append(new)


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


def _models(people: People) -> Iterator[dict[str, Any]]:
    models = [model for model in MODELS[people.name] if people.match in model.name]
    for model, runs in zip(models, _train(models, people), strict=True):
        pooled = _evaluate(runs)
        yield {
            "name": model.name,
            "flags": " ".join(map(str, model.flags)),
            "top1": pooled["video"]["top1"],
            "interval": pooled["video"]["top1_interval"],
            "over_folds": pooled["over_folds"]["top1"],
            "num_clips": pooled["protocol"]["num_clips"],
        }


def _train(models: list[Model], people: People) -> list[Path]:
    """Train all folds of the models, or what is missing of them; returns the folders."""
    num_folds = FOLDS[people.name]
    engine("data", "split", people.root, "--scheme", "grouped", "--folds", num_folds)
    folders = [people.folder / model.name.replace(" ", "-").replace(",", "") for model in models]

    def train(task: tuple[tuple[Model, Path], object]) -> None:
        (model, runs), folds = task
        flags = [people.weights if flag is WEIGHTS else flag for flag in model.flags]
        engine(
            "train", "--data", people.root, "--folds", folds, "--out", runs,
            "--cache", people.folder / "cache", *flags,
        )  # fmt: skip

    folds = ["all"] if people.jobs == 1 else range(1, num_folds + 1)
    tasks = itertools.product(zip(models, folders, strict=True), folds)
    for _ in _each(train, tasks, people.jobs):
        pass
    return folders


def _each(function: Callable[[Task], Result], tasks: Iterable[Task], jobs: int) -> Iterator[Result]:
    """Run a function on all tasks, several at a time, each with its share of the cores."""
    if jobs == 1:
        yield from map(function, tasks)
        return
    cores = sorted(os.sched_getaffinity(0))
    share = max(1, num_cores() // jobs)
    first = itertools.count()

    def take_cores() -> None:
        start = next(first) * share
        os.sched_setaffinity(0, {cores[n % len(cores)] for n in range(start, start + share)})

    with ThreadPoolExecutor(jobs, initializer=take_cores) as pool:
        yield from pool.map(function, tasks)


def _evaluate(runs: Path, views: str = "1x1") -> dict[str, Any]:
    out = runs / f"report-{views}"
    if not out.exists():
        engine("evaluate", runs, "--views", views, "--out", out)
    pooled: dict[str, Any] = json.loads((out / "report.json").read_text())[0]
    return pooled


def _chart(people: People) -> Iterator[BenchRow]:
    for model, all_views in CHART:
        (runs,) = _train([model], people)
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


def _tune(people: People) -> Iterator[dict[str, Any]]:
    engine("data", "split", people.root, "--scheme", "grouped")

    def train(task: tuple[str, float]) -> dict[str, Any]:
        family, lr = task
        run = people.folder / f"tune-{family}-{lr:g}"
        if not run.exists():
            engine(
                "train", "--data", people.root, "--out", run, "--model", family, "--preset",
                "small", "--lr", lr, "--epochs", TUNING_EPOCHS[people.name], "--cache",
                people.folder / "cache", *(("--no-flip",) if people.name == GESTURES else ()),
            )  # fmt: skip
        with (run / "history.csv").open() as file:
            epochs = list(csv.DictReader(file))
        return {
            "name": f"{family} small, lr {lr:g}",
            "val_top1": max(float(epoch["val_top1"]) for epoch in epochs),
            "train_top1": float(epochs[-1]["train_top1"]),
        }

    tasks = [(name, lr) for name, rates in TUNED for lr in rates if people.match in name]
    yield from _each(train, tasks, people.jobs)


def _leak(people: People) -> Iterator[dict[str, Any]]:
    def test(task: tuple[int, str]) -> dict[str, Any]:
        seed, scheme = task
        folder = people.folder / f"leak-{seed}-{scheme}"
        root, run = _copy(people.root, folder / "set"), folder / "run"
        engine("data", "split", root, "--scheme", scheme, "--seed", seed)
        if not (run / "evaluation").exists():
            engine(
                "train", "--data", root, "--out", run, "--seed", seed, "--cache", folder / "cache",
                *LEAK,
            )  # fmt: skip
            engine("evaluate", run)
        (report,) = json.loads((run / "evaluation" / "report.json").read_text())
        return {
            "name": f"{scheme}, seed {seed}", "flags": " ".join(map(str, LEAK)),
            "scheme": scheme, "seed": seed,
            "top1": report["video"]["top1"], "interval": report["video"]["top1_interval"],
            "num_clips": report["protocol"]["num_clips"],
        }  # fmt: skip

    yield from _each(test, itertools.product(SEEDS, SCHEMES), people.jobs)


if __name__ == "__main__":
    main()
