"""Recipes and studies: every shipped file starts, and a study's table is what its runs reached."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from test_engine_train import trainer_of

from engine.data import manifest, splits
from engine.errors import UserError
from engine.experiments.experiment import FOLDER, Experiment, Trial
from engine.training import checkpoint
from engine.training.display import Display
from engine.training.recipe import Recipe

SHIPPED = sorted(path.stem for path in FOLDER.glob("*.toml"))
SMALL = ("--set", "preset=small", "--set", "weights=none", "--set", "num_frames=3",
         "--set", "resize=32", "--set", "crop=32", "--set", "epochs=1", "--set", "freeze_epochs=0",
         "--set", "batch_size=8")  # fmt: skip


def test_the_published_experiments_are_all_there() -> None:
    assert len([name for name in SHIPPED if name.startswith("study-")]) == 5
    assert {"vit-lstm", "timesformer-hmdb-simp", "vivit-hmdb-simp", "mobilenetv2-lstm",
            "mnasnet-birnn", "timesformer-base-hr"} <= set(SHIPPED)  # fmt: skip


@pytest.mark.parametrize("name", SHIPPED)
def test_every_recipe_loads_and_says_what_was_published(name: str) -> None:
    experiment = Experiment.load(name)
    trials = experiment.trials()
    assert len({trial.name for trial in trials}) == len(trials)
    for trial in trials:
        Recipe.resolve(trial.settings)
    told = [experiment.published_for(trial) for trial in trials]
    assert sum(map(bool, told)) >= len(experiment.published)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_every_recipe_starts(name: str, dataset: Path, tmp_path: Path) -> None:
    """One epoch of its first trial, with a small model from random weights."""
    settings = Experiment.load(name).trials()[0].settings
    changes = {"preset": "small", "weights": "none", "epochs": 1, "batch_size": 4, "flip": False,
               "num_frames": 4, "resize": 32, "crop": 32}  # fmt: skip
    with Display(shown=False) as display:
        trainer = trainer_of(dataset, tmp_path, display, **settings | changes)
        assert trainer.run()
    assert checkpoint.best_of(tmp_path) is not None


@pytest.mark.parametrize(
    ("name", "varied", "top1"),
    [
        ("study-optimiser", {"optimiser": "adam"}, 17.6),
        ("study-sampling", {"sampling": "equidistant"}, 92.8),
        ("study-lengthening", {"short": "lengthen-after"}, 85.83),
        ("study-model", {"model": "vivit"}, 88.8),
        ("study-pretraining", {"weights": "facebook/timesformer-base-finetuned-ssv2"}, 84.8),
        ("timesformer-hmdb-simp", {}, 93.6),
    ],
)
def test_published_figures_stand_beside_their_settings(
    name: str, varied: dict[str, Any], top1: float
) -> None:
    experiment = Experiment.load(name)
    (trial,) = [trial for trial in experiment.trials() if trial.varied == varied]
    assert experiment.published_for(trial)["top1"] == top1


def write(folder: Path, text: str) -> str:
    path = folder / "study.toml"
    path.write_text('title = "t"\nschemes = ["grouped"]\n' + text)
    return str(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("colour = 1\n", "unknown entry 'colour'"),
        ('[train]\nmodel = "cnn-lstm"\nlr = -1.0\n', "lr must be above 0"),
        ('[train]\nmodel = "cnn-lstm"\n[vary]\noptimiser = ["sgd", "adma"]\n', "did you mean"),
        ('[train]\nmodel = "cnn-lstm"\n[vary]\nlr = [1]\n[search]\nlr = [1]\n', "has both"),
    ],
)
def test_a_wrong_file_is_told_before_anything_runs(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        Experiment.load(write(tmp_path, text))


def test_a_wrong_name_lists_the_shipped_ones(run_engine) -> None:
    result = run_engine("reproduce", "timesformer-hmdb")
    assert result.returncode == 2
    assert "did you mean 'timesformer-hmdb-simp'?" in result.stderr
    without = run_engine("reproduce", "timesformer-hmdb-simp")
    assert without.returncode == 2
    assert "download hmdb51_org.rar and test_train_splits.rar" in without.stderr


def test_names_of_trials_are_names_of_folders() -> None:
    trial = Trial(scheme="grouped", varied={"weights": "a/b c", "lr": 0.001}, settings={})
    assert trial.name == "grouped_weights=b-c_lr=0.001"


@pytest.fixture(scope="module")
def dataset(synth_master: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = Path(shutil.copytree(synth_master, tmp_path_factory.mktemp("study") / "set"))
    splits.apply(manifest.load(root), splits.Grouped(seed=0))
    return root


def rows_of(out: Path) -> list[dict[str, str]]:
    with (out / "results.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_a_study_runs_every_combination_once(run_engine, dataset: Path, tmp_path: Path) -> None:
    arguments = ("study", "study-sampling", "--data", dataset, "--scheme", "grouped",
                 "--out", tmp_path / "out", *SMALL)  # fmt: skip
    result = run_engine(*arguments)
    assert result.returncode == 0, result.stderr
    rows = rows_of(tmp_path / "out")
    assert [row["varied"] for row in rows] == [
        "sampling uniform", "sampling equidistant", "sampling random",
    ]  # fmt: skip
    assert [row["published"] for row in rows] == ["top1 93.6", "top1 92.8", "top1 91.2"]
    for row in rows:
        folder = tmp_path / "out" / f"grouped_{row['varied'].replace(' ', '=')}"
        (report,) = json.loads((folder / "evaluation" / "report.json").read_text())
        assert float(row["top1"]) == pytest.approx(100 * report["video"]["top1"], abs=0.1)
        assert float(row["low"]) <= float(row["top1"]) <= float(row["high"])
    assert "published figures don't compare" in result.stdout
    assert (tmp_path / "out" / "results.png").stat().st_size > 0

    shutil.rmtree(tmp_path / "out" / "grouped_sampling=random")
    again = run_engine(*arguments)
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("clips to learn from") == 1  # the others were done
    assert rows_of(tmp_path / "out") == rows


@pytest.mark.slow
def test_a_trial_that_fails_is_a_row(run_engine, dataset: Path, tmp_path: Path) -> None:
    study = write(
        tmp_path,
        '[train]\nmodel = "cnn-lstm"\npreset = "small"\n[vary]\nweights = ["none", "./nowhere"]\n',
    )
    out = tmp_path / "out"
    result = run_engine("study", study, "--data", dataset, "--out", out, *SMALL[4:])
    assert result.returncode == 1
    good, bad = rows_of(out)
    assert good["top1"]
    assert "there are no weights './nowhere'" in bad["error"]
    assert "there are no weights" in result.stdout


@pytest.mark.slow
def test_a_search_goes_on_where_it_stopped(run_engine, dataset: Path, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    text = (
        '[train]\nmodel = "vit-lstm"\npreset = "small"\n'
        "[search]\ntrials = {trials}\nlr = {{ low = 1e-4, high = 1e-2, log = true }}\n"
        'optimiser = ["sgd", "adamw"]\n'
    )
    out = tmp_path / "out"
    for trials in (1, 2):
        study = write(tmp_path, text.format(trials=trials))
        result = run_engine("study", study, "--data", dataset, "--out", out, *SMALL[4:])
        assert result.returncode == 0, result.stderr
        assert result.stderr.count("clips to learn from") == 1
        assert len(rows_of(out)) == trials
    values = [float(row["val"]) for row in rows_of(out)]
    assert values == sorted(values, reverse=True)


@pytest.mark.slow
def test_a_published_experiment_prints_its_figures_beside_ours(
    run_engine, dataset: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = run_engine("reproduce", "mnasnet-birnn", "--data", dataset, "--out", out, *SMALL)
    assert result.returncode == 0, result.stderr
    stratified, grouped = rows_of(out)
    assert (stratified["scheme"], grouped["scheme"]) == ("stratified", "grouped")
    assert stratified["published"] == "top1 92.6"
    assert grouped["published"] == ""
    assert "92.6" in result.stdout
