"""engine.read_frames: what is asked for is what is given, or an error says why not."""

from pathlib import Path

import numpy as np
import pytest
import videos
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_videos import FILES
from rows import write_frames

import engine
from dali_pipelines.errors import VideoError

KINDS = ["packed, two B-frames in a row", "hevc", "variable rate", "no time stamps", "turned"]


@pytest.fixture(scope="module", params=KINDS)
def clip(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, np.ndarray]:
    path = FILES[request.param](tmp_path_factory.mktemp("clip"))
    return path, np.stack(videos.every_frame(path))


@settings(max_examples=20, derandomize=True)
@given(st.lists(st.integers(0, 59), max_size=12))
def test_any_frames_in_any_order(clip: tuple[Path, np.ndarray], numbers: list[int]) -> None:
    path, every = clip
    found = engine.read_frames(path, numbers)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, every[np.array(numbers, int)])


def test_paths_may_be_text_and_numbers_arrays(tmp_path: Path) -> None:
    path = videos.write_packed(tmp_path / "clip", size=(340, 256))
    found = engine.read_frames(str(path), np.array([29, 0], np.int32))
    assert found.shape == (2, 256, 340, 3)
    assert [videos.number_of(frame) for frame in found] == [29, 0]


@pytest.mark.parametrize("numbers", [[30], [3, 99], [-1]])
def test_a_frame_that_is_not_there_is_an_index_error(numbers: list[int], tmp_path: Path) -> None:
    path = videos.write_packed(tmp_path / "clip", frames=30)
    with pytest.raises(IndexError, match=rf"clip\.avi has 30 frames, 0 to 29; .* {numbers[-1]}$"):
        engine.read_frames(path, numbers)
    folder = write_frames(tmp_path / "frames", ".png", count=5)
    with pytest.raises(IndexError, match=r"frames has 5 frames, 0 to 4"):
        engine.read_frames(folder, [1, 5])


def test_numbers_are_whole(tmp_path: Path) -> None:
    path = videos.write_packed(tmp_path / "clip")
    with pytest.raises(TypeError, match="list of integers"):
        engine.read_frames(path, [1.5])  # type: ignore[list-item]


def test_a_damaged_frame_is_an_error_and_others_are_not(tmp_path: Path) -> None:
    path = videos.write_packed(tmp_path / "clip", frames=60, gop=15, draw=videos.noisy)
    every = videos.every_frame(path)
    videos.damage(path, 18, 24)
    np.testing.assert_array_equal(engine.read_frames(path, [2, 50]), [every[2], every[50]])
    with pytest.raises(VideoError, match=r"clip\.avi: frame \d+ is damaged"):
        engine.read_frames(path, [2, 25, 50])


def test_names_of_the_package_are_listed_and_others_refused() -> None:
    assert "read_frames" in dir(engine)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = engine.nonsense
