"""NVDEC or PyAV: measured, kept, and told. Without a GPU, DALI's CPU decoder stands for NVDEC."""

from pathlib import Path
from typing import Any

import pytest
import torch
from videos import numbered, write_video

from dali_pipelines.loaders.window_loader import WindowLoader
from dali_pipelines.spec import ClipSpec
from engine.errors import RefusedError
from engine.labelling import decoder_choice
from engine.labelling.journal import Journal

SPEC = ClipSpec(num_frames=4, resize=72, crop=64)


def folder(root: Path) -> list[Path]:
    paths = [
        write_video(root / f"{codec}{number}", codec=codec, frames=40, draw=numbered)
        for codec in ("vp9", "h264")
        for number in range(3)
    ]
    damaged = root / "damaged.webm"
    damaged.write_bytes(b"no video")
    return [*paths, damaged]


def test_each_kind_is_measured(tmp_path: Path) -> None:
    rates = decoder_choice.measure(folder(tmp_path), SPEC, gpu=None, window_s=0.5)
    assert rates.keys() == {"vp9 yuv420p below 512"}  # DALI decodes no H.264 on a CPU
    assert all(rate > 0 for pair in rates.values() for rate in pair)


@pytest.mark.gpu
def test_each_kind_is_measured_on_a_gpu(tmp_path: Path) -> None:
    path = write_video(tmp_path / "video", codec="h264", frames=40, size=(320, 240), draw=numbered)
    rates = decoder_choice.measure([path], SPEC, gpu=0, window_s=0.5)
    assert all(rate > 0 for rate in rates["h264 yuv420p below 512"])


def test_the_faster_one_is_chosen_and_both_rates_are_told() -> None:
    rates = {"h264 yuv420p below 1024": (300.0, 100.0), "mpeg4 yuv420p below 512": (105.0, 100.0)}
    assert decoder_choice.faster_kinds(rates) == ["h264 yuv420p below 1024"]
    assert decoder_choice.describe(rates) == [
        "h264 yuv420p below 1024: NVDEC (NVDEC 300 windows/s, PyAV 100)",
        "mpeg4 yuv420p below 512: PyAV (NVDEC 105 windows/s, PyAV 100)",
    ]


def test_a_choice_is_what_the_loader_does(tmp_path: Path) -> None:
    paths = folder(tmp_path)
    for decoder, expected in (
        ("pyav", {"PyAV": 6}),
        ("nvdec", {"PyAV": 3, "DALI's video decoder": 3}),
        (["vp9 yuv420p below 512"], {"PyAV": 3, "DALI's video decoder": 3}),
        (["vp8 yuv420p below 512"], {"PyAV": 6}),
        ([], {"PyAV": 6}),
    ):
        videos = decoder_choice.videos_of(decoder, for_gpu=False)
        loader = WindowLoader(paths, SPEC, videos=videos)
        windows = [window for batch in loader for window in batch.windows]
        assert [window.path for window in windows] == paths[:6]
        assert loader.report.read_by == expected


@pytest.mark.skipif(torch.cuda.is_available(), reason="here is a GPU")
def test_nvdec_needs_a_gpu() -> None:
    decoder_choice.require_gpu(0)
    with pytest.raises(RefusedError, match="NVIDIA GPU"):
        decoder_choice.require_gpu(None)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="here is a GPU")
def test_the_choice_is_kept(run: Path, tmp_path: Path, run_engine: Any) -> None:
    clips, out = tmp_path / "clips", tmp_path / "labels.csv"
    clips.mkdir()
    write_video(clips / "a", codec="h264", frames=20, draw=numbered)

    def label(decoder: str) -> Any:
        return run_engine("label", clips, "--model", run, "--out", out, "--decoder", decoder)

    refused = label("nvdec")
    assert refused.returncode == 3
    assert "--decoder nvdec needs a model that runs on an NVIDIA GPU" in refused.stderr
    assert not out.exists()
    assert "did you mean 'nvdec'" in label("nvdc").stderr
    assert label("auto").returncode == 0
    (path,) = out.parent.glob("*journal*")
    with Journal(path) as journal:
        assert journal.facts()["decoder"] == "pyav"
    other = label("nvdec")
    assert other.returncode == 2
    assert "made with decoder pyav, not nvdec" in other.stderr
    assert label("auto").returncode == 0
