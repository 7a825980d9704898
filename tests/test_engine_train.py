"""`engine train` as users meet it: real runs on real videos, killed, stopped and resumed."""

import contextlib
import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from trainers import trainer_of

from dali_pipelines.loaders.dali_loader import DaliLoader
from engine.data import manifest, splits
from engine.errors import UserError
from engine.interrupt import stop_kindly
from engine.training import checkpoint, history, run_folder
from engine.training.display import Display
from engine.training.distill import Teacher
from engine.training.loop import Trainer

TINY = ("--frames", 4, "--size", 32, "--batch-size", 4, "--loader", "dali")
CNN = ("--model", "cnn-lstm", "--preset", "small", *TINY)
VIT = ("--model", "vit-lstm", "--preset", "small", *TINY)
"""It has no batch normalization, so parts of a batch add up to the whole."""


@pytest.fixture(scope="session")
def dataset(synth_master: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty clips under a grouped split: 12 training clips and 9 validation clips."""
    root = Path(shutil.copytree(synth_master, tmp_path_factory.mktemp("train") / "set"))
    splits.apply(manifest.load(root), splits.Grouped(seed=0))
    return root


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "engine", "train", *map(str, arguments)]


def final_weights(run: Path) -> tuple[int, bytes]:
    last = checkpoint.last_of(run)
    assert last is not None
    return checkpoint.load_config(last).step, (last / "model.safetensors").read_bytes()


def figures(run: Path) -> list[dict[str, str]]:
    """The history without what a clock decides."""
    with (run / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [{name: value for name, value in row.items() if name not in CLOCK} for row in rows]


CLOCK = {"seconds", "clips_per_s", "waiting_share"}


@pytest.mark.slow
def test_a_run_leaves_everything_that_repeats_it(run_engine, dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = run_engine("train", "--data", dataset, *CNN, "--epochs", 2, "--out", out)
    assert result.returncode == 0, result.stderr
    assert "flipping may change the class 'move_left'" in result.stdout
    assert "epoch 2/2: loss" in result.stderr
    assert "best: " in result.stdout
    for name in ("recipe.toml", "run.json", "manifest.csv", "history.csv", "curves.png"):
        assert (out / name).stat().st_size > 0, name
    assert list((out / "tensorboard").iterdir())
    rows = figures(out)
    assert [row["epoch"] for row in rows] == ["1", "2"]
    best = checkpoint.best_of(out)
    assert best is not None
    config = checkpoint.load_config(best)
    assert config.class_names == manifest.load(dataset).class_names
    assert config.metrics["val_top1"] == pytest.approx(
        max(float(row["val_top1"]) for row in rows), abs=1e-5
    )

    again = run_engine(
        "train", "--data", dataset, "--recipe", out / "recipe.toml", "--out", tmp_path / "again"
    )
    assert again.returncode == 0, again.stderr
    assert final_weights(tmp_path / "again") == final_weights(out)
    assert figures(tmp_path / "again") == rows

    refused = run_engine("train", "--data", dataset, *CNN, "--out", out)
    assert refused.returncode == 2
    assert "already holds a run: pass --resume" in refused.stderr


@pytest.mark.slow
def test_a_run_killed_at_any_moment_ends_bit_identical(dataset: Path, tmp_path: Path) -> None:
    """It saves after each step, so that it is killed in the middle of epochs and of saving."""
    settings = ("--data", dataset, *CNN, "--epochs", 6, "--ema", 0.9, "--mixup", 0.5,
                "--save-minutes", 0)  # fmt: skip
    whole = tmp_path / "whole"
    subprocess.run(command(*settings, "--out", whole), check=True, capture_output=True)

    killed, chance, num_kills = tmp_path / "killed", random.Random(0), 0
    begin = command(*settings, "--out", killed)
    go_on = command("--out", killed, "--resume", "--save-minutes", 0)
    process = subprocess.Popen(begin, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    seen = None
    while process.poll() is None:
        last = checkpoint.last_of(killed)
        if last == seen or num_kills == 3:
            time.sleep(0.002)
            continue
        time.sleep(chance.random() * 0.15)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        num_kills += 1
        seen = checkpoint.last_of(killed)
        process = subprocess.Popen(go_on, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    _, errors = process.communicate()
    assert process.returncode == 0, errors.decode()
    assert num_kills == 3
    assert "resuming after step" in errors.decode()
    assert final_weights(killed) == final_weights(whole)
    assert figures(killed) == figures(whole)
    assert checkpoint.best_of(killed) is not None
    values = [json.loads((run / "best.json").read_text())["value"] for run in (killed, whole)]
    assert values[0] == values[1]


@pytest.mark.slow
def test_a_run_stopped_at_the_last_step_of_an_epoch_goes_on_with_the_next(
    dataset: Path, tmp_path: Path, quiet: Display
) -> None:
    """That step's parts are fewer than the others', so the loader has reached the epoch's end."""
    settings: dict[str, Any] = {"batch_size": 8, "accumulate": 4, "epochs": 3}
    whole = trained(dataset, tmp_path / "a", quiet, **settings)
    stopped = trainer_of(dataset, tmp_path / "b", quiet, **settings)
    stopped.state.history.clear()
    assert stopped.steps_per_epoch == 2
    stopped.save_every_s = 0
    real = stopped._save

    def save(**flags: Any) -> None:
        real(**flags)
        stopped.stop_asked = stopped.state.step == 1  # noticed by the second step

    stopped._save = save  # type: ignore[method-assign]
    assert not stopped.run()
    assert stopped.state.step == 2
    again = trainer_of(dataset, tmp_path / "b", quiet, **settings)
    found = checkpoint.last_of(tmp_path / "b")
    assert found is not None
    again.resume(found)
    assert again.run()
    for a, b in zip(whole.raw.parameters(), again.raw.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.slow
def test_ctrl_c_saves_and_the_rest_follows(dataset: Path, tmp_path: Path) -> None:
    settings = ("--data", dataset, *CNN, "--epochs", 8)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    subprocess.run(command(*settings, "--out", whole), check=True, capture_output=True)
    process = subprocess.Popen(
        command(*settings, "--out", stopped), stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("epoch 2/"):
            break
    process.send_signal(signal.SIGINT)
    rest = process.stderr.read()
    assert process.wait() == 130
    assert "stopping after this step" in rest
    assert f"engine train --out {stopped} --resume" in rest
    subprocess.run(command("--out", stopped, "--resume"), check=True, capture_output=True)
    assert final_weights(stopped) == final_weights(whole)


def losses(run: Path) -> list[float]:
    return [float(row[name]) for row in figures(run) for name in ("train_loss", "val_loss")]


TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone")


@pytest.mark.slow
def test_two_processes_learn_as_one(dataset: Path, tmp_path: Path) -> None:
    """Gloo on a CPU, the same global batch; 12 clips in batches of 8, the last one is half, and of
    the 9 validation clips one is left for one process and none for the other."""
    settings = ("--data", dataset, *VIT, "--batch-size", 8, "--epochs", 3, "--device", "cpu")
    ways = {
        "one": command(*settings),
        "two": command(*settings, "--devices", 2),
        "torchrun": [*TORCHRUN, *command(*settings)[1:]],
    }
    for name, way in ways.items():
        subprocess.run([*way, "--out", str(tmp_path / name)], check=True, capture_output=True)
    one = losses(tmp_path / "one")
    assert one[0] != one[2]  # it learns
    for name in ("two", "torchrun"):
        other = losses(tmp_path / name)
        assert max(abs(a - b) for a, b in zip(one, other, strict=True)) < 1e-4


@pytest.fixture
def quiet() -> Iterator[Display]:
    with Display(shown=False) as display:
        yield display


def trained(dataset: Path, run: Path, display: Display, **settings: Any) -> Trainer:
    trainer = trainer_of(dataset, run, display, **settings)
    assert trainer.run()
    return trainer


@pytest.mark.slow
def test_parts_of_a_batch_add_up(dataset: Path, tmp_path: Path, quiet: Display) -> None:
    sgd: dict[str, Any] = {"optimizer": "sgd", "lr": 0.05}  # Adam blows rounding up
    whole = trained(dataset, tmp_path / "a", quiet, **sgd)
    parts = trained(dataset, tmp_path / "b", quiet, accumulate=2, **sgd)
    assert whole.state.step == parts.state.step
    for a, b in zip(whole.raw.parameters(), parts.raw.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_patience_ends_a_run_that_gains_nothing(
    dataset: Path, tmp_path: Path, quiet: Display
) -> None:
    trainer = trained(dataset, tmp_path, quiet, epochs=20, lr=1e-12, patience=2)
    assert len(trainer.state.history) == 3


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["top1", "loss"])
def test_the_best_is_chosen_by_the_named_metric(
    metric: str, dataset: Path, tmp_path: Path, quiet: Display
) -> None:
    trainer = trained(dataset, tmp_path, quiet, epochs=4, metric=metric)
    values = [row[f"val_{metric}"] for row in trainer.state.history]
    best = json.loads((tmp_path / "best.json").read_text())
    chosen = min if metric == "loss" else max
    assert best["value"] == pytest.approx(chosen(values))
    step = trainer.state.history[values.index(chosen(values))]["step"]
    assert best["checkpoint"] == f"{step:06.0f}"


@pytest.mark.slow
def test_frozen_epochs_leave_the_backbone_alone(
    dataset: Path, tmp_path: Path, quiet: Display
) -> None:
    trainer = trainer_of(dataset, tmp_path / "a", quiet, epochs=1, freeze_epochs=1)
    before = {name: value.clone() for name, value in trainer.raw.state_dict().items()}
    trainer.run()
    changed = {
        name for name, value in trainer.raw.state_dict().items() if not value.equal(before[name])
    }
    assert changed
    assert not [name for name in changed if name.startswith("backbone")]
    thawed = trained(dataset, tmp_path / "b", quiet, epochs=2, freeze_epochs=1)
    assert not thawed.raw.state_dict()["backbone.network.pos_embed"].equal(
        before["backbone.network.pos_embed"]
    )


@pytest.mark.slow
def test_a_frozen_share_leaves_the_first_layers_alone(
    dataset: Path, tmp_path: Path, quiet: Display
) -> None:
    trainer = trainer_of(dataset, tmp_path / "a", quiet, epochs=1, freeze_share=0.5)
    before = {name: value.clone() for name, value in trainer.raw.state_dict().items()}
    trainer.run()
    is_same = {
        name: value.equal(before[name])
        for name, value in trainer.raw.state_dict().items()
        if name.startswith("backbone")
    }
    blocks = [name.split("blocks.")[1].split(".")[0] for name in is_same if "blocks." in name]
    of_first = [same for name, same in is_same.items() if f".blocks.{blocks[0]}." in name]
    of_last = [same for name, same in is_same.items() if f".blocks.{blocks[-1]}." in name]
    assert all(of_first)
    assert is_same["backbone.network.pos_embed"]
    assert not any(of_last)


@pytest.mark.slow
def test_bf16_and_compile_learn_too(dataset: Path, tmp_path: Path, quiet: Display) -> None:
    plain = trained(dataset, tmp_path / "a", quiet).state.history
    for name, settings in (("b", {"precision": "bf16"}), ("c", {"compile": True})):
        rows = trained(dataset, tmp_path / name, quiet, **settings).state.history
        assert rows[-1]["train_loss"] == pytest.approx(plain[-1]["train_loss"], abs=0.05)


@pytest.mark.slow
def test_a_student_learns_its_teachers_answers(
    dataset: Path, tmp_path: Path, quiet: Display
) -> None:
    """By the teacher's answers alone, labels unseen, it comes to agree with the teacher; and the
    teacher sees other frames, another size and other colors than the student."""
    trained(dataset, tmp_path / "teacher", quiet, epochs=3, num_frames=3, resize=48, crop=48,
            mean=[0.4, 0.4, 0.4])  # fmt: skip
    student = trainer_of(dataset, tmp_path / "student", quiet, epochs=30)
    names = student.class_names
    student.teacher = Teacher(
        tmp_path / "teacher", student.recipe.clip, names, temperature=1.0, weight=1.0
    )
    clips = next(iter(student.train)).clips
    logits = torch.zeros(len(clips), len(names))

    def distance() -> float:
        student.raw.eval()
        with torch.no_grad():
            return float(student.teacher.blend(logits[:, 0], student.raw(clips), clips).mean())  # type: ignore[union-attr]

    before = distance()
    student.train.load_state_dict({"epoch": 0, "done": 0, "seed": 0})
    student.run()
    assert distance() < before / 3
    alone = Teacher(tmp_path / "teacher", student.recipe.clip, names, temperature=2.0, weight=0.0)
    assert torch.equal(alone.blend(logits[:, 0] + 7, logits, clips), logits[:, 0] + 7)
    with pytest.raises(UserError, match="has other classes"):
        Teacher(tmp_path / "teacher", student.recipe.clip, ["a", "b"], temperature=1.0, weight=1.0)


@pytest.mark.slow
def test_a_loss_that_is_no_number_stops_and_names_the_clips(
    dataset: Path, tmp_path: Path, quiet: Display
) -> None:
    trained(dataset, tmp_path, quiet, epochs=1)
    good = checkpoint.last_of(tmp_path)
    trainer = trainer_of(dataset, tmp_path, quiet, lr=1e30, clip_grad=0.0, warmup=0.0, epochs=9)
    with pytest.raises(UserError, match=r"at step \d+ \(clips .*\.avi.*`weights`.*lower `lr`"):
        trainer.run()
    assert checkpoint.last_of(tmp_path) == good


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--option", "recurrence.hidden=3000000"), 3, "too little memory"),
        (("--batch-size", 5, "--accumulate", 2), 2, "choose a multiple of 2"),
        (("--device", "gpu"), 3, "pass --device cpu"),
        (("--precision", "fp16", "--device", "cpu"), 3, "--precision bf16 or --precision fp32"),
        (("--loader", "torch", "--cache", "x"), 2, "remove --cache"),
        (("--loader", "decord"), 2, "unknown loader 'decord'"),
        (("--resume",), 2, "a resumed run keeps its settings"),
        (("--set", "lr"), 2, "write KEY=VALUE"),
        (("--weights", "./none"), 2, "there are no weights './none'"),
        (("--option", "dim=5"), 2, "cnn-lstm has no 'dim'"),
        (("--recipe", "timesformer"), 2, "did you mean 'timesformer-"),
        (("--recipe", "gone.toml"), 2, "there is no file gone.toml"),
        (("--teacher", "nowhere"), 2, "is neither a checkpoint nor a run that has one"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_sentence(
    arguments: tuple[Any, ...], code: int, message: str, run_engine, dataset: Path, tmp_path: Path
) -> None:
    if "gpu" in arguments and torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    result = run_engine("train", "--data", dataset, *CNN, *arguments, "--out", tmp_path / "run")
    assert result.returncode == code, result.stderr
    assert message in result.stderr
    assert result.stderr.count("\n") <= 3
    assert "Traceback" not in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("model", ["timesformer", "cnn-lstm"])
def test_published_weights_out_of_reach_name_the_flag(
    model: str, run_engine, dataset: Path, tmp_path: Path
) -> None:
    result = run_engine(
        "train", "--data", dataset, "--model", model, "--preset", "base", "--out", tmp_path / "run",
        env={"HF_ENDPOINT": "https://hub.invalid", "HF_HOME": str(tmp_path / "cache")},
    )  # fmt: skip
    assert result.returncode == 2, result.stderr
    assert result.stderr.count("\n") == 1
    assert "hub.invalid can't be reached): pass --weights none" in result.stderr


@pytest.mark.slow
def test_without_a_gpu_and_a_word_of_it_the_preset_is_small(
    run_engine, dataset: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    result = run_engine(
        "train", "--data", dataset, "--model", "vit-lstm", "--epochs", 1, "--device", "cpu",
        "--out", out,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "without a GPU the preset is small" in result.stdout
    assert 'preset = "small"' in (out / "recipe.toml").read_text()


@pytest.mark.slow
def test_other_clips_than_the_run_began_with_are_refused(
    run_engine, dataset: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(dataset, tmp_path / "set"))
    out = tmp_path / "run"
    assert run_engine("train", "--data", root, *CNN, "--epochs", 1, "--out", out).returncode == 0
    finished = run_engine("train", "--out", out, "--resume")
    assert finished.returncode == 0, finished.stderr
    run_engine("data", "split", root, "--scheme", "grouped", "--seed", 5)
    result = run_engine("train", "--out", out, "--resume")
    assert result.returncode == 2
    assert "are not those that" in result.stderr


@pytest.mark.slow
def test_a_folder_that_cannot_be_written_is_named(
    run_engine, dataset: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    result = run_engine("train", "--data", dataset, *CNN, "--out", tmp_path / "file" / "run")
    assert result.returncode == 2
    assert f"{tmp_path / 'file' / 'run'} can't be written to" in result.stderr


@pytest.mark.slow
def test_facts_that_are_missing_or_wrong_are_told(
    run_engine, dataset: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert run_engine("train", "--data", dataset, *CNN, "--epochs", 1, "--out", out).returncode == 0
    whole = json.loads((out / "run.json").read_text())
    for name in ("data", "scheme", "classes", "digest", "world_size"):
        for harmed in ({**whole, name: {}}, {key: whole[key] for key in whole if key != name}):
            (out / "run.json").write_text(json.dumps(harmed))
            with pytest.raises(UserError, match=rf"run\.json is damaged \(its {name} is missing"):
                run_folder.load(out)
    result = run_engine("train", "--out", out, "--resume")
    assert result.returncode == 2
    assert "is damaged" in result.stderr
    assert result.stderr.count("\n") == 1


def broken(dataset: Path, root: Path, part: str) -> Path:
    """A copy of which no clip of one part can be read, though the index knows them all."""
    shutil.copytree(dataset, root)
    for clip in manifest.load(root).clips:
        if clip.split == part:
            (root / clip.path).write_bytes(b"no video")
    return root


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "split_name", "num_checkpoints", "processes"),
    [("train", "training", 0, 2), ("val", "validation", 1, 1)],
)
def test_clips_of_which_none_can_be_read_make_no_best_checkpoint(
    part: str, split_name: str, num_checkpoints: int, processes: int, run_engine, dataset: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    out = tmp_path / "run"
    result = run_engine(
        "train", "--data", broken(dataset, tmp_path / "set", part), *CNN, "--epochs", 2,
        "--devices", processes, "--device", "cpu", "--out", out,
    )  # fmt: skip
    assert result.returncode == 2, result.stderr
    assert f"none of the {split_name} clips can be read (" in result.stderr
    assert "Traceback" not in result.stderr
    assert "best" not in result.stdout
    assert checkpoint.best_of(out) is None
    assert len(list(out.glob("checkpoints/*"))) == num_checkpoints


@pytest.mark.slow
def test_a_datasets_folder_is_no_folder_for_a_run(
    run_engine, dataset: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(dataset, tmp_path / "set"))
    before = (root / manifest.FILE_NAME).read_bytes()
    result = run_engine("train", "--data", root, "--scheme", "stratified", *CNN, "--out", root)
    assert result.returncode == 2
    assert f"{root} is the folder of a dataset: name another --out" in result.stderr
    assert (root / manifest.FILE_NAME).read_bytes() == before
    (root / "run.json").write_text("{}")  # a run of before there was a lock
    again = run_engine("train", "--data", dataset, *CNN, "--out", root)
    assert "already holds a run" in again.stderr


@pytest.mark.slow
def test_two_runs_in_one_folder_are_refused(run_engine, dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    settings = ("--data", dataset, *CNN, "--epochs", 500)
    first = subprocess.Popen(command(*settings, "--out", out), stderr=subprocess.PIPE, text=True)
    assert first.stderr is not None
    for line in first.stderr:
        if line.startswith("epoch 1/"):
            break
    for second in ((*settings, "--out", out), ("--out", out, "--resume")):
        refused = run_engine("train", *second)
        assert refused.returncode == 2
        assert f"another process is training in {out}: wait for it to end" in refused.stderr
    first.kill()
    first.wait()
    resumed = subprocess.Popen(command("--out", out, "--resume"), stderr=subprocess.PIPE, text=True)
    assert resumed.stderr is not None
    said = next((line for line in resumed.stderr if "resuming after step" in line), "")
    resumed.kill()
    resumed.communicate()
    assert said


@contextlib.contextmanager
def handlers_put_back() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Stalled(DaliLoader):
    """Gives five parts of a batch; somebody loses patience while the sixth doesn't come."""

    def _batches(self, batches: Any, stop: threading.Event) -> Generator[Any, None, None]:
        for number, batch in enumerate(super()._batches(batches, stop)):
            if number == 5:
                os.kill(os.getpid(), signal.SIGTERM)
                stop.wait(60)
            yield batch


@pytest.mark.slow
def test_one_signal_ends_the_wait_for_a_batch_and_nothing_is_lost(
    dataset: Path, tmp_path: Path, quiet: Display
) -> None:
    settings: dict[str, Any] = {"batch_size": 8, "accumulate": 4, "epochs": 2}
    whole = trained(dataset, tmp_path / "a", quiet, **settings)
    stopped = trainer_of(dataset, tmp_path / "b", quiet, **settings)
    stopped.train = Stalled(stopped.train.rows, stopped.train.config)
    with handlers_put_back():
        stop_kindly(stopped)
        assert not stopped.run()
    assert stopped.state.step == 1
    again = trainer_of(dataset, tmp_path / "b", quiet, **settings)
    found = checkpoint.last_of(tmp_path / "b")
    assert found is not None
    again.resume(found)
    assert again.run()
    for a, b in zip(whole.raw.parameters(), again.raw.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_stop_is_told_while_a_line_is_being_written(
    dataset: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    class Writing(Display):
        def log(self, line: str) -> None:
            raise RuntimeError("reentrant call inside <_io.BufferedWriter name='<stderr>'>")

    trainer = trainer_of(dataset, tmp_path / "run", Writing(shown=True))
    with handlers_put_back():
        stop_kindly(trainer)
        os.kill(os.getpid(), signal.SIGINT)
    assert trainer.stop_asked
    assert "stopping after this step; press Ctrl-C again to stop now\n" in capfd.readouterr().err


@pytest.mark.parametrize("error", [BrokenPipeError, RuntimeError])
def test_a_stop_is_heard_where_nobody_can_be_told_of_it(error: type[Exception]) -> None:
    """A study that was killed no longer reads what its training says."""

    class Run:
        stop_asked = False

        def stop(self) -> None:
            self.stop_asked = True

    class Unread:
        def log(self, line: str) -> None:
            raise error

    run: Any = Run()
    run.display = Unread()
    with handlers_put_back():
        stop_kindly(run)
        os.kill(os.getpid(), signal.SIGTERM)
    assert run.stop_asked


@pytest.mark.slow
def test_clips_that_no_memory_holds_are_refused(run_engine, dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = run_engine("train", "--data", dataset, *CNN, "--frames", 10_000_000, "--out", out)
    assert result.returncode == 3
    assert "batches of 4 clips of 10,000,000 frames and 32² pixels take" in result.stderr
    assert "lower --frames, --size or --batch-size" in result.stderr
    assert not out.exists()


def test_curves_are_drawn(tmp_path: Path) -> None:
    names = ("train_loss", "val_loss", "train_top1", "val_top1")
    rows = [{"epoch": float(n), **dict.fromkeys(names, 1 / (n + 1))} for n in range(4)]
    path = history.draw_curves(tmp_path, rows, "a run")
    assert path is not None
    from PIL import Image

    with Image.open(path) as picture:
        assert picture.size == (1200, 480)


@pytest.mark.slow
def test_a_run_from_before_names_were_changed_resumes(
    run_engine, dataset: Path, tmp_path: Path
) -> None:
    """Settings, facts, model options and the state of training have other names there."""
    run = tmp_path / "run"
    words = ("train", "--data", dataset, *CNN, "--epochs", 2, "--out", run)
    assert run_engine(*words).returncode == 0
    step, _ = final_weights(run)
    recipe = run / "recipe.toml"
    text = recipe.read_text().replace("optimizer", "optimiser").replace("epochs = 2", "epochs = 3")
    recipe.write_text('layout = "TCHW"\n' + text)
    facts = json.loads((run / "run.json").read_text())
    facts["world"], facts["dealt_by"] = facts.pop("world_size"), facts.pop("split_by")
    (run / "run.json").write_text(json.dumps(facts))
    for folder in (run / "checkpoints").iterdir():
        config = json.loads((folder / "config.json").read_text())
        config["model"]["options"]["centred"] = config["model"]["options"].pop("centered")
        (folder / "config.json").write_text(json.dumps(config))
        state = torch.load(folder / "state.pt", weights_only=True)
        state["optimiser"] = state.pop("optimizer")
        state["standing"]["num_right"] = state["standing"].pop("num_correct")
        torch.save(state, folder / "state.pt")
    resumed = run_engine("train", "--out", run, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert final_weights(run)[0] == step * 3 // 2
