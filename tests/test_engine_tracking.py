"""Trackers: MLflow's database and its real server, W&B offline, and TensorBoard's files."""

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tracked import free_port, mlflow_server, tensorboard_scalars, wandb_records

import engine
from engine.data import folds, manifest, splits
from engine.errors import RefusedError, UserError
from engine.tracking.tracker import RunInfo
from engine.tracking.tracking import Tracking, add_results, names_in

INFO = RunInfo(
    name="r1",
    settings={"lr": 0.01, "options.recurrence.hidden": 64, **{f"s{n}": n for n in range(120)}},
    protocol={"scheme": "grouped seed 0", "fold": "none", "seed": "0", "clips_digest": "ab12"},
    versions={"torch": "2.14.1"},
)
TINY: dict[str, Any] = {
    "model": "vit-lstm", "preset": "small", "num_frames": 2, "size": 32, "batch_size": 6,
}  # fmt: skip


def rows_of(*steps: int) -> list[dict[str, float]]:
    return [{"epoch": n, "step": step, "val_top1": n / 10} for n, step in enumerate(steps, 1)]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """MLflow with a database in a file; gives its client."""
    pytest.importorskip("mlflow", reason="mlflow-skinny isn't installed")
    pytest.importorskip("sqlalchemy", reason="sqlalchemy isn't installed")
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{tmp_path / 'store.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "tries")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    client = MlflowClient(uri)
    client.create_experiment("tries", artifact_location=str(tmp_path / "artifacts"))
    return client


def runs_in(client: Any, name: str = "tries") -> list[Any]:
    experiment = client.get_experiment_by_name(name)
    return client.search_runs([experiment.experiment_id])


def history_of(client: Any, run: Any, metric: str) -> list[tuple[int, float]]:
    found = client.get_metric_history(run.info.run_id, metric)
    return sorted((each.step, each.value) for each in found)


@pytest.fixture(scope="module")
def dataset(synth_master: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = Path(shutil.copytree(synth_master, tmp_path_factory.mktemp("tracked") / "set"))
    splits.apply(manifest.load(root), splits.Grouped(seed=0))
    return root


def test_names_come_in_a_list_or_with_commas() -> None:
    assert names_in(None) == ()
    assert names_in("tensorboard") == ("tensorboard",)
    assert names_in(["tensorboard,tensorboard", "tensorboard"]) == ("tensorboard",)
    with pytest.raises(UserError, match=r"tracker .*mlfow.* mlflow"):
        names_in("mlfow")


def test_a_tracker_that_is_not_installed_names_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RefusedError, match=r"pip install -e '\.\[track\]'") as caught:
        names_in(["wandb"])
    assert "needs wandb" in str(caught.value)


def test_tensorboard_shows_each_step_once_after_a_kill(tmp_path: Path) -> None:
    Tracking(tmp_path).log(rows_of(3, 6))
    lost = json.loads((tmp_path / "tracking.json").read_text())
    lost["tensorboard"]["logged"] = 3  # killed before it wrote that 6 was sent
    (tmp_path / "tracking.json").write_text(json.dumps(lost))
    resumed = Tracking(tmp_path)
    resumed.log(rows_of(3, 6, 9))
    resumed.end("finished")
    assert tensorboard_scalars(tmp_path) == {
        "val/top1": {3: pytest.approx(0.1), 6: pytest.approx(0.2), 9: pytest.approx(0.3)}
    }


def test_mlflow_gets_the_run_and_goes_on_with_it(tmp_path: Path, store: Any) -> None:
    lines: list[str] = []
    config, weights = tmp_path / "config.json", tmp_path / "model.safetensors"
    config.write_text("{}")
    weights.write_bytes(b"w")
    first = Tracking(tmp_path, ["mlflow"], with_weights=True, log=lines.append)
    first.begin(INFO)
    first.log(rows_of(3))
    assert len(lines) == 1
    assert "tracked by MLflow: sqlite:///" in lines[0]
    (run,) = runs_in(store)
    assert run.info.status == "RUNNING"

    again = Tracking(tmp_path, log=lines.append)
    again.begin(INFO)
    again.log(rows_of(3, 6))
    again.end("finished", {"run": [config]}, weights)
    add_results(tmp_path, {"test_top1": 0.75}, [config], log=lines.append)
    (run,) = runs_in(store)
    assert (run.info.run_name, run.info.status) == ("r1", "FINISHED")
    assert run.data.params["options.recurrence.hidden"] == "64"
    assert len(run.data.params) == len(INFO.settings)
    assert run.data.tags.items() >= {**INFO.protocol, "version.torch": "2.14.1"}.items()
    assert history_of(store, run, "val_top1") == [(3, 0.1), (6, 0.2)]
    assert run.data.metrics["test_top1"] == 0.75
    folders = {each.path for each in store.list_artifacts(run.info.run_id)}
    assert folders == {"run", "weights", "evaluation"}
    assert "added to MLflow" in lines[-1]
    assert not (tmp_path / "tensorboard").exists()


def test_a_password_is_not_kept(tmp_path: Path) -> None:
    from engine.tracking.mlflow_tracker import _without_password

    assert _without_password("https://me:secret@host:5000/x") == "https://host:5000/x"
    assert _without_password("sqlite:////a/b@c.db") == "sqlite:////a/b@c.db"


@pytest.mark.slow
def test_wandb_keeps_an_offline_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="wandb isn't installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("WANDB_DIR", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    config = tmp_path / "config.json"
    config.write_text("{}")
    lines: list[str] = []
    for steps in ((3,), (3, 6)):
        tracking = Tracking(tmp_path, ["wandb"], log=lines.append)
        tracking.begin(INFO)
        tracking.log(rows_of(*steps))
        tracking.end("finished", {"run": [config]})
    add_results(tmp_path, {"test_top1": 0.75}, [config], log=lines.append)
    assert not [line for line in lines if "can't" in line]
    records = wandb_records(tmp_path)
    runs = [record.run for record in records if record.HasField("run")]
    assert {(each.run_id, each.project) for each in runs} == {
        (json.loads((tmp_path / "tracking.json").read_text())["wandb"]["run"], "engine")
    }
    settings = {
        update.key or "/".join(update.nested_key): update.value_json
        for each in runs
        for update in each.config.update
    }
    assert settings["lr"] == "0.01"
    assert json.loads(settings["protocol"])["clips_digest"] == "ab12"
    assert "torch 2.14.1" in runs[0].tags
    sent = [
        {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
        for record in records
        if record.HasField("history")
    ]
    assert [(row["step"], row["val_top1"]) for row in sent if "step" in row] == [
        ("3", "0.1"), ("6", "0.2"),
    ]  # fmt: skip
    summary = {
        (item.key or "/".join(item.nested_key)): item.value_json
        for record in records
        if record.HasField("summary")
        for item in record.summary.update
    }
    assert summary["test_top1"] == "0.75"
    artifacts = [
        r.request.log_artifact.artifact for r in records if r.request.HasField("log_artifact")
    ]
    artifacts += [r.artifact for r in records if r.HasField("artifact")]
    assert {each.type for each in artifacts} == {"run", "evaluation"}


@pytest.mark.slow
def test_training_goes_on_without_the_server_and_it_gets_the_rest_later(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real server is killed after the first of three epochs, and started again afterwards."""
    pytest.importorskip("mlflow", reason="mlflow-skinny isn't installed")
    pytest.importorskip("flask", reason="flask, which MLflow's server needs, isn't installed")
    from mlflow.tracking import MlflowClient

    port, out = free_port(), tmp_path / "run"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    lines: list[str] = []
    with mlflow_server(tmp_path, port) as kill:

        def log(line: str) -> None:
            lines.append(line)
            if line.startswith("epoch 2/3"):
                kill()

        trained = engine.train(dataset, out, epochs=3, track="mlflow", log=log, **TINY)
    assert trained.finished
    assert len(trained.history) == 3
    (warning,) = [line for line in lines if "can't be reached" in line]
    assert warning.startswith("MLflow can't be reached (")
    with mlflow_server(tmp_path, port):
        assert engine.train(None, out, resume=True).finished
        client = MlflowClient()
        (run,) = runs_in(client, "engine")
        steps = [step for step, _ in history_of(client, run, "val_loss")]
        assert steps == [row["step"] for row in trained.history]
        assert run.info.status == "FINISHED"
        assert run.data.params["model"] == "vit-lstm"
        assert run.data.tags["scheme"].startswith("grouped")
        assert run.data.tags["clips_digest"]
        names = {each.path for each in client.list_artifacts(run.info.run_id, "run")}
        assert names == {"run/recipe.toml", "run/run.json", "run/config.json"}


@pytest.mark.slow
def test_folds_have_one_parent_and_evaluate_adds_their_scores(
    synth: Path, tmp_path: Path, store: Any, run_engine: Any
) -> None:
    folds.apply(manifest.load(synth), "grouped", num_folds=2)
    out = tmp_path / "folds"
    settings = ("--model", "vit-lstm", "--preset", "small", "--frames", 2, "--size", 32)
    trained = run_engine(
        "train", "--data", synth, "--folds", "all", *settings, "--batch-size", 6, "--epochs", 1,
        "--track", "mlflow", "--out", out,
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    tested = run_engine("evaluate", out)
    assert tested.returncode == 0, tested.stderr
    assert tested.stdout.count("added to MLflow") == 3
    runs = {run.info.run_name: run for run in runs_in(store)}
    assert set(runs) == {"folds", "folds/fold-1", "folds/fold-2"}
    parent = runs["folds"].info.run_id
    for number in (1, 2):
        run = runs[f"folds/fold-{number}"]
        assert run.data.tags["mlflow.parentRunId"] == parent
        assert run.data.tags["fold"] == str(number)
        assert "test_top1" in run.data.metrics
    assert runs["folds"].data.tags["fold"] == "all of 2"
    assert "test_top1" in runs["folds"].data.metrics
    assert {run.info.status for run in runs.values()} == {"FINISHED"}


@pytest.mark.slow
def test_of_several_processes_only_the_first_is_tracked(
    dataset: Path, tmp_path: Path, store: Any, run_engine: Any
) -> None:
    out = tmp_path / "run"
    trained = run_engine(
        "train", "--data", dataset, "--model", "vit-lstm", "--preset", "small", "--frames", 2,
        "--size", 32, "--batch-size", 6, "--epochs", 1, "--devices", 2, "--track", "mlflow",
        "--set", "lr=0.002", "--out", out,
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    (run,) = runs_in(store)
    assert run.data.params["lr"] == "0.002"
    assert len(history_of(store, run, "val_top1")) == 1


@pytest.mark.slow
def test_the_trials_of_a_study_are_tracked(
    dataset: Path, tmp_path: Path, store: Any, run_engine: Any
) -> None:
    study = tmp_path / "study.toml"
    study.write_text(
        'title = "t"\nschemes = ["grouped"]\n[train]\nmodel = "vit-lstm"\npreset = "small"\n'
        "num_frames = 2\nresize = 32\ncrop = 32\nbatch_size = 6\nepochs = 1\n[vary]\nlr = [0.001]\n"
    )
    done = run_engine(
        "study", study, "--data", dataset, "--out", tmp_path / "out", "--track", "mlflow"
    )
    assert done.returncode == 0, done.stderr
    (run,) = runs_in(store)
    assert run.info.run_name == "grouped_lr=0.001"
    assert run.data.metrics.keys() >= {"val_top1", "test_top1"}
