"""Cross-validation as users meet it: one run a fold, killed, stopped and resumed, then pooled."""

import csv
import json
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from waiting import wait_for

import engine
from engine.data import folds, manifest, splits
from engine.errors import UserError
from engine.evaluation.metrics import bootstrap_interval
from engine.training import checkpoint, fold_runs
from engine.training.finished import read_finished

NUM_FOLDS = 3
TINY = ("--model", "vit-lstm", "--preset", "small", "--frames", "4", "--size", "32",
        "--batch-size", "4", "--epochs", "2", "--save-minutes", "0")  # fmt: skip


@pytest.fixture(scope="module")
def dataset(synth_master: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = Path(shutil.copytree(synth_master, tmp_path_factory.mktemp("folds") / "set"))
    folds.apply(manifest.load(root), "grouped", num_folds=NUM_FOLDS)
    return root


def command(dataset: Path, out: Path, *arguments: object) -> list[str]:
    words = ["train", "--data", dataset, "--folds", "all", *TINY, "--out", out, *arguments]
    return [sys.executable, "-m", "engine", *map(str, words)]


@pytest.fixture(scope="module")
def whole(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All folds, trained without a disturbance."""
    out = tmp_path_factory.mktemp("whole") / "folds"
    subprocess.run(command(dataset, out), check=True, capture_output=True)
    return out


def weights_of(out: Path) -> list[bytes]:
    found = []
    for number in range(1, NUM_FOLDS + 1):
        last = checkpoint.last_of(fold_runs.run_of(out, number))
        assert last is not None
        found.append((last / checkpoint.WEIGHTS).read_bytes())
    return found


@pytest.mark.slow
def test_each_fold_is_a_run_of_its_own_clips(dataset: Path, whole: Path, run_engine) -> None:
    divided = folds.load_folds(dataset)
    for number in divided.numbers(None):
        run = fold_runs.run_of(whole, number)
        assert manifest.load(run).clips == divided.fold(number).clips
        facts = json.loads((run / "run.json").read_text())
        assert (facts["fold"], facts["scheme"]) == (number, divided.describe(number))
    again = run_engine("train", "--data", dataset, "--folds", "2,1", *TINY, "--out", whole)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("is finished: ") == 2
    assert "epoch" not in again.stderr


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_folds_that_were_stopped_end_as_if_they_were_not(
    number: signal.Signals, dataset: Path, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "folds"
    process = subprocess.Popen(
        command(dataset, out), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    second = fold_runs.run_of(out, 2)
    wait_for(lambda: checkpoint.last_of(second) or process.poll() is not None)
    process.send_signal(number)
    _, errors = process.communicate()
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert "stopped; the same command continues" in errors
    else:
        assert process.returncode == -signal.SIGKILL
    assert read_finished(fold_runs.run_of(out, 1)) is not None
    assert read_finished(second) is None
    with pytest.raises(UserError, match="fold-2 isn't trained to its end: repeat the command"):
        engine.evaluate_folds(out)

    result = subprocess.run(command(dataset, out), check=True, capture_output=True, text=True)
    assert "fold 1 is finished" in result.stdout
    assert "resuming after step" in result.stderr
    assert weights_of(out) == weights_of(whole)


@pytest.mark.slow
def test_pooled_figures_are_those_of_the_folds_predictions(
    dataset: Path, whole: Path, tmp_path: Path, run_engine
) -> None:
    result = run_engine("evaluate", whole, "--out", tmp_path)
    assert result.returncode == 0, result.stderr
    pooled, *each = json.loads((tmp_path / "report.json").read_text())
    listed = manifest.load(dataset)
    source_of = {str(dataset / clip.path): clip.source for clip in listed.clips}
    right, sources, rates, pairs = [], [], [], Counter()
    for number in range(1, NUM_FOLDS + 1):
        with (tmp_path / f"fold-{number}" / "predictions.csv").open() as file:
            rows = list(csv.DictReader(file))
        tested = {clip.path for clip in folds.load_folds(dataset).fold(number).clips
                  if clip.split == "test"}  # fmt: skip
        assert {row["path"] for row in rows} == {str(dataset / path) for path in tested}
        hits = [row["label"] == row["predicted"] for row in rows]
        right += hits
        rates.append(sum(hits) / len(hits))
        sources += [source_of[row["path"]] for row in rows]
        pairs.update((row["label"], row["predicted"]) for row in rows)
    assert len(right) == len(listed.clips) == pooled["video"]["num_clips"]
    assert pooled["video"]["top1"] == pytest.approx(sum(right) / len(right))
    interval = bootstrap_interval(np.array(right), sources)
    assert pooled["video"]["top1_interval"] == pytest.approx(interval)
    over = pooled["over_folds"]["top1"]
    assert (over["mean"], over["std"]) == pytest.approx((np.mean(rates), np.std(rates, ddof=1)))
    names = pooled["classes"]
    assert pooled["video"]["confusion"] == [[pairs[a, b] for b in names] for a in names]
    assert [entry["video"]["top1"] for entry in each] == pytest.approx(rates)

    assert pooled["protocol"]["scheme"] == "grouped folds 3 seed 0"
    assert [entry["protocol"]["scheme"] for entry in each] == [
        f"grouped folds 3 fold {number} seed 0" for number in (1, 2, 3)
    ]
    words = f"{np.mean(rates):.1%} ± {100 * np.std(rates, ddof=1):.1f}"
    assert "30 clips of test (grouped folds 3 seed 0), 0 failed" in result.stdout
    assert words in result.stdout
    page = (tmp_path / "report.html").read_text()
    assert words in page
    assert page.count("confusion matrix") == 1


@pytest.mark.slow
def test_several_views_are_pooled_too(whole: Path) -> None:
    found = engine.evaluate_folds(whole, views="2x1")
    assert found.pooled.levels["clip"]["num_clips"] == 60
    assert found.pooled.protocol.views == "2 × 1"
    right = sum(fold.scores["top1"] * fold.scores["num_clips"] for fold in found.folds)
    assert found.pooled.scores["top1"] == pytest.approx(right / 30)


@pytest.mark.slow
def test_some_folds_are_called_some(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "folds")
    shutil.rmtree(tmp_path / "folds" / "fold-2")
    found = engine.evaluate_folds(tmp_path / "folds")
    assert found.pooled.protocol.scheme == "grouped folds 3 seed 0, fold-1 and fold-3 only"
    assert found.pooled.protocol.num_clips == sum(each.protocol.num_clips for each in found.folds)


@pytest.mark.slow
def test_another_dataset_or_clips_tested_twice_are_refused(
    dataset: Path, whole: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(dataset, tmp_path / "set"))
    listed = manifest.load(other)
    manifest.Manifest(root=other, clips=listed.clips[1:]).save()
    with pytest.raises(UserError, match=r"isn't the dataset of .*fold-1: leave out `data`"):
        engine.evaluate_folds(whole, data=other)
    shutil.copytree(whole, tmp_path / "folds")
    shutil.rmtree(tmp_path / "folds" / "fold-2")
    shutil.copytree(whole / "fold-1", tmp_path / "folds" / "fold-2")
    with pytest.raises(UserError, match="is tested in 2 folds"):
        engine.evaluate_folds(tmp_path / "folds")


@pytest.mark.slow
def test_other_settings_or_folds_than_begun_are_refused(
    dataset: Path, whole: Path, tmp_path: Path, run_engine
) -> None:
    flags = ("train", "--data", dataset, "--folds", "all", *TINY, "--out", whole)
    changed = run_engine(*flags, "--lr", 0.5, "--mixup", 0.3)
    assert changed.returncode == 2
    assert f"{whole} was begun with other values of lr, mixup (see " in changed.stderr
    other = Path(shutil.copytree(dataset, tmp_path / "set"))
    folds.apply(manifest.load(other), "grouped", num_folds=NUM_FOLDS, seed=5)
    with pytest.raises(UserError, match="was begun with other values of its folds"):
        fold_runs.begin(whole, folds.load_folds(other), _recipe_of(whole))
    moved = Path(shutil.copytree(dataset, tmp_path / "moved"))
    fold_runs.begin(whole, folds.load_folds(moved), _recipe_of(whole))


def _recipe_of(out: Path):
    from engine.training.recipe import Recipe

    return Recipe.resolve(json.loads((out / fold_runs.FACTS).read_text())["recipe"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--folds", "1-3"), "--folds takes all, or numbers such as 1,3, not '1-3'"),
        (("--folds", "4"), "has no fold 4: --folds takes 1 to 3"),
        (("--folds", "all", "--scheme", "grouped"), "leave out --resume, --scheme"),
        (("--folds", "all", "--resume"), "a resumed run keeps its settings"),
    ],
)
@pytest.mark.slow
def test_wrong_folds_are_told(
    arguments: tuple[str, ...], message: str, run_engine, dataset: Path, tmp_path: Path
) -> None:
    out = tmp_path / "folds"
    result = run_engine("train", "--data", dataset, *TINY, "--out", out, *arguments)
    assert result.returncode == 2
    assert message in result.stderr
    assert not out.exists()


@pytest.mark.slow
def test_what_holds_no_folds_is_told(synth: Path, tmp_path: Path, run_engine) -> None:
    splits.apply(manifest.load(synth), splits.Grouped())
    flags = ("train", "--data", synth, "--folds", "all", *TINY, "--out")
    undivided = run_engine(*flags, tmp_path / "folds")
    assert undivided.returncode == 2
    assert f"{synth} isn't divided into folds; run `engine data split`" in undivided.stderr
    folds.apply(manifest.load(synth), "grouped", num_folds=NUM_FOLDS)
    taken = run_engine(*flags, synth)
    assert taken.returncode == 2
    assert f"{synth} is the folder of a run or a dataset: name another --out" in taken.stderr
    (tmp_path / "folds" / "fold-7").mkdir(parents=True)
    strays = run_engine(*flags, tmp_path / "folds")
    assert strays.returncode == 2
    assert "has no folds.json for fold-7: name another --out" in strays.stderr


@pytest.mark.slow
@pytest.mark.parametrize("text", ["", "[]", "{}", '{"recipe": {}, "folds": {"digests": []}}'])
def test_damaged_facts_are_named(text: str, tmp_path: Path, run_engine) -> None:
    (tmp_path / fold_runs.FACTS).write_text(text)
    result = run_engine("evaluate", tmp_path)
    assert result.returncode == 2
    assert "folds.json is damaged" in result.stderr
    alone = run_engine("evaluate", tmp_path, "--split", "val")
    assert "a folder of folds is tested alone" in alone.stderr


@pytest.mark.slow
def test_the_api_trains_folds_and_stops(dataset: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    runs = engine.train_folds(
        dataset, tmp_path / "folds", folds=[2, 3], model="vit-lstm", preset="small", size=32,
        num_frames=4, epochs=1, log=lines.append, on_ready=lambda trainer: trainer.stop(),
    )  # fmt: skip
    assert [(run.path.name, run.finished) for run in runs] == [("fold-2", False)]
    assert any("training clips" in line for line in lines)
