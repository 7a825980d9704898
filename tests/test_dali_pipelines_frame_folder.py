"""Folders of extracted frames: order, gaps, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import videos
from folders import save

from dali_pipelines.decode import clip_file
from dali_pipelines.decode.frame_folder import frame_files
from dali_pipelines.errors import VideoError


def test_order_is_by_number_whatever_the_digits_and_gaps(tmp_path: Path) -> None:
    names = ["frame_2.jpg", "frame_0010.jpg", "frame_9.jpeg", "frame_100.png", "frame_001.JPG"]
    for index, name in enumerate(names):
        save(tmp_path / "clip", name, index)
    ordered = [path.name for path in frame_files(tmp_path / "clip")]
    assert ordered == [
        "frame_001.JPG",
        "frame_2.jpg",
        "frame_9.jpeg",
        "frame_0010.jpg",
        "frame_100.png",
    ]
    frames = clip_file.read_frames(tmp_path / "clip", np.array([0, 3]))
    assert [videos.number_of(frame) for frame in frames] == [4, 1]


def test_facts_and_health(tmp_path: Path) -> None:
    for index in range(5):
        save(tmp_path / "clip", f"{index:04d}.png", index)
    save(tmp_path / "clip", "cover.png")  # no number: not a frame
    facts = clip_file.probe(tmp_path / "clip")
    assert (facts.codec, facts.frames, facts.width, facts.height, facts.fps) == (
        "png",
        5,
        64,
        48,
        0,
    )
    health = clip_file.check(tmp_path / "clip")
    assert health.status == "ok"
    assert health.loaders == ("dali-gpu", "dali-cpu", "torch")


def test_small_grey_frames(tmp_path: Path) -> None:
    save(tmp_path / "clip", "1.jpg", 5)
    frames = clip_file.read_frames(tmp_path / "clip", np.array([0]), size=(32, 16), gray=True)
    assert frames.shape == (1, 16, 32)
    assert videos.number_of(frames[0]) == 5


def test_a_damaged_frame_is_named(tmp_path: Path) -> None:
    for index in range(10):
        save(tmp_path / "clip", f"f{index}.jpg", index)
    for index in (3, 4):
        file = tmp_path / "clip" / f"f{index}.jpg"
        file.write_bytes(file.read_bytes()[:200])
    health = clip_file.check(tmp_path / "clip")
    assert health.status == "bad"
    assert "f3.jpg doesn't decode" in health.reason
    with pytest.raises(VideoError, match=r"f4\.jpg"):
        clip_file.read_frames(tmp_path / "clip", np.array([4]))


def test_sizes_that_change_are_damage(tmp_path: Path) -> None:
    for index in range(30):
        save(tmp_path / "clip", f"f{index}.jpg", index, (64, 48) if index != 2 else (80, 48))
    health = clip_file.check(tmp_path / "clip")
    assert health.status == "bad"
    assert "f2.jpg is 80×48, not 64×48" in health.reason
    with pytest.raises(VideoError, match="differ in size"):
        clip_file.read_frames(tmp_path / "clip", np.array([1, 2]))


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["a.txt"], "holds no numbered JPEG or PNG frames"),
        (["flow_x_1.jpg", "img_1.jpg"], "several series"),
        (["f1.jpg", "f01.jpg"], "are both frame 1"),
        (["1_a.jpg", "2_a.jpg", "3.jpg"], r"1_a\.jpg and others have no number at their end"),
    ],
)
def test_what_is_no_clip(names: list[str], reason: str, tmp_path: Path) -> None:
    (tmp_path / "clip").mkdir()
    for name in names:
        (tmp_path / "clip" / name).touch()
    with pytest.raises(VideoError, match=reason):
        clip_file.probe(tmp_path / "clip")
    assert clip_file.check(tmp_path / "clip").status == "bad"
