"""`engine compile --fast-decode`: admitted where labels stay, refused where they change."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import videos
from runs import random_run
from safetensors.torch import load_file, save_file

import engine
from dali_pipelines.decode import clip_file
from dali_pipelines.spec import ClipSpec
from engine.data import manifest
from engine.data.manifest import Clip, Manifest
from engine.errors import RefusedError, UserError
from engine.training.recipe import Recipe
from trt.config import ArtifactConfig

NAMES = ["fall", "run", "wave"]
CLIP = ClipSpec(num_frames=4, resize=64, crop=64)
NUM_CLIPS = 8


def dataset(root: Path, *codecs: str) -> Path:
    """Held-out clips, of each codec in turn."""
    clips = []
    for number in range(NUM_CLIPS):
        codec = codecs[number % len(codecs)]
        root.mkdir(exist_ok=True)
        path = videos.write_video(
            root / f"clip{number}", codec=codec, frames=16, size=(160, 128),
            draw=videos.moving(number),
        )  # fmt: skip
        facts = clip_file.probe(path)
        clips.append(
            Clip(
                path=path.name, label=NAMES[number % 3], source=str(number), split="test",
                frames=facts.frames, fps=facts.fps, width=facts.width, height=facts.height,
                codec=facts.codec,
            )
        )  # fmt: skip
    Manifest(root=root, clips=tuple(clips)).save()
    return root


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return random_run(tmp_path / "run", NAMES, "cnn-lstm", clip=CLIP)


@pytest.fixture
def compile_(run: Path, tmp_path: Path) -> Any:
    def compile_(data: Path, **settings: Any) -> ArtifactConfig:
        return engine.compile(
            engine_checkpoint(run), tmp_path / "fast", backend="eager", data=data,
            cache=tmp_path / "cache", fast_decode=True, **settings,
        )  # fmt: skip

    return compile_


def engine_checkpoint(run: Path) -> Path:
    return next((run / "checkpoints").iterdir())


def logits(run: Path, data: Path, fast_decode: tuple[Any, ...]) -> torch.Tensor:
    """Of the run, for all clips in order."""
    spec = ClipSpec(num_frames=4, resize=64, crop=64, fast_decode=fast_decode)
    loader = engine.make_loader(data, spec=spec, values="uint8", loader="dali")
    predictor = engine.load(run)
    return torch.cat([predictor(batch.clips) for batch in loader])


def move_boundary(run: Path, data: Path, codec: str) -> None:
    """Shift the biases so that fast decoding changes the label of the clip that moves the most."""
    exact, fast = (logits(run, data, codecs)[:, 0] - logits(run, data, codecs)[:, 1]
                   for codecs in ((), (codec,)))  # fmt: skip
    clip = int((exact - fast).abs().argmax())
    assert exact[clip] != fast[clip]
    path = engine_checkpoint(run) / "model.safetensors"
    weights = load_file(path)
    weights["head.bias"][0] -= (exact[clip] + fast[clip]) / 2
    weights["head.bias"][2] -= 1e4
    save_file(weights, path)


@pytest.mark.slow
def test_labels_that_stay_admit_the_codecs_of_the_clips(compile_: Any, tmp_path: Path) -> None:
    data = dataset(tmp_path / "set", "h264", "mjpeg", "mpeg4")
    config = compile_(data, accept_drift=100)
    assert config.clip["fast_decode"] == ["h264", "mjpeg"]
    results = config.parity["fast_decode"]
    assert {codec: each["num_clips"] for codec, each in results.items()} == {"h264": 3, "mjpeg": 3}
    assert all(each["passed"] and 0 <= each["agreement"] <= 1 for each in results.values())
    stored = json.loads((tmp_path / "fast" / "config.json").read_text())
    assert stored["parity"]["fast_decode"] == results

    predictor = engine.load(tmp_path / "fast")
    assert predictor.clip.fast_decode == ("h264", "mjpeg")
    paths = [data / clip.path for clip in manifest.load(data).clips]
    found = predictor.predict(paths)
    fast = logits(tmp_path / "run", data, ("h264", "mjpeg")).softmax(dim=1)
    exact = logits(tmp_path / "run", data, ()).softmax(dim=1)
    confidences = [prediction.confidence for prediction in found]
    np.testing.assert_allclose(confidences, fast.amax(dim=1), atol=1e-4)
    assert not np.allclose(confidences, exact.amax(dim=1), atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["h264", "mjpeg"])
def test_a_label_that_changes_refuses_the_artifact(
    codec: str, run: Path, compile_: Any, tmp_path: Path
) -> None:
    data = dataset(tmp_path / "set", codec)
    move_boundary(run, data, codec)
    words = rf"when {codec} videos are decoded fast, .* of 8 clips get the same label"
    with pytest.raises(RefusedError, match=words):
        compile_(data)
    assert not (tmp_path / "fast").exists()
    config = compile_(data, accept_drift=90)
    assert config.parity["fast_decode"][codec]["agreement"] < 1
    assert config.parity["agreement"] == 1


def test_clips_that_decode_the_same_prove_nothing(compile_: Any, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="none of the held-out clips decodes differently"):
        compile_(dataset(tmp_path / "set", "mpeg4"))
    assert not (tmp_path / "fast").exists()


@pytest.mark.slow
def test_an_artifact_is_exact_unless_asked(run: Path, tmp_path: Path) -> None:
    """Its config is the one of earlier versions, so both versions read it."""
    data = dataset(tmp_path / "set", "h264")
    config = engine.compile(
        engine_checkpoint(run), tmp_path / "exact", backend="eager", data=data,
        cache=tmp_path / "cache",
    )  # fmt: skip
    assert "fast_decode" not in config.clip
    assert "fast_decode" not in config.parity
    assert engine.load(tmp_path / "exact").clip == CLIP


def test_training_takes_no_such_setting() -> None:
    with pytest.raises(UserError, match="unknown setting 'fast_decode'"):
        Recipe.resolve({"model": "cnn-lstm", "fast_decode": ["h264"]})
    assert "fast_decode" not in Recipe.resolve({"model": "cnn-lstm"}).flat()


@pytest.mark.slow
def test_the_command_prints_the_result(run: Path, run_engine: Any, tmp_path: Path) -> None:
    data = dataset(tmp_path / "set", "h264")
    made = run_engine(
        "compile", engine_checkpoint(run), "--data", data, "--backend", "eager", "--fast-decode",
        "--accept-drift", 90, "--out", tmp_path / "fast", "--cache", tmp_path / "cache",
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    words = r"h264 is decoded fast: [\d.]+% of 8 clips get the same label as decoded exactly; top-1"
    assert re.search(words, made.stdout)
    refused = run_engine(
        "compile", engine_checkpoint(run), "--data", dataset(tmp_path / "old", "mpeg4"),
        "--backend", "eager", "--fast-decode", "--out", tmp_path / "none",
    )  # fmt: skip
    assert refused.returncode == 3
    assert "Leave out --fast-decode" in refused.stderr
