"""Checkpoints on disk: whole, safe to load, and sound after any death."""

import os
import pickle
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from dali_pipelines.spec import ClipSpec
from engine.errors import UserError
from engine.models.registry import ModelSpec
from engine.training import checkpoint
from engine.training.checkpoint import CheckpointConfig


def config(step: int) -> CheckpointConfig:
    model, clip = ModelSpec.of_preset("cnn-lstm", "small", 3)
    return CheckpointConfig(
        model=model,
        clip=clip,
        class_names=["a", "b", "ü"],
        step=step,
        metrics={"top1": 0.5},
        versions={"torch": "2"},
    )


def write(run: Path, step: int, size: int = 10) -> Path:
    weights = {"w": torch.full((size,), float(step))}
    return checkpoint.save(run, config(step), weights, {"step": step, "m": torch.ones(2)})


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    path = write(tmp_path, 7)
    assert sorted(each.name for each in path.iterdir()) == [
        "config.json", "model.safetensors", "state.pt",
    ]  # fmt: skip
    assert checkpoint.load_config(path) == config(7)
    assert isinstance(checkpoint.load_config(path).clip, ClipSpec)
    assert checkpoint.load_weights(path)["w"].tolist() == [7.0] * 10
    assert checkpoint.load_state(path)["step"] == 7


def test_the_best_and_the_last_are_kept(tmp_path: Path) -> None:
    assert checkpoint.last_of(tmp_path) is None
    assert checkpoint.best_of(tmp_path) is None
    for step in (10, 20, 30, 1000000):
        path = write(tmp_path, step)
        if step == 20:
            checkpoint.mark_best(tmp_path, path, "top1", 0.9)
    names = sorted(each.name for each in (tmp_path / "checkpoints").iterdir())
    assert names == ["000020", "1000000"]
    last, best = checkpoint.last_of(tmp_path), checkpoint.best_of(tmp_path)
    assert last is not None
    assert best is not None
    assert (last.name, best.name) == ("1000000", "000020")


def test_the_same_step_may_be_written_again(tmp_path: Path) -> None:
    for size in (10, 4, 3):
        path = write(tmp_path, 5, size=size)
        assert checkpoint.last_of(tmp_path) == path
        assert len(checkpoint.load_weights(path)["w"]) == size
    assert [each.name for each in (tmp_path / "checkpoints").iterdir()] == ["000005"]


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "state.pt"])
@pytest.mark.parametrize("harm", ["cut", "gone"])
def test_a_damaged_file_is_named(name: str, harm: str, tmp_path: Path) -> None:
    path = write(tmp_path, 1)
    if harm == "cut":
        data = (path / name).read_bytes()
        (path / name).write_bytes(data[: len(data) // 2])
    else:
        (path / name).unlink()
    load = {
        "config.json": checkpoint.load_config,
        "model.safetensors": checkpoint.load_weights,
        "state.pt": checkpoint.load_state,
    }[name]
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        load(path)


class Harm:
    def __reduce__(self):
        return os.system, ("touch harmed",)


def test_a_state_that_would_run_code_is_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path, 1)
    (path / "state.pt").write_bytes(pickle.dumps({"step": Harm()}))
    with pytest.raises(UserError, match=r"state\.pt can't be read"):
        checkpoint.load_state(path)
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize("limit", [0, 100, 30_000])
def test_a_full_disk_leaves_the_checkpoint_before(limit: int, tmp_path: Path) -> None:
    """A limit on the size of files stops each of the libraries midway, as a full disk would."""
    write(tmp_path, 1)
    code = f"""
import resource, sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_engine_training_checkpoint import UserError, checkpoint, config, torch
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
try:
    big = {{"w": torch.zeros({10 if limit else 1})}}
    checkpoint.save(Path(sys.argv[1]), config(2), big, {{"m": torch.zeros(100_000)}})
except UserError as error:
    print(error)
"""
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True
    )
    assert "can't be written" in result.stdout, result.stderr
    assert "continue with `resume=True`" in result.stdout
    last = checkpoint.last_of(tmp_path)
    assert last is not None
    assert checkpoint.load_state(last)["step"] == 1
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["000001"]


WRITER = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_engine_training_checkpoint import write, checkpoint
run = Path(sys.argv[1])
last = checkpoint.last_of(run)
step = int(last.name) if last else 0
print("ready", flush=True)
while True:
    step += 1
    path = write(run, step, size=500_000)
    if step % 3 == 0:
        checkpoint.mark_best(run, path, "top1", 0.5)
"""


@pytest.mark.slow
def test_a_writer_may_be_killed_at_any_moment(tmp_path: Path) -> None:
    chance = random.Random(0)
    reached = 0
    for _ in range(6):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        time.sleep(0.1 + chance.random() * 0.4)
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
        last, best = checkpoint.last_of(tmp_path), checkpoint.best_of(tmp_path)
        assert last is not None
        for path in filter(None, (last, best)):
            step = checkpoint.load_config(path).step
            assert checkpoint.load_state(path)["step"] == step
            assert set(checkpoint.load_weights(path)["w"].tolist()) == {float(step)}
        assert int(last.name) >= reached
        reached = int(last.name)
    assert reached > 6
    write(tmp_path, reached + 1)
    assert not list((tmp_path / "checkpoints").glob(".*"))
