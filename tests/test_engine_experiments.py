"""Recipes and studies: every shipped file starts, and a study's table is what its runs reached."""

import csv
import dataclasses
import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from trainers import trainer_of

from dali_pipelines.decode.clip_facts import ClipHealth
from engine import atomic
from engine.data import folds, manifest, splits, validate
from engine.data.file_digest import file_digest
from engine.errors import UserError
from engine.experiments import outcome, search
from engine.experiments import trial as trials
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
    found = experiment.trials()
    assert len({trial.name for trial in found}) == len(found)
    for trial in found:
        Recipe.resolve(trial.settings)
    told = [experiment.published_for(trial) for trial in found]
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
        ("study-optimizer", {"optimizer": "adam"}, 17.6),
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
        ("color = 1\n", "unknown entry 'color'"),
        ('[train]\nmodel = "cnn-lstm"\nlr = -1.0\n', "lr must be a number above 0"),
        ('[train]\nmodel = "cnn-lstm"\n[vary]\noptimizer = ["sgd", "adma"]\n', "did you mean"),
        ('[train]\nmodel = "cnn-lstm"\n[vary]\nlr = [1]\n[search]\nlr = [1]\n', "has both"),
        (
            '[train]\nmodel = "cnn-lstm"\n[vary]\nlr = 1\n',
            "vary must be a table, each value a list",
        ),
        ('[train]\nmodel = "cnn-lstm"\n[vary]\nlr = []\n', "lr is an empty list"),
        ("views = 3\n", "views must be a string, not 3"),
        ("search = 5\n", "search must be a table"),
        ("published = [1]\n", "study.toml: published must be a list, each value a table"),
        ("[[published]]\nwhen = 'x'\n", "study.toml: .*number 1: when must be a table of settings"),
        ("[[published]]\nwhen = { sampilng = 'random' }\n", "when: .*did you mean 'sampling'"),
        ("[[published]]\ntop_1 = 5\n", "study.toml: .*number 1: .*did you mean 'top1'"),
        *(
            (f"[[published]]\n[[published]]\ntop1 = {value}\n", "number 2: top1 must be a number")
            for value in ("'x'", "true", "{ a = 1 }", "['a', 'b']", "[1, 2, 3]", "[]", "nan")
        ),
    ],
)
def test_a_wrong_file_is_told_before_anything_runs(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        Experiment.load(write(tmp_path, text))


RANGES = ("0.001", "[]", "{ low = 1 }", "{ low = 0, high = 1, log = true }",
          '{ low = "a", high = 2 }', "{ low = 2, high = 1 }")  # fmt: skip


@pytest.mark.parametrize("given_", RANGES)
def test_a_wrong_range_is_told_with_an_example(given_: str, tmp_path: Path) -> None:
    text = f'[train]\nmodel = "cnn-lstm"\n[search]\nlr = {given_}\n'
    with pytest.raises(UserError, match=r"lr must be a list of values, or a range as in \{ low"):
        search.check(Experiment.load(write(tmp_path, text)))


@pytest.mark.slow
def test_a_wrong_name_lists_the_shipped_ones(run_engine) -> None:
    result = run_engine("reproduce", "timesformer-hmdb")
    assert result.returncode == 2
    assert "did you mean 'timesformer-hmdb-simp'?" in result.stderr
    without = run_engine("reproduce", "timesformer-hmdb-simp")
    assert without.returncode == 2
    assert "download hmdb51_org.rar and test_train_splits.rar" in without.stderr


def test_names_of_trials_are_names_of_folders() -> None:
    trial = Trial(scheme="grouped", varied={"optimizer": "sgd", "lr": 0.001}, settings={})
    assert trial.name == "grouped_optimizer=sgd_lr=0.001"


def test_trials_with_other_values_have_other_folders() -> None:
    values = ["one/base", "two/base", "base", "base ", "b" * 300, "b" * 301, "ö" * 300]
    names = {Trial(scheme="grouped", varied={"weights": each}, settings={}).name for each in values}
    assert len(names) == len(values)
    assert all(re.fullmatch(r"[\w=.,-]+", name) and len(name.encode()) < 256 for name in names)
    assert any(name.startswith("grouped_weights=base_") for name in names)


def test_settings_that_are_given_win_over_what_is_searched() -> None:
    ranges = {"trials": 3, "lr": {"low": 1e-4, "high": 1e-3}, "batch_size": [4, 8]}
    experiment = Experiment(title="", schemes=["grouped"], search=ranges)
    left = experiment.with_settings({"lr": 0.5})
    assert left.search.keys() == {"trials", "batch_size"}
    assert left.train == {"lr": 0.5}
    assert not left.with_settings({"batch_size": 4}).search


def test_tables_that_are_varied_are_merged_with_those_of_all_trials(tmp_path: Path) -> None:
    text = (
        '[train]\nmodel = "vit-lstm"\noptions = { reduction = 8, recurrence = { hidden = 8 } }\n'
        "[vary]\noptions = [{ recurrence = { layers = 1 } }, { recurrence = { layers = 2 } }]\n"
    )
    experiment = Experiment.load(write(tmp_path, text))
    assert [trial.settings["options"] for trial in experiment.trials()] == [
        {"reduction": 8, "recurrence": {"hidden": 8, "layers": layers}} for layers in (1, 2)
    ]  # fmt: skip
    assert len({trial.name for trial in experiment.trials()}) == 2

    changed = experiment.with_settings({"options": {"reduction": 16, "recurrence": {"hidden": 4}}})
    assert [trial.settings["options"] for trial in changed.trials()] == [
        {"reduction": 16, "recurrence": {"hidden": 4, "layers": layers}} for layers in (1, 2)
    ]  # fmt: skip
    (one,) = experiment.with_settings({"options": {"recurrence": {"layers": 3}}}).trials()
    assert one.settings["options"]["recurrence"] == {"hidden": 8, "layers": 3}


@pytest.mark.parametrize(
    ("ending", "command", "error"),
    [
        ("kill -9 $$", "train", "engine train was killed by signal 9"),
        ("exit 1", "evaluate", "clips of the test split can't be read"),
        ("exit 1", "train", ""),
        ("echo 'engine: no data.' >&2; exit 2", "train", "no data."),
    ],
)
def test_what_a_command_ends_with_is_what_the_trial_says(
    ending: str, command: str, error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "python"
    script.write_text(f"#!/bin/sh\n{ending}\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    found = trials._engine(command)
    assert found.startswith(error)
    assert bool(found) == bool(error)


def test_a_command_ends_with_the_study_that_started_it(tmp_path: Path) -> None:
    script = tmp_path / "python"
    script.write_text(
        "#!/bin/sh\ntrap 'echo saved > \"$0.told\"; exit 0' TERM\necho $$ >&2\n"
        "while true; do sleep 0.1; done\n"
    )
    script.chmod(0o755)
    code = (
        "import sys; from engine.experiments import trial; "
        "sys.executable = sys.argv[1]; trial._engine('train')"
    )
    study = subprocess.Popen([sys.executable, "-c", code, str(script)], stderr=subprocess.PIPE)
    assert study.stderr is not None
    command = Path("/proc", study.stderr.readline().decode().strip())
    assert command.is_dir()
    study.kill()
    study.communicate()
    told = tmp_path / "python.told"
    end = time.monotonic() + 900
    while not (told.exists() and told.read_text()) and time.monotonic() < end:
        time.sleep(0.05)
    assert told.read_text() == "saved\n"


def begin(trial: Trial, root: Path, out: Path, *, views: str = "1x1") -> Path:
    return trials.begin(trial, root, out, views=views, files=file_digest(manifest.load(root)))


def test_another_trial_in_its_folder_is_told(dataset: Path, tmp_path: Path) -> None:
    settings = {"model": "cnn-lstm", "preset": "small"}
    trial = Trial(scheme="grouped", varied={}, settings=settings)
    folder = begin(trial, dataset, tmp_path)
    assert folder == begin(trial, dataset, tmp_path)
    changed = dataclasses.replace(trial, settings={**settings, "lr": 0.5, "epochs": 99})
    root = Path(shutil.copytree(dataset, tmp_path / "other"))
    kept = manifest.load(root)
    dataclasses.replace(kept, clips=kept.clips[1:]).save()
    for other, data, views, names in (
        (changed, dataset, "1x1", "epochs, lr"), (trial, dataset, "3x1", "views"),
        (trial, root, "1x1", r"clips \(.*\), files"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=f"differs from this one in {names}.*: name another"):
            begin(other, data, tmp_path, views=views)


def test_other_files_under_the_same_names_are_another_trial(dataset: Path, tmp_path: Path) -> None:
    trial = Trial(scheme="grouped", varied={}, settings={"model": "cnn-lstm", "preset": "small"})
    root = Path(shutil.copytree(dataset, tmp_path / "set"))
    out = tmp_path / "out"
    begin(trial, root, out)
    root = root.rename(tmp_path / "moved")
    begin(trial, root, out)
    begin(trial, Path(shutil.copytree(root, tmp_path / "copied")), out)  # as cp -a does
    clip = root / manifest.load(root).clips[0].path
    kept = clip.stat()
    clip.write_bytes(clip.read_bytes())  # so that a plain copy has the same bytes, but later
    with pytest.raises(UserError, match=r"in files \(sizes or times .* a plain copy is another"):
        begin(trial, root, out)
    os.utime(clip, ns=(kept.st_atime_ns, kept.st_mtime_ns))
    begin(trial, root, out)
    clip.unlink()
    with pytest.raises(UserError, match="differs from this one in files"):
        begin(trial, root, out)


def test_a_trial_is_tested_where_its_dataset_lies_now(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run's folder names the place that it was trained from."""
    called: list[list[str]] = []

    def engine(*arguments: object) -> str:
        called.append(list(map(str, arguments)))
        return "no report" if arguments[0] == "evaluate" else ""

    monkeypatch.setattr(trials, "_engine", engine)
    trial = Trial(scheme="grouped", varied={}, settings={"model": "cnn-lstm"})
    trials.run(trial, dataset, tmp_path, views="1x1", files="")
    assert [each[0] for each in called] == ["train", "evaluate"]
    assert all(str(dataset) == each[each.index("--data") + 1] for each in called)


def test_clips_that_were_found_bad_since_make_another_trial(dataset: Path, tmp_path: Path) -> None:
    trial = Trial(scheme="grouped", varied={}, settings={"model": "cnn-lstm"})
    root = Path(shutil.copytree(dataset, tmp_path / "set"))
    begin(trial, root, tmp_path)
    bad = validate.Checked(
        clip=manifest.load(root).clips[0],
        health=ClipHealth(status="bad", reason="damaged", facts=None),
    )
    atomic.write_csv(root / validate.FILE_NAME, validate.COLUMNS, [validate._row(bad)])
    with pytest.raises(UserError, match=r"in clips \(their rows and splits; `engine data"):
        begin(trial, root, tmp_path)


def test_other_weights_under_the_same_name_are_another_trial(dataset: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights.pt"
    weights.write_bytes(b"old")
    taught_by = tmp_path / "run" / "checkpoints" / "000001"
    taught_by.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (taught_by / name).write_text("{}")
    settings = {"model": "cnn-lstm", "weights": str(weights), "teacher": str(taught_by)}
    trial = Trial(scheme="grouped", varied={}, settings=settings)
    begin(trial, dataset, tmp_path)
    begin(trial, dataset, tmp_path)
    weights.write_bytes(b"other")
    (taught_by / "model.safetensors").write_text("other")
    with pytest.raises(UserError, match="in files of its teacher, files of its weights: name"):
        begin(trial, dataset, tmp_path)


def test_a_damaged_result_is_told(dataset: Path, tmp_path: Path) -> None:
    trial = Trial(scheme="grouped", varied={}, settings={"model": "cnn-lstm"})
    folder = begin(trial, dataset, tmp_path)
    files = file_digest(manifest.load(dataset))
    for text in ("", "[1]", "{}", '{"figures": {}, "val": "x"}'):
        (folder / trials.RESULT).write_text(text)
        with pytest.raises(UserError, match=f"result.json is damaged .*: remove {folder}"):
            trials.run(trial, dataset, tmp_path, views="1x1", files=files)


@pytest.mark.slow
def test_a_setting_that_is_not_utf8_ends_in_a_sentence(
    dataset: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = {"model": "cnn-lstm", "preset": "small", "weights": os.fsdecode(b"\xff")}
    trial = Trial(scheme="grouped", varied={}, settings=settings)
    files = file_digest(manifest.load(dataset))
    result = trials.run(trial, dataset, tmp_path, views="1x1", files=files)
    assert "trial.toml is not a recipe in TOML" in result.error
    assert "Traceback" not in capfd.readouterr().err


def test_a_folders_frames_are_told_from_others(tmp_path: Path) -> None:
    folder = tmp_path / "class" / "clip"
    folder.mkdir(parents=True)
    for number in (1, 2):
        (folder / f"frame_{number}.jpg").write_bytes(b"a frame")
    clips = manifest.Manifest(
        root=tmp_path, clips=(manifest.Clip(path="class/clip", label="class", source="clip"),)
    )
    before = file_digest(clips)
    (folder / ".notes").write_text("no frame")
    assert file_digest(clips) == before
    (folder / "frame_2.jpg").write_bytes(b"another")
    changed = file_digest(clips)
    (folder / "frame_2.jpg").unlink()
    assert len({before, changed, file_digest(clips)}) == 3


def test_any_words_can_stand_in_a_studys_table_and_chart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    figures = {"top1": 0.5, "top5": 1.0, "f1_weighted": 0.4, "top1_interval": [0.4, 0.6]}
    weights = ["a/best", "b/best", "[/tmp/$\\foo$]"]
    experiment = Experiment(
        title="[b] costs $\\foo$", about="[/b]", schemes=["grouped"],
        train={"model": "cnn-lstm"}, vary={"weights": weights},
    )  # fmt: skip
    results = [
        trials.Result(trial=trial, figures=figures, val=0.5) for trial in experiment.trials()
    ]
    error = trials.Result(trial=results[2].trial, figures={}, val=math.nan, error="no [/tmp/x]")
    outcome.print_table(experiment, [*results[:2], error])
    printed = capsys.readouterr().out
    assert "[b] costs" in printed
    assert "no [/tmp/x]" in " ".join(printed.split())
    assert outcome.write(tmp_path, experiment, results, "engine study").stat().st_size > 0
    assert [row["varied"] for row in rows_of(tmp_path)] == [
        "weights a/best", "weights b/best", "weights $\\foo$]",
    ]  # fmt: skip


@pytest.mark.parametrize(("metric", "best"), [("loss", 0.25), ("top1", 0.75)])
def test_a_search_lists_the_best_first(metric: str, best: float, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    vals = iter([0.5, 0.25, float("nan"), 0.75])

    def run_trial(trial: Trial) -> trials.Result:
        return trials.Result(trial=trial, figures={}, val=next(vals))

    experiment = Experiment(
        title="t", schemes=["grouped"], train={"model": "cnn-lstm", "metric": metric},
        search={"trials": 4, "lr": {"low": 0.1, "high": 0.2}},
    )  # fmt: skip
    found = search.search(experiment, tmp_path, run_trial)
    assert found[0].val == best
    assert found[1].val == 0.5
    assert math.isnan(found[-1].val)
    again = search.search(
        experiment, tmp_path, lambda trial: trials.Result(trial=trial, figures={}, val=0.5)
    )
    assert len(again) == 4
    for changed in (
        {"lr": {"low": 0.1, "high": 0.3}}, {"sampling": ["random"]}, {"lr": [True, 0.2]},
    ):  # fmt: skip
        other = dataclasses.replace(experiment, search={"trials": 4, **changed})
        with pytest.raises(UserError, match="holds a search over other ranges: name another `out`"):
            search.search(other, tmp_path, run_trial)


def test_a_search_keeps_to_what_optuna_takes(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    train = {"model": "cnn-lstm", "seed": 2**62}
    batches = {"trials": 1, "batch_size": {"low": 1, "high": 2}}
    experiment = Experiment(title="t", schemes=["grouped"], train=train, search=batches)

    def run_trial(trial: Trial) -> trials.Result:
        return trials.Result(trial=trial, figures={}, val=0.5)

    search.check(experiment)
    assert len(search.search(experiment, tmp_path, run_trial)) == 1
    as_floats = {"trials": 2, "batch_size": {"low": 1.0, "high": 2.0}}
    with pytest.raises(UserError, match="holds a search over other ranges"):
        search.search(dataclasses.replace(experiment, search=as_floats), tmp_path, run_trial)
    (tmp_path / search.JOURNAL).write_text("no journal\n{}\n")
    with pytest.raises(UserError, match=r"search.log is damaged \(.*\): remove it"):
        search.search(experiment, tmp_path, run_trial)


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ('metric = ["loss", "top1"]', "trials are ranked by the metric"),
        (f"lr = {{ low = 1, high = {10**400} }}", "lr must be a list of values, or a range"),
        ("lr = { low = -1.7e308, high = 1.7e308 }", "lr must be a list of values, or a range"),
    ],
)
def test_a_search_that_would_say_nothing_is_refused(
    given_: str, message: str, tmp_path: Path
) -> None:
    text = f'[train]\nmodel = "cnn-lstm"\n[search]\n{given_}\n'
    with pytest.raises(UserError, match=message):
        search.check(Experiment.load(write(tmp_path, text)))


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
    assert "published results are not comparable" in result.stdout
    assert splits.current(manifest.load(dataset)) == "grouped seed 0"
    assert (tmp_path / "out" / "results.png").stat().st_size > 0

    shutil.rmtree(tmp_path / "out" / "grouped_sampling=random")
    again = run_engine(*arguments)
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("training clips") == 1  # the others were done
    assert rows_of(tmp_path / "out") == rows

    other = run_engine(*arguments, "--set", "lr=0.5")
    assert other.returncode == 2
    assert "differs from this one in lr: name another --out, or remove that folder" in other.stderr


@pytest.mark.slow
def test_a_study_cross_validates(run_engine, dataset: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(dataset, tmp_path / "set"))
    study = write(tmp_path, '[train]\nmodel = "vit-lstm"\n')
    arguments = ("study", study, "--data", root, "--scheme", "folds", "--out", tmp_path / "out",
                 *SMALL)  # fmt: skip
    undivided = run_engine(*arguments)
    assert undivided.returncode == 2
    assert "isn't divided into folds" in undivided.stderr
    folds.apply(manifest.load(root), "grouped", num_folds=3)
    result = run_engine(*arguments)
    assert result.returncode == 0, result.stderr
    (row,) = rows_of(tmp_path / "out")
    trial = tmp_path / "out" / "folds"
    pooled, *each = json.loads((trial / "evaluation" / "report.json").read_text())
    assert (pooled["video"]["num_clips"], len(each)) == (30, 3)
    assert float(row["top1"]) == pytest.approx(100 * pooled["video"]["top1"], abs=0.1)
    best = [checkpoint.read_best(trial / f"fold-{number}")["value"] for number in (1, 2, 3)]
    assert float(row["val"]) == pytest.approx(sum(best) / 3, rel=1e-3)
    (trial / "result.json").unlink()
    again = run_engine(*arguments)
    assert again.returncode == 0, again.stderr
    assert "training clips" not in again.stderr
    assert rows_of(tmp_path / "out") == [row]


@pytest.mark.slow
def test_a_study_leaves_the_datasets_own_splits_alone_even_when_it_is_killed(
    run_engine, dataset: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(dataset, tmp_path / "set"))
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    study = write(tmp_path, '[train]\nmodel = "vit-lstm"\n')
    arguments = ["study", study, "--data", root, "--scheme", "stratified", "--out",
                 tmp_path / "out", *SMALL]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "engine", *map(str, arguments)],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if "training clips" in line:
            break
    process.kill()  # alone: its training ends by itself
    process.communicate()
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before
    done = run_engine(*arguments)
    assert done.returncode == 0, done.stderr
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before
    trial = tmp_path / "out" / "stratified"
    assert json.loads((trial / "run.json").read_text())["scheme"] == "stratified seed 0"

    rows = rows_of(tmp_path / "out")  # a report that somebody else wrote there changes nothing
    told = run_engine("evaluate", trial, "--split", "train", "--out", trial / "evaluation")
    assert told.returncode == 0, told.stderr
    assert run_engine(*arguments).returncode == 0
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
        'optimizer = ["sgd", "adamw"]\n'
    )
    out = tmp_path / "out"
    for num_trials in (1, 2):
        study = write(tmp_path, text.format(trials=num_trials))
        result = run_engine("study", study, "--data", dataset, "--out", out, *SMALL[4:])
        assert result.returncode == 0, result.stderr
        assert result.stderr.count("training clips") == 1
        assert len(rows_of(out)) == num_trials
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
