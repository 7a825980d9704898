"""Sliding windows: right times, right frames, each frame decoded once, memory bounded."""

import gc
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
import videos
from odd_videos import FILES, ORDER_UNKNOWN, UNEVEN
from PIL import Image
from rows import SMALL, write_frames

from dali_pipelines.decode import clip_file, frame_folder, indexed_video, pixels
from dali_pipelines.errors import LoaderError, SpecError
from dali_pipelines.loaders import windows
from dali_pipelines.loaders.window_loader import WindowLoader
from dali_pipelines.loaders.windows import Window, plan_windows, read_windows
from dali_pipelines.spec import ClipSpec

NEEDS_DECODING = {*ORDER_UNKNOWN, "interlaced"}
"""Kinds of files whose frames have to be counted first."""


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight seconds, 200 numbered frames."""
    folder = tmp_path_factory.mktemp("long")
    return videos.write_video(folder / "long.mp4", codec="h264", frames=200, fps=25)


def spans(planned: list[Window]) -> list[tuple[float, float, int, int]]:
    return [(each.start_s, each.end_s, each.first, each.frames) for each in planned]


def numbers_of(path: Path, spec: ClipSpec, planned: list[Window]) -> list[list[int]]:
    return [
        [videos.number_of(frame) for frame in found.frames] for found in read_windows(planned, spec)
    ]


def test_windows_cover_the_video_and_the_last_ends_with_it(video: Path) -> None:
    assert spans(plan_windows(video, window_s=2)) == [
        (0, 2, 0, 50), (2, 4, 50, 50), (4, 6, 100, 50), (6, 8, 150, 50),
    ]  # fmt: skip
    assert spans(plan_windows(video, window_s=3)) == [
        (0, 3, 0, 75), (3, 6, 75, 75), (5, 8, 125, 75),
    ]  # fmt: skip
    assert spans(plan_windows(video, window_s=4, stride_s=2)) == [
        (0, 4, 0, 100), (2, 6, 50, 100), (4, 8, 100, 100),
    ]  # fmt: skip
    whole = [(0.0, 8.0, 0, 200)]
    assert spans(plan_windows(video, window_s=None)) == whole
    assert spans(plan_windows(video, window_s=8)) == whole
    assert spans(plan_windows(video, window_s=100)) == whole


def test_windows_of_variable_rate_go_by_the_clock(tmp_path: Path) -> None:
    path = videos.write_video(tmp_path / "vfr.mp4", codec="h264", frames=60, pts=UNEVEN)
    times = (np.array(UNEVEN) - UNEVEN[0]) / 1000
    for window in plan_windows(path, window_s=0.5, stride_s=0.25):
        inside = times[window.first : window.first + window.frames]
        assert inside[0] >= window.start_s - 0.1
        assert inside[-1] <= window.end_s


def test_a_window_without_frames_of_its_own_has_the_one_that_is_shown(tmp_path: Path) -> None:
    """Two seconds of motion, 28 without a frame, two seconds of motion."""
    motion = [40 * number for number in range(50)]
    pts = motion + [30_000 + time for time in motion]
    path = videos.write_video(tmp_path / "gap.mp4", codec="h264", frames=100, pts=pts)
    planned = plan_windows(path, window_s=2)
    assert spans(planned)[:2] == [(0, 2, 0, 50), (2, 4, 49, 1)]
    assert spans(planned)[-2] == (28, 30, 49, 1)
    assert spans(planned)[-1] == (30, pytest.approx(32, abs=0.01), 50, 50)
    spec = ClipSpec(num_frames=4, resize=72, crop=64)
    assert set(map(tuple, numbers_of(path, spec, planned[1:-1]))) == {(49,) * 4}


def test_the_last_frame_lasts_as_long_as_the_file_says(tmp_path: Path) -> None:
    """One picture, and an animation whose pictures last differently."""
    (one,) = plan_windows(videos.write_video(tmp_path / "one.avi", frames=1, fps=10), window_s=None)
    assert (one.end_s, one.frames) == (0.1, 1)
    images = [Image.new("RGB", (64, 48), (60 * number, 0, 0)) for number in range(3)]
    path = tmp_path / "three.gif"
    images[0].save(path, save_all=True, append_images=images[1:], duration=[200, 200, 2000])
    (whole,) = plan_windows(path, window_s=None)
    assert (whole.end_s, whole.frames) == (2.4, 3)


def test_a_file_that_check_calls_bad_gets_no_window_as_a_whole(tmp_path: Path) -> None:
    cut = videos.write_packed(tmp_path / "cut", frames=100, draw=videos.noisy)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    damaged = videos.write_packed(tmp_path / "damaged", frames=60, draw=videos.noisy)
    videos.damage(damaged, 10, 20)
    sound = videos.write_packed(tmp_path / "sound", frames=60)
    assert [clip_file.check(path).status for path in (cut, damaged, sound)] == ["bad", "bad", "ok"]
    loader = WindowLoader([cut, damaged, sound], SMALL)
    assert [window.path for batch in loader for window in batch.windows] == [sound]
    assert loader.report.failures[cut].startswith("cut short: ")
    assert "of the 4 frames that are wanted don't decode" in loader.report.failures[damaged]
    assert not loader.report.describe_damage()


def test_of_a_film_with_faults_the_rest_is_read_and_the_faults_are_told(tmp_path: Path) -> None:
    path = videos.write_packed(tmp_path / "film", frames=200, gop=50, draw=videos.noisy)
    videos.damage(path, 60, 70)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
    loader = WindowLoader([path], SMALL, window_s=1)
    windows = [window for batch in loader for window in batch.windows]
    assert len(windows) >= 4
    assert not loader.report.failures
    assert loader.report.damaged_frames[path] > 2
    told = loader.report.describe_damage()
    assert "damaged frames of 1 files were used" in told
    assert "1 files are incomplete" in told
    assert "cut short: " in told


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize(("window_s", "stride_s"), [(2, 0.5), (1, 3), (0.4, 0.2)])
def test_windows_hold_the_frames_that_each_alone_would(
    window_s: float,
    stride_s: float,
    in_memory: bool,
    video: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not in_memory:
        monkeypatch.setattr(indexed_video, "KEEP_BELOW", 0)
    spec = ClipSpec(num_frames=6, sampling="uniform", stride=4, resize=72, crop=64)
    planned = plan_windows(video, window_s=window_s, stride_s=stride_s)
    together = numbers_of(video, spec, planned)
    assert together == [numbers_of(video, spec, [window])[0] for window in planned]
    assert all(
        window.first <= min(numbers) <= max(numbers) < window.first + window.frames
        for window, numbers in zip(planned, together, strict=True)
    )


def test_each_frame_is_decoded_once_and_dropped_when_done(
    video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each frame is in eight windows here."""
    converted: list[int] = []

    def convert(frame: Any) -> Any:
        rgb = real(frame)
        converted.append(videos.number_of(rgb))
        return rgb

    real = pixels.to_pixels
    monkeypatch.setattr(pixels, "to_pixels", convert)
    spec = ClipSpec(num_frames=50, resize=72, crop=64)
    planned = plan_windows(video, window_s=2, stride_s=0.25)
    for place, found in enumerate(read_windows(planned, spec)):
        assert len(found.frames) == 50
        assert len(converted) <= planned[place].first + 51  # nothing is read far ahead
    assert converted == list(range(200))


def test_several_files_in_order_in_full_batches(video: Path, tmp_path: Path) -> None:
    short = videos.write_video(tmp_path / "short", frames=30)
    broken = tmp_path / "broken.avi"
    broken.write_bytes(b"no video" * 100)
    folder = write_frames(tmp_path / "frames", ".jpg", count=100)
    paths = [short, video, broken, tmp_path / "missing.mp4", folder]
    loader = WindowLoader(iter(paths), SMALL, window_s=2, stride_s=1, batch_size=4)
    batches = list(loader)
    assert [len(batch.windows) for batch in batches] == [4, 4, 3]
    found = [(window.path, window.start_s) for batch in batches for window in batch.windows]
    assert found == [(short, 0)] + [(video, n) for n in range(7)] + [(folder, n) for n in range(3)]
    assert set(loader.report.failures) == {broken, tmp_path / "missing.mp4"}
    again = list(WindowLoader(paths, SMALL, window_s=2, stride_s=1, batch_size=4, num_threads=1))
    for one, other in zip(batches, again, strict=True):
        assert torch.equal(one.clips, other.clips)


def test_a_file_cut_short_gives_what_it_has(video: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.avi"
    videos.write_video(path, frames=200, fps=25)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    batches = list(WindowLoader([path, video], SMALL, window_s=1))
    found = [window for batch in batches for window in batch.windows]
    assert [window.path for window in found].count(video) == 8
    assert [window.path for window in found].count(path) >= 3


def test_leaving_early_and_breaking_down_leave_nothing_behind(video: Path) -> None:
    for _ in WindowLoader([video] * 5, SMALL, window_s=1, batch_size=1):
        break
    gc.collect()
    assert not [t for t in threading.enumerate() if t.name.startswith(("decode", "ahead"))]

    def paths() -> Any:
        yield video
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(WindowLoader(paths(), SMALL, window_s=1))
    assert not [t for t in threading.enumerate() if t.name.startswith(("decode", "ahead"))]


def test_leaving_early_looks_at_no_further_file(video: Path) -> None:
    asked = []

    def paths() -> Iterator[Path]:
        for number in range(1000):
            asked.append(number)
            yield video

    loader = WindowLoader(paths(), SMALL, batch_size=1, num_threads=2)
    with closing(loader.batches()) as batches:
        next(batches)
    assert len(asked) < 50
    assert not [each for each in threading.enumerate() if each.name == "decode"]


def test_an_unexpected_fault_names_the_file(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dali_pipelines.loaders import window_loader

    def fail(*arguments: Any, **options: Any) -> Any:
        raise MemoryError("no room")

    monkeypatch.setattr(window_loader, "windows_of", fail)
    with pytest.raises(LoaderError, match=r"long\.mp4: .*no room"):
        list(WindowLoader([video], SMALL, num_threads=1))


def test_a_folder_of_frames_is_listed_once_to_plan_and_once_to_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_frames(tmp_path / "frames", ".jpg", count=100)
    listed: list[Path] = []
    list_files = frame_folder.frame_files

    def counting(path: Path) -> list[Path]:
        listed.append(path)
        return list_files(path)

    monkeypatch.setattr(frame_folder, "frame_files", counting)
    planned = plan_windows(folder, window_s=1, stride_s=0.5)
    assert [len(each.frames) for each in read_windows(planned, SMALL)] == [SMALL.num_frames] * 7
    assert listed == [folder, folder]


@pytest.mark.parametrize("bad", [0, -1, float("nan"), float("inf")])
def test_senseless_windows_are_refused(bad: float, video: Path) -> None:
    with pytest.raises(SpecError, match="above 0 seconds"):
        plan_windows(video, window_s=bad)
    with pytest.raises(SpecError, match="above 0 seconds"):
        plan_windows(video, window_s=2, stride_s=bad)


@pytest.mark.parametrize("kind", FILES)
def test_a_file_is_opened_once(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = FILES[kind](tmp_path)
    expected = list(read_windows(plan_windows(path, window_s=0.5), SMALL))
    num_opened = 0
    av_open = av.open

    def counting(*arguments: Any, **settings: Any) -> Any:
        nonlocal num_opened
        num_opened += 1
        return av_open(*arguments, **settings)

    monkeypatch.setattr(av, "open", counting)
    found = list(windows.windows_of(path, SMALL, 0.5, None, 1))
    assert num_opened == 1 or kind in NEEDS_DECODING
    for one, other in zip(found, expected[1:], strict=True):
        assert one.window == other.window
        np.testing.assert_array_equal(one.frames, other.frames)
