"""The public Python API, on real files."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import videos
from artifacts import SHAPE, Tiny, compiled
from runs import random_run

import engine
from engine.data import manifest
from engine.training import checkpoint
from trt.program import Uint8Input

DOCS = Path(__file__).parents[1] / "docs" / "python.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("api")
    for number, (name, codec) in enumerate(
        (("clip.avi", "mpeg4"), ("b.mp4", "h264"), ("c.webm", "vp9"))
    ):
        videos.write_video(
            folder / name, codec=codec, frames=16, size=(96, 72), draw=videos.noise(number)
        )
    videos.write_video(
        folder / "film.mp4", codec="h264", frames=80, fps=20, size=(96, 72), draw=videos.noise(9)
    )
    (folder / "broken.mp4").write_bytes(b"no video")
    return folder


def test_every_public_name_is_there() -> None:
    for name in engine.__all__:
        assert getattr(engine, name) is not None
        assert name in dir(engine)
    assert re.fullmatch(r"\d+\.\d+\.\d+", engine.__version__)
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        engine.lod  # noqa: B018


def test_importing_it_imports_nothing_else() -> None:
    code = (
        "import sys, typing; old = set(sys.modules); import engine; print(*set(sys.modules) - old)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["engine"]


@pytest.mark.slow
def test_videos_are_labelled_in_their_order_and_bad_ones_say_why(run: Path, folder: Path) -> None:
    model = engine.load(run)
    names = ["broken.mp4", "clip.avi", "b.mp4", "none.mp4", "c.webm", "clip.avi", "broken.mp4"]
    ticks: list[int] = []
    found = model.predict(
        [str(folder / name) for name in names],
        top_k=2,
        batch_size=3,
        on_video=lambda: ticks.append(1),
    )
    assert [each.path for each in found] == [folder / name for name in names]
    assert len(ticks) == len(names)
    assert [bool(each.error) for each in found] == [True, False, False, True, False, False, True]
    assert "no such file" in found[3].error
    assert found[1] == found[5]
    for name, each in zip(names, found, strict=True):
        if each.error:
            assert (each.label, each.top) == ("", {})
            with pytest.raises(engine.VideoError, match=re.escape(each.error)):
                model.predict(folder / name)
            continue
        alone = model.predict(folder / name)
        assert each.label == alone.label == max(alone.top, key=lambda label: alone.top[label])
        assert each.top == pytest.approx(dict(list(alone.top.items())[:2]), abs=1e-5)
        assert sum(alone.top.values()) == pytest.approx(1, abs=1e-5)
        assert alone.confidence == alone.top[alone.label]
        assert (alone.start_s, alone.end_s) == (0, pytest.approx(16 / 30, abs=0.01))
        assert alone.duration_s == alone.end_s
    assert model.predict([]) == []


@pytest.mark.slow
def test_frames_in_memory_get_the_label_of_their_file(run: Path, folder: Path) -> None:
    model = engine.load(run)
    paths = [folder / "clip.avi", folder / "b.mp4"]
    frames = [engine.read_frames(path, range(16)) for path in paths]
    of_files = model.predict(paths)
    mixed: Any = [frames[0], paths[1], torch.from_numpy(frames[1]), paths[0]]
    found = model.predict(mixed, batch_size=2)
    for each, same in zip(found, [0, 1, 1, 0], strict=True):
        assert each.top == pytest.approx(of_files[same].top, abs=1e-4)
    assert [each.path for each in found] == [None, paths[1], None, paths[0]]
    assert model.predict(frames[0]).top == pytest.approx(of_files[0].top, abs=1e-4)
    for wrong in (frames[0].astype(np.float32), frames[0][0], np.zeros((0, 4, 4, 3), np.uint8)):
        with pytest.raises(TypeError, match=r"uint8 of shape \(T, H, W, 3\), not ndarray of"):
            model.predict(wrong)


@pytest.mark.slow
def test_windows_are_those_of_engine_label(
    run: Path, folder: Path, tmp_path: Path, run_engine: Any
) -> None:
    model = engine.load(run)
    found = list(model.predict_windows(folder / "film.mp4", window_s=1, stride_s=0.5))
    assert [(each.start_s, each.end_s) for each in found] == [
        (start / 2, start / 2 + 1) for start in range(7)
    ]
    (tmp_path / "films").mkdir()
    shutil.copy(folder / "film.mp4", tmp_path / "films")
    out = tmp_path / "labels.jsonl"
    told = run_engine(
        "label", tmp_path / "films", "--model", run, "--out", out, "--window", 1, "--stride", 0.5
    )
    assert told.returncode == 0, told.stderr
    mean = np.mean([[each.top[name] for name in model.class_names] for each in found], axis=0)
    best = model.class_names[int(mean.argmax())]
    row = json.loads(out.read_text())
    assert (row["label"], row["confidence"]) == (best, pytest.approx(mean.max(), abs=1e-4))
    with pytest.raises(engine.VideoError, match=r"broken\.mp4"):
        list(model.predict_windows(folder / "broken.mp4", window_s=1))


def test_models_are_listed_and_built() -> None:
    assert engine.list_models("*former*") == ["timesformer"]
    assert "cnn-lstm" in engine.list_models()
    model = engine.create_model("timesformer", preset="small", num_classes=5, depth=1)
    spec = engine.clip_spec("timesformer", "small")
    with torch.no_grad():
        logits = model(torch.zeros(2, spec.num_frames, 3, spec.crop, spec.crop))
    assert logits.shape == (2, 5)
    for arguments, words in (
        ({"name": "timesfomer"}, "did you mean 'timesformer'"),
        ({"name": "vivit", "preset": "smal"}, "did you mean 'small'"),
        ({"name": "vivit", "preset": "small", "pretrained": True}, "no published weights"),
        ({"name": "vivit", "preset": "small", "deep": 3}, "has no 'deep'"),
    ):
        with pytest.raises(engine.UserError, match=words):
            engine.create_model(num_classes=2, **arguments)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_loader_gives_each_clip_of_a_part_once(synth: Path, run_engine: Any) -> None:
    assert run_engine("data", "split", synth, "--scheme", "grouped").returncode == 0
    spec = engine.ClipSpec(num_frames=2, resize=32, crop=32)
    plain = engine.make_loader(synth, split="val", spec=spec, batch_size=4)
    first, second = ([batch.ids.tolist() for batch in plain] for _ in range(2))
    assert first == second
    varied = engine.make_loader(str(synth), split="val", spec=spec, batch_size=4, augment=True)
    orders = [[each for batch in varied for each in batch.ids.tolist()] for _ in range(2)]
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(each for batch in first for each in batch)
    with pytest.raises(engine.UserError, match="did you mean 'val'"):
        engine.make_loader(synth, split="vall")  # type: ignore[arg-type]


@pytest.mark.slow
def test_figures_are_those_of_the_report(synth: Path, tmp_path: Path, run_engine: Any) -> None:
    assert run_engine("data", "split", synth, "--scheme", "grouped").returncode == 0
    run = random_run(tmp_path / "run", manifest.load(synth).class_names)
    ticks: list[int] = []
    found = engine.evaluate(run, data=synth, views="2x1", on_clip=lambda: ticks.append(1))
    words = ("evaluate", run, "--data", synth, "--views", "2x1", "--out", tmp_path / "report")
    assert run_engine(*words).returncode == 0
    (told,) = json.loads((tmp_path / "report" / "report.json").read_text())
    assert found.scores["top1"] == told["video"]["top1"]
    assert found.scores["f1_macro"] == pytest.approx(told["video"]["f1_macro"])
    assert found.protocol.num_clips == len(ticks) == len(found.predictions.rows)
    with pytest.raises(engine.UserError, match="`views` takes CLIPSxCROPS"):
        engine.evaluate(run, data=synth, views="x")


@pytest.mark.slow
def test_a_training_is_that_of_the_command(synth: Path, tmp_path: Path, run_engine: Any) -> None:
    assert run_engine("data", "split", synth, "--scheme", "grouped").returncode == 0
    settings = {"epochs": 2, "batch_size": 4, "seed": 3}
    said: list[str] = []
    trained = engine.train(
        synth, tmp_path / "one", model="cnn-lstm", preset="small", size=32, num_frames=2,
        device="cpu", log=said.append, **settings,
    )  # fmt: skip
    flags = [word for name, each in settings.items() for word in (f"--{name}", each)]
    told = run_engine(
        "train", "--data", synth, "--out", tmp_path / "two", "--model", "cnn-lstm", "--preset",
        "small", "--size", 32, "--frames", 2, "--device", "cpu",
        *(str(word).replace("_", "-") for word in flags),
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    assert [line for line in said if line.startswith("epoch 2/2")]
    assert trained.finished
    assert [row["epoch"] for row in trained.history] == [1, 2]
    other = checkpoint.best_of(tmp_path / "two")
    assert trained.best is not None
    assert other is not None
    weights = [(each / "model.safetensors").read_bytes() for each in (trained.best, other)]
    assert weights[0] == weights[1]
    with pytest.raises(engine.UserError, match="already holds a run"):
        engine.train(synth, tmp_path / "one", model="cnn-lstm", preset="small")
    with pytest.raises(engine.UserError, match="epoch"):
        engine.train(synth, tmp_path / "three", model="cnn-lstm", preset="small", epoch=3)


@pytest.mark.slow
def test_an_artifact_predicts_what_its_run_does(
    synth: Path, tmp_path: Path, run_engine: Any
) -> None:
    assert run_engine("data", "split", synth, "--scheme", "grouped").returncode == 0
    run = random_run(tmp_path / "run", manifest.load(synth).class_names)
    said: list[str] = []
    settings: dict[str, Any] = {"data": synth, "cache": tmp_path / "cache", "num_clips": 8}
    config = engine.compile(run, tmp_path / "fast", log=said.append, **settings)
    assert config.parity["proved"]
    assert config.parity["agreement"] == 1
    assert said[0].startswith("backend ")
    videos = sorted((synth / "videos").rglob("*.avi"))[:3]
    fast, slow = engine.load(tmp_path / "fast"), engine.load(run)
    for one, other in zip(fast.predict(videos), slow.predict(videos), strict=True):
        assert one.top == pytest.approx(other.top, abs=1e-3)
    with pytest.raises(engine.UserError, match="fast"):
        engine.compile(run, tmp_path / "fast", **settings)
    with pytest.raises(engine.UserError, match="did you mean 'openvino'"):
        engine.compile(run, tmp_path / "other", backend="openvin", **settings)
    assert not (tmp_path / "other").exists()


def test_an_artifact_on_a_gpu_says_which_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch.device("cuda") has no index, and loaders take no index for the CPU."""
    import trt
    from dali_pipelines.spec import ClipSpec

    model = Uint8Input(Tiny(), mean=(0.5,) * 3, std=(0.5,) * 3).eval()
    folder = compiled(
        tmp_path / "a", model, torch.zeros(1, *SHAPE, dtype=torch.uint8), "eager",
        clip=ClipSpec(num_frames=4, resize=16, crop=16).to_dict(),
    )  # fmt: skip
    assert engine.load(folder).device == torch.device("cpu")

    def load_on_gpu(path: Path) -> trt.artifact.Artifact:
        opened = load(path)
        opened.on_gpu = True
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        return opened

    load = trt.load
    monkeypatch.setattr(trt, "load", load_on_gpu)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    assert engine.load(folder).device.index == 3


@pytest.mark.slow
def test_the_documents_code_runs(
    folder: Path, synth: Path, tmp_path: Path, run_engine: Any
) -> None:
    assert run_engine("data", "split", synth, "--scheme", "grouped").returncode == 0
    for path in folder.iterdir():
        shutil.copy(path, tmp_path)
    (tmp_path / "my_videos").symlink_to(synth)
    folded = shutil.copytree(synth, tmp_path / "folded")
    folds = ("--scheme", "grouped", "--folds", 3)
    assert run_engine("data", "split", folded, *folds).returncode == 0
    random_run(tmp_path / "run", manifest.load(synth).class_names)
    blocks = re.findall(r"```python\n(.+?)```", DOCS.read_text(), re.DOTALL)
    assert len(blocks) >= 5
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks)],
        cwd=tmp_path, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(DOCS.parents[1])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "torch.Size([4, 8])" in done.stdout
    assert "broken.mp4 " in done.stdout


def test_all_errors_have_one_base(tmp_path: Path) -> None:
    with pytest.raises(engine.EngineError, match="nowhere"):
        engine.load(tmp_path / "nowhere")
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(engine.EngineError, match=r"broken\.mp4"):
        engine.read_frames(tmp_path / "broken.mp4", [0])
    (tmp_path / "artifact").mkdir()
    (tmp_path / "artifact/config.json").write_text('{"backend": "eager"}')
    with pytest.raises(engine.UserError, match="artifact"):
        engine.load(tmp_path / "artifact")
    with pytest.raises(engine.UserError, match="unknown precision"):
        engine.compile(tmp_path, tmp_path / "out", precision="fp3")  # type: ignore[arg-type]


def test_a_library_draws_no_progress_bars() -> None:
    """On a terminal, too: they come with enable_progress_bars."""
    code = """
import io, sys
class Terminal(io.StringIO):
    def isatty(self): return True
import engine
from engine.progress import progress_bar
drawn = []
for enable in (lambda: None, engine.enable_progress_bars):
    enable()
    sys.stderr = Terminal()
    with progress_bar("Testing", total=1, unit="clips") as advance:
        advance()
    drawn.append("Testing" in sys.stderr.getvalue())
print(drawn)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[False, True]", result.stderr
