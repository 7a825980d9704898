"""Evaluation: figures equal to scikit-learn's, protocols that say what was tested, the page."""

import csv
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rows import rows_of
from sklearn import metrics as sk

from dali_pipelines.spec import ClipSpec
from engine.commands import evaluate
from engine.data import manifest, splits
from engine.evaluation import filmstrips, report
from engine.evaluation.metrics import bootstrap_interval, measure, most_confused

TINY = ("--model", "vit-lstm", "--preset", "small", "--frames", "4", "--size", "32",
        "--batch-size", "4", "--epochs", "2")  # fmt: skip


@given(st.integers(0, 10_000), st.integers(2, 9), st.integers(1, 60))
def test_figures_are_those_of_scikit_learn(seed: int, num_classes: int, num_clips: int) -> None:
    rng = np.random.default_rng(seed)
    found = rng.dirichlet(np.ones(num_classes), num_clips)
    labels = rng.integers(num_classes, size=num_clips)
    figures = measure(found, labels, [str(number) for number in range(num_clips)])
    best, names = found.argmax(axis=1), list(range(num_classes))
    assert figures["top1"] == pytest.approx(sk.accuracy_score(labels, best))
    assert figures["confusion"] == sk.confusion_matrix(labels, best, labels=names).tolist()
    most = min(5, num_classes)
    top5 = np.mean(
        [label in each.argsort()[-most:] for label, each in zip(labels, found, strict=True)]
    )
    assert figures["top5"] == pytest.approx(top5)
    present = sorted(set(labels) | set(best))
    for average, among in (("macro", present), ("weighted", names)):
        theirs = sk.precision_recall_fscore_support(
            labels, best, labels=among, average=average, zero_division=0
        )[:3]
        ours = [figures[f"{name}_{average}"] for name in ("precision", "recall", "f1")]
        assert ours == pytest.approx(theirs, abs=1e-6)
    each = sk.precision_recall_fscore_support(labels, best, labels=names, zero_division=0)[:3]
    for name, theirs in zip(("precision", "recall", "f1"), each, strict=True):
        assert figures["per_class"][name] == pytest.approx(list(theirs), abs=1e-6)


def test_calibration_error_is_the_gap_between_sureness_and_truth() -> None:
    found = np.array([[0.8, 0.2]] * 10)
    labels = np.array([0] * 5 + [1] * 5)
    figures = measure(found, labels, list("abcdefghij"))
    assert figures["calibration_error"] == pytest.approx(0.3, abs=1e-6)


def test_the_interval_holds_the_accuracy_and_shrinks_with_more_clips() -> None:
    rng = np.random.default_rng(0)
    widths = []
    for count in (50, 5000):
        right = rng.random(count) < 0.8
        low, high = bootstrap_interval(right, [str(number) for number in range(count)])
        assert low < right.mean() < high
        widths.append(high - low)
    assert widths[1] < widths[0] / 5
    expected = 2 * 1.96 * (0.8 * 0.2 / 5000) ** 0.5
    assert widths[1] == pytest.approx(expected, rel=0.2)


def test_clips_of_one_source_count_as_one_draw() -> None:
    right = np.repeat([True, False, True, True], 25)
    apart = bootstrap_interval(right, [str(number) for number in range(100)])
    together = bootstrap_interval(right, [str(number // 25) for number in range(100)])
    assert together[1] - together[0] > 2 * (apart[1] - apart[0])


def test_the_most_confused_pairs_come_first() -> None:
    assert most_confused([[5, 2, 0], [0, 3, 4], [1, 0, 9]], 2) == [(1, 2, 4), (0, 1, 2)]


def test_filmstrips_show_the_sampled_frames(synth_master: Path, tmp_path: Path) -> None:
    row = rows_of(sorted(synth_master.rglob("*.avi"))[:1])[0]
    frames = filmstrips.frames_of(row, ClipSpec(num_frames=5, resize=64, crop=64))
    assert frames.shape == (5, 96, 128, 3)
    assert filmstrips.strip_as_jpeg(frames).startswith("data:image/jpeg;base64,")
    filmstrips.write_gif(tmp_path / "clip.gif", frames)
    with Image.open(tmp_path / "clip.gif") as picture:
        assert picture.n_frames == 5  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def trained(
    synth_master: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path, Path]:
    """A dataset under a grouped split, and two runs on it."""
    folder = tmp_path_factory.mktemp("evaluation")
    root = Path(shutil.copytree(synth_master, folder / "set"))
    splits.apply(manifest.load(root), splits.Grouped(seed=0))
    runs = [folder / "one", folder / "two"]
    for seed, run in enumerate(runs):
        subprocess.run(
            [sys.executable, "-m", "engine", "train", "--data", root, *TINY,
             "--seed", str(seed), "--out", run],
            check=True, capture_output=True,
        )  # fmt: skip
    return root, runs[0], runs[1]


@pytest.mark.slow
def test_a_report_says_what_was_measured(
    run_engine, trained: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    root, run, _ = trained
    result = run_engine("evaluate", run, "--views", "3x3", "--out", tmp_path)
    assert result.returncode == 0, result.stderr
    assert "9 clips of test (grouped seed 0), 0 failed; views 3 × 3" in result.stdout
    assert "chosen by top1 of the val split" in result.stdout
    (report,) = json.loads((tmp_path / "report.json").read_text())
    assert set(report["protocol"]) >= {"split", "scheme", "views", "checkpoint", "chosen_by"}
    assert report["video"]["num_clips"] == 9
    assert report["clip"]["num_clips"] == 81
    with (tmp_path / "one" / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    right = sum(row["label"] == row["predicted"] for row in rows)
    assert report["video"]["top1"] == pytest.approx(right / 9)
    listed = {str(root / clip.path) for clip in manifest.load(root).clips if clip.split == "test"}
    assert {row["path"] for row in rows} == listed
    with (tmp_path / "one" / "per_class.csv").open() as file:
        assert sum(int(row["clips"]) for row in csv.DictReader(file)) == 9
    page = (tmp_path / "report.html").read_text()
    assert not re.search(r'(src|href)="(?!data:)', page)  # it needs nothing else
    assert "grouped seed 0" in page
    strips = page.count("data:image/jpeg")
    assert strips == len(list((tmp_path / "one" / "confused").iterdir()))
    assert strips or right == 9


@pytest.mark.slow
def test_a_run_is_tested_on_what_it_held_back(
    run_engine, trained: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    """The dataset was dealt anew since: its new test part holds clips that the run learned from."""
    root = Path(shutil.copytree(trained[0], tmp_path / "set"))
    splits.apply(manifest.load(root), splits.Stratified(seed=3))
    for data in ((), ("--data", root)):
        result = run_engine("evaluate", trained[1], *data, "--out", tmp_path / "report")
        assert result.returncode == 0, result.stderr
        assert "(grouped seed 0)" in result.stdout


@pytest.mark.parametrize(
    ("runs", "names"),
    [
        (["a", "b"], ["a", "b"]),
        (["c/x", "a/run", "b/run"], ["x", "run-2", "run-3"]),
        (["a/run", "b/run", "run-1"], ["run-2", "run-3", "run-1"]),
        (["run-2", "a/run", "b/run"], ["run-2", "run-3", "run-4"]),
        (["a/run", "b/run", "c/run-2", "d/run-2"], ["run-1", "run-2", "run-2-3", "run-2-4"]),
        (["a/run", "a/run"], ["run-1", "run-2"]),
        (["a/Run", "b/run"], ["Run-1", "run-2"]),
        (["a/\u00e9", "b/e\u0301"], ["\u00e9-1", "e\u0301-2"]),
        (["a/b/..", "c"], ["a", "c"]),
    ],
)
def test_each_run_has_a_name_of_its_own(runs: list[str], names: list[str]) -> None:
    assert evaluate._names(list(map(Path, runs))) == names


def test_any_class_can_stand_in_the_chart(tmp_path: Path) -> None:
    names = ["costs $\\foo$", os.fsdecode(b"\xff")]
    run: Any = SimpleNamespace(class_names=names, levels={"video": {"confusion": [[1, 2], [0, 3]]}})
    assert report._draw_confusion(tmp_path / "chart.png", run).stat().st_size > 0


@pytest.mark.slow
def test_several_runs_stand_side_by_side(
    run_engine, trained: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    _, one, two = trained
    result = run_engine("evaluate", one, two, "--out", tmp_path)
    assert result.returncode == 0, result.stderr
    assert "±" in result.stdout
    assert len(json.loads((tmp_path / "report.json").read_text())) == 2
    refused = run_engine("evaluate", one, two, "--splits", "official", "--out", tmp_path)
    assert refused.returncode == 2
    assert "takes three runs, one trained under each fold" in refused.stderr


@pytest.mark.slow
def test_each_part_views_and_dataset_has_a_report_of_its_own(
    run_engine, trained: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    root, one, two = trained
    run = Path(shutil.copytree(one, tmp_path / "run"))
    other = Path(shutil.copytree(root, tmp_path / "other"))  # of the same names
    listed = manifest.load(other)
    changed = dataclasses.replace(listed.clips[0], frames=listed.clips[0].frames - 1)
    dataclasses.replace(listed, clips=(changed, *listed.clips[1:])).save()
    for flags in ((), ("--split", "val"), ("--views", "2x1"), ("--data", other)):
        result = run_engine("evaluate", run, *flags)
        assert result.returncode == 0, result.stderr
    own = json.loads((run / "evaluation" / "report.json").read_text())
    assert own[0]["protocol"]["split"] == "test"
    names = sorted(path.name for path in run.glob("evaluation*"))
    assert names[:1] == ["evaluation"]
    assert names[1].startswith("evaluation-test-1x1-other-")
    assert names[2:] == ["evaluation-test-2x1", "evaluation-val-1x1"]
    several = run_engine("evaluate", run, two)
    assert several.returncode == 2
    assert "several runs share one report: pass a folder for it with --out" in several.stderr


@pytest.mark.slow
def test_three_official_folds_are_one_figure(
    run_engine, synth_master: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(synth_master, tmp_path / "set"))
    runs = []
    for fold in (1, 2, 3):
        splits.apply(manifest.load(root), splits.Official(fold=fold, seed=0))
        runs.append(tmp_path / f"fold{fold}")
        trained = run_engine("train", "--data", root, *TINY, "--out", runs[-1])
        assert trained.returncode == 0, trained.stderr
    result = run_engine("evaluate", *runs, "--splits", "official", "--out", tmp_path / "report")
    assert result.returncode == 0, result.stderr
    reports = json.loads((tmp_path / "report" / "report.json").read_text())
    values = [each["video"]["top1"] for each in reports]
    assert f"{np.mean(values):.1%} ± {100 * np.std(values, ddof=1):.1f}" in result.stdout
    assert [each["protocol"]["scheme"][:15] for each in reports] == [
        "official fold 1", "official fold 2", "official fold 3",
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--views", "3"), "--views takes CLIPSxCROPS"),
        (("--split", "tset"), "did you mean 'test'? Choose from: train, val, test"),
        (("--device", "tpu"), "unknown device 'tpu'"),
    ],
)
def test_wrong_flags_are_told(
    arguments: tuple[str, ...], message: str, run_engine, trained: tuple[Path, Path, Path]
) -> None:
    result = run_engine("evaluate", trained[1], *arguments)
    assert result.returncode == 2
    assert message in result.stderr


@pytest.mark.slow
def test_other_classes_than_those_learnt_are_named(
    run_engine, trained: tuple[Path, Path, Path], synth_master: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(synth_master, tmp_path / "set"))
    (root / "videos" / "move_left").rename(root / "videos" / "dance")
    text = (root / "manifest.csv").read_text().replace("videos/move_left/", "videos/dance/")
    (root / "manifest.csv").write_text(text.replace(",move_left,", ",dance,"))
    result = run_engine("evaluate", trained[1], "--data", root)
    assert result.returncode == 2
    assert "it lacks move_left; it adds dance" in result.stderr
    folder = run_engine("evaluate", tmp_path)
    assert folder.returncode == 2
    assert "holds no checkpoint" in folder.stderr
