"""Windows whose frames DALI decodes from parts are those that PyAV gives."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from odd_videos import FILES
from videos import numbered, write_video

from dali_pipelines.loaders.loader_config import LoaderReport
from dali_pipelines.loaders.video_choice import VideoChoice
from dali_pipelines.loaders.window_loader import WindowLoader
from dali_pipelines.loaders.window_parts import MIN_FRAMES, read_parts
from dali_pipelines.loaders.windows import Window, WindowRange, plan_windows
from dali_pipelines.spec import ClipSpec

SPEC = ClipSpec(num_frames=4, resize=72, crop=64)
SAME_FRAME = 6.0
WINDOWS = [(None, None), (1.0, 1.0), (0.8, 0.3)]


def read(
    paths: list[Any], videos: VideoChoice | None, *, gpu: int | None = None, **options: object
) -> tuple[dict[tuple[Path, int], torch.Tensor], list[Window], LoaderReport]:
    loader = WindowLoader(
        paths, SPEC, batch_size=3, values="uint8", videos=videos, gpu=gpu, **options
    )
    clips, windows = {}, []
    for batch in loader:
        windows += batch.windows
        for window, clip in zip(batch.windows, batch.clips, strict=True):
            clips[window.path, window.number] = clip.float().cpu()
    return clips, windows, loader.report


def assert_same_windows(paths: list[Any], videos: VideoChoice, **options: object) -> LoaderReport:
    gpu = options.pop("gpu", None)
    found, windows, report = read(paths, videos, gpu=gpu, **options)
    expected, windows_by_pyav, _ = read(paths, None, **options)
    assert windows == windows_by_pyav
    for key, clip in expected.items():
        difference_T = (clip - found[key]).abs().mean(dim=(1, 2, 3))
        assert difference_T.max() < SAME_FRAME, key
    return report


@pytest.mark.parametrize(("window_s", "stride_s"), WINDOWS)
def test_dali_gives_the_same_windows(
    window_s: float | None, stride_s: float | None, tmp_path: Path
) -> None:
    long = write_video(tmp_path / "long", codec="vp9", frames=130, draw=numbered)
    paths = [long, *(FILES[name](tmp_path) for name in ("vp8", "hidden VP8 frames", "h264"))]
    report = assert_same_windows(
        paths, VideoChoice(for_gpu=False), window_s=window_s, stride_s=stride_s
    )
    assert report.read_by.keys() == {"DALI's video decoder", "PyAV"}
    assert not report.refused
    assert not report.failures


@pytest.mark.gpu
@pytest.mark.parametrize(("window_s", "stride_s"), WINDOWS)
def test_a_gpu_gives_the_same_windows(
    window_s: float | None, stride_s: float | None, tmp_path: Path
) -> None:
    long = write_video(tmp_path / "long", codec="h264", frames=130, size=(320, 240), draw=numbered)
    paths = [long, *(write(tmp_path) for write in FILES.values())]
    report = assert_same_windows(
        paths, VideoChoice(for_gpu=True), window_s=window_s, stride_s=stride_s, gpu=0
    )
    assert report.read_by["DALI's video decoder"]


def test_each_frame_is_in_one_part(tmp_path: Path) -> None:
    path = write_video(tmp_path / "video", codec="mjpeg", frames=150, draw=numbered, gop=10)
    windows = plan_windows(path, window_s=1.0, stride_s=0.4)
    parts = [part for window in read_parts(windows, SPEC, for_gpu=False) for part in window.parts]
    numbers = [number for part in parts for number in part.numbers]
    assert len(parts) > 1
    assert numbers == sorted(set(numbers))
    assert all(len(part.numbers) >= MIN_FRAMES for part in parts[:-1])


def test_windows_that_are_known_are_left_out(tmp_path: Path) -> None:
    path = write_video(tmp_path / "video", codec="vp9", frames=100, draw=numbered)
    report = assert_same_windows(
        [WindowRange(path, 3)], VideoChoice(for_gpu=False), window_s=1.0, stride_s=0.5
    )
    assert report.read_by.keys() == {"DALI's video decoder"}


def test_overlapping_windows_in_ranges_are_those_of_one_reading(tmp_path: Path) -> None:
    path = write_video(tmp_path / "video", codec="vp9", frames=130, draw=numbered)
    settings = {"window_s": 1.0, "stride_s": 0.3}
    expected, windows, _ = read([path], VideoChoice(for_gpu=False), **settings)
    ranges = [WindowRange(path, 0, 4), WindowRange(path, 4, 9), WindowRange(path, 9, 99)]
    found, windows_of_ranges, report = read(ranges, VideoChoice(for_gpu=False), **settings)
    assert windows_of_ranges == windows
    assert report.read_by.keys() == {"DALI's video decoder"}
    for key, clip in expected.items():
        assert torch.equal(found[key], clip), key


def test_a_file_may_be_listed_more_than_once(tmp_path: Path) -> None:
    path = write_video(tmp_path / "video", codec="vp9", frames=60, draw=numbered)
    _, windows, report = read([path] * 4, VideoChoice(for_gpu=False), window_s=1.0)
    assert [window.number for window in windows] == [0, 1] * 4
    assert report.read_by.keys() == {"DALI's video decoder"}


def test_pyav_reads_what_dali_rejects(tmp_path: Path) -> None:
    """DALI's decoder for CPUs rejects H.264, which the choice for a GPU offers it."""
    paths = [
        write_video(tmp_path / f"video{n}", codec="h264", frames=60, draw=numbered)
        for n in range(9)
    ]
    paths.append(write_video(tmp_path / "right", codec="vp9", frames=60, draw=numbered))
    report = assert_same_windows(paths, VideoChoice(for_gpu=True), window_s=1.0)
    assert set(report.refused) < set(paths[:9])  # after two, others aren't offered
    assert all(report.refused.values())
    assert report.read_by == {"PyAV": 9 * 2, "DALI's video decoder": 2}


def test_an_incomplete_file_is_rejected_as_by_pyav(tmp_path: Path) -> None:
    path = write_video(tmp_path / "video", codec="mjpeg", frames=100, draw=numbered)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    _, _, by_dali = read([path], VideoChoice(for_gpu=False))
    _, _, by_pyav = read([path], None)
    assert by_dali.failures == by_pyav.failures
    assert path in by_dali.failures


def test_a_choice_can_be_limited_to_kinds(tmp_path: Path) -> None:
    vp8, vp9 = (
        write_video(tmp_path / codec, codec=codec, frames=10, size=(160, 120), draw=numbered)
        for codec in ("vp8", "vp9")
    )
    videos = VideoChoice(for_gpu=False, kinds={"vp9 yuv420p below 512"})
    assert [videos.takes(path) for path in (vp8, vp9)] == [False, True]
    videos.refuse(vp9)
    assert not videos.takes(vp9)
    assert np.all([VideoChoice(for_gpu=False).takes(path) for path in (vp8, vp9)])
