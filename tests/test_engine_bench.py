"""`engine bench`, for real on a small set. No test judges how fast anything is."""

import json
from pathlib import Path

import pytest

from benchmarks import commands

WAYS = [
    "bound",
    "our decoding alone",
    "dali",
    "torch",
    "first epoch",
    "cached epoch",
    "dali, colors shaken",
]


@pytest.mark.slow
def test_the_loader_stage_prints_and_keeps_its_figures(
    run_engine, synth: Path, tmp_path: Path
) -> None:
    (synth / "videos" / "move_left" / "broken.avi").write_bytes(b"no video")
    assert run_engine("data", "index", synth).returncode == 1
    out = tmp_path / "new" / "results"
    result = run_engine(
        *("bench", "--data", synth, "--out", out, "--repeats", 2),
        *("--frames", 2, "--size", 32, "--batch-size", 7),
    )
    assert result.returncode == 0, result.stderr
    assert "1 bad clips left out" in result.stdout
    (path,) = out.iterdir()
    found = json.loads(path.read_text())
    assert found["num_clips"] == 30
    assert [row["name"] for row in found["rows"]][: len(WAYS)] == WAYS
    assert all(len(row["repeats"]) == 2 and min(row["repeats"]) > 0 for row in found["rows"])
    assert all(row["name"].split()[0] in result.stdout for row in found["rows"])
    assert len(found["memory"]["resident_mib"]) == 20
    assert found["spec"]["num_frames"] == 2
    assert found["command"].startswith("engine bench --data")
    assert found["machine"]["num_cores"] >= 1


@pytest.mark.slow
def test_what_makes_a_loader_slow_here_is_told_and_kept(
    synth_master: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("dali_pipelines.loaders.torch_loader._free_shared_memory", lambda: 0)
    monkeypatch.setattr("benchmarks.stages.loader.EPOCHS_FOR_MEMORY", 3)
    monkeypatch.setattr("benchmarks.machine.peaks", dict)  # it takes its time
    found = commands.loader(synth_master, frames=1, size=16, batch_size=16, repeats=1)
    assert "torch: /dev/shm has less than the" in capsys.readouterr().err
    notes = {row["name"]: row.get("note", "") for row in found["rows"]}
    assert "go through pipes, which is slower" in notes.pop("torch")
    assert not any(notes.values())


@pytest.mark.slow
def test_the_model_stage_sets_artifacts_beside_eager(run_engine, synth, tmp_path: Path) -> None:
    assert run_engine("data", "split", synth, "--scheme", "grouped").returncode == 0
    run, fast, out = tmp_path / "run", tmp_path / "fast", tmp_path / "bench"
    trained = run_engine(
        "train", "--data", synth, "--model", "vit-lstm", "--preset", "small", "--epochs", 1,
        "--out", run,
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    compiled = run_engine("compile", run, "--out", fast, "--cache", tmp_path / "cache")
    assert compiled.returncode == 0, compiled.stderr
    result = run_engine(
        "bench", run, fast, "--stage", "model", "--out", out, "--repeats", 2, "--batches", "1,3"
    )
    assert result.returncode == 0, result.stderr
    (path,) = out.iterdir()
    found = json.loads(path.read_text())
    names = ["eager, channels-first", "eager", "fast"]
    assert [row["name"] for row in found["rows"]] == names * 2
    assert [row["batch"] for row in found["rows"]] == [1, 1, 1, 3, 3, 3]
    assert found["rows"][0]["times_yardstick"] == 1.0
    assert all(row["share_of_peak"] > 0 for row in found["rows"])
    wrong = run_engine("bench", fast, run, "--stage", "model", "--out", out)
    assert wrong.returncode == 2
    assert "takes a run, then the artifacts" in wrong.stderr


@pytest.mark.slow
def test_unknown_stages_and_unusable_sets_get_one_sentence(run_engine, tmp_path: Path) -> None:
    wrong = run_engine("bench", "--stage", "loder")
    assert wrong.returncode == 2
    assert "did you mean 'loader'?" in wrong.stderr
    missing = run_engine("bench", "--data", tmp_path / "none", "--out", tmp_path / "out")
    assert missing.returncode == 2
    assert "is not a folder" in missing.stderr
    (tmp_path / "file").touch()
    blocked = run_engine("bench", "--out", tmp_path / "file")
    assert blocked.returncode == 2
    assert "file can't be created" in blocked.stderr
