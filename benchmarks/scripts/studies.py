"""Ablations on synthetic clips: splits, sampling, short clips, optimizers, balance, distillation.

Run `python -m benchmarks.scripts.studies`. All runs use the command line, as users do: `engine
train`, `engine evaluate`, and `engine study` with the shipped files and the small presets. Results
are measured on the test split, with the checkpoint that has the best validation metric.

leak: a model that recognizes scenes, trained and tested with a split that ignores sources and with
one that groups them; each is tested on its own test split.
balance: three of eight classes keep a tenth of their training clips.
teacher: two in five training clips have a wrong label. A student is trained on them alone, and with
distillation from a teacher that was trained on correct labels. (With few but correct labels, a
teacher didn't help, because its predictions equal the labels.)
"""

import argparse
import csv
import dataclasses
import json
import random
import shutil
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.machine import fingerprint, result_file
from benchmarks.scripts.training import RESULTS, SEED, engine

PARTS = ("leak", "sampling", "lengthening", "optimizer", "balance", "teacher")
MODEL = ("--set", "model=vivit", "--set", "preset=small", "--set", "weights=none")
STILL = ("--option", "centered=false", "--frames", 1, "--epochs", 20, "--set", "brightness=0.0",
         "--set", "contrast=0.0", "--set", "saturation=0.0")  # fmt: skip
"""One frame shows no motion, so correct predictions come from the scene."""
RARE = ("bounce", "turn_clockwise", "wave")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--clips", type=int, default=800, help="number of synthetic clips, in 8 classes"
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--keep", type=Path, help="folder for the runs and reports")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    facts = fingerprint()
    path = result_file(options.out, "studies", facts)
    result = json.loads(path.read_text()) if path.exists() else {}
    result |= {"command": "python -m benchmarks.scripts.studies", **facts}
    result["num_clips"] = options.clips
    with tempfile.TemporaryDirectory(prefix="engine-bench-") as temporary:
        folder = options.keep or Path(temporary)
        root = folder / "set"
        if not root.exists():
            engine("data", "synth", root, "--clips-per-class", options.clips // 8, "--seed", SEED)
        for part in options.only:
            measure = {"leak": leak, "balance": balance, "teacher": teacher}.get(part)
            result[part] = measure(root, folder) if measure else study(part, root, folder)
            print(json.dumps({part: result[part]}), flush=True)
            path.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {path}")


def leak(root: Path, folder: Path) -> list[dict[str, Any]]:
    """Evaluate a run with each split in one report."""
    runs = []
    for scheme in ("stratified", "grouped"):
        split(root, scheme)
        runs.append(folder / "leak" / scheme)
        train(root, runs[-1], "cnn-lstm", *STILL)
    engine("evaluate", *runs, "--out", folder / "leak" / "report")
    reports = json.loads((folder / "leak" / "report" / "report.json").read_text())
    return [{"scheme": each["protocol"]["scheme"], **figures(each)} for each in reports]


def study(part: str, root: Path, folder: Path) -> list[dict[str, Any]]:
    out = folder / part
    settings = {"lengthening": ("--set", "stride=12"), "optimizer": ("--set", "lr=0.0035")}
    engine(
        "study", f"study-{part}", "--data", root, "--out", out, "--scheme", "grouped",
        "--cache", folder / "cache", *MODEL, *settings.get(part, ()),
    )  # fmt: skip
    with (out / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [
        {name: row[name] for name in ("varied", "top1", "low", "high", "published")} for row in rows
    ]


def balance(root: Path, folder: Path) -> list[dict[str, Any]]:
    imbalanced = folder / "imbalanced"
    shutil.copytree(root, imbalanced, dirs_exist_ok=True)
    split(imbalanced, "grouped")
    drop_training_clips(imbalanced, dict.fromkeys(RARE, 0.1))
    flags_of: dict[str, tuple[object, ...]] = {
        "plain": (),
        "class weights": ("--balance", "weights"),
        "sampling": ("--balance", "sampling"),
        "focal loss": ("--set", "loss=focal"),
        "focal loss and class weights": ("--set", "loss=focal", "--balance", "weights"),
    }
    rows = []
    for number, (name, flags) in enumerate(flags_of.items()):
        run = folder / "balance" / str(number)
        train(imbalanced, run, "vivit", "--metric", "f1", "--cache", folder / "cache", *flags)
        report = evaluate(run)
        recalls = dict(zip(report["classes"], report["video"]["per_class"]["recall"], strict=True))
        rare = [recalls[label] for label in RARE]
        rows.append({
            "way": name, **figures(report), "recall_of_rare": sum(rare) / len(rare),
            "recall": {label: round(value, 3) for label, value in recalls.items()},
        })  # fmt: skip
    return rows


def teacher(root: Path, folder: Path) -> list[dict[str, Any]]:
    split(root, "grouped")
    teacher_run = folder / "teacher" / "teacher"
    train(root, teacher_run, "timesformer", "--cache", folder / "cache")
    mislabelled = folder / "wrong"
    shutil.copytree(root, mislabelled, dirs_exist_ok=True)
    mislabel(mislabelled, share=0.4)
    flags_of: dict[str, tuple[object, ...]] = {
        "student alone": (),
        "student, taught": ("--teacher", teacher_run, "--set", "teacher_weight=0.9"),
    }
    rows = [{"way": "teacher", **figures(evaluate(teacher_run))}]
    for number, (name, flags) in enumerate(flags_of.items()):
        for seed in range(3):
            run = folder / "teacher" / f"{number}-{seed}"
            train(mislabelled, run, "cnn-lstm", "--seed", seed, "--cache", folder / "cache", *flags)
            rows.append({"way": name, "seed": seed, **figures(evaluate(run))})
    return rows


def split(root: Path, scheme: str) -> None:
    engine("data", "split", root, "--scheme", scheme)


def train(root: Path, run: Path, model: str, *flags: object) -> None:
    engine("train", "--data", root, "--model", model, "--preset", "small", "--out", run, *flags)


def evaluate(run: Path) -> dict[str, Any]:
    path = run / "evaluation" / "report.json"
    if not path.exists():
        engine("evaluate", run)
    (report,) = json.loads(path.read_text())
    return report


def figures(report: dict[str, Any]) -> dict[str, Any]:
    video = report["video"]
    return {name: video[name] for name in ("num_clips", "top1", "top1_interval", "f1_macro")}


def drop_training_clips(root: Path, kept: dict[str, float]) -> None:
    """Keep only the given share of the training clips of each class in `kept`."""
    from engine.data import manifest

    listed = manifest.load(root)
    rng = random.Random(0)
    shares = [kept.get(clip.label, 1.0) if clip.split == "train" else 1.0 for clip in listed.clips]
    listed.with_splits(
        clip.split if rng.random() < share else ""
        for clip, share in zip(listed.clips, shares, strict=True)
    ).save()


def mislabel(root: Path, *, share: float) -> None:
    """Give a random share of the training clips a wrong label; val and test are unchanged."""
    from engine.data import manifest

    listed = manifest.load(root)
    rng = random.Random(0)
    clips = []
    for clip in listed.clips:
        if clip.split == "train" and rng.random() < share:
            others = [name for name in listed.class_names if name != clip.label]
            clip = dataclasses.replace(clip, label=rng.choice(others))
        clips.append(clip)
    dataclasses.replace(listed, clips=tuple(clips)).save()


if __name__ == "__main__":
    main()
