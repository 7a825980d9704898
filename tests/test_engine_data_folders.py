"""Every layout of labelled folders, and what each mistake in one is answered with."""

from pathlib import Path

import pytest
import videos
from folders import save, touch
from users import another_user, shared_folder

from engine.commands.data_summary import alike_classes
from engine.data import hmdb51_splits
from engine.data import index as indexing
from engine.data.folders import list_clips
from engine.data.manifest import Clip, Manifest
from engine.errors import UserError


def test_class_folders(tmp_path: Path) -> None:
    touch(
        tmp_path, "run/b.mp4", "run/a.avi", "walk fast/c.MKV", "walk fast/note.txt", ".git/x/y.mp4"
    )
    listing = list_clips(tmp_path)
    assert [(found.path, found.label, found.split) for found in listing.found] == [
        ("run/a.avi", "run", ""),
        ("run/b.mp4", "run", ""),
        ("walk fast/c.MKV", "walk fast", ""),
    ]
    assert listing.ignored == ["walk fast/note.txt"]


def test_split_folders_and_their_other_names(tmp_path: Path) -> None:
    touch(tmp_path, "train/run/a.avi", "Validation/run/b.avi", "test/run/a.avi")
    found = list_clips(tmp_path).found
    assert {(clip.path, clip.label, clip.split) for clip in found} == {
        ("train/run/a.avi", "run", "train"),
        ("Validation/run/b.avi", "run", "val"),
        ("test/run/a.avi", "run", "test"),
    }


def test_classes_may_be_called_like_splits(tmp_path: Path) -> None:
    touch(tmp_path, "train/a.avi", "test/b.avi")
    assert {clip.label for clip in list_clips(tmp_path).found} == {"train", "test"}
    touch(tmp_path, "bus/c.avi")
    assert {clip.label for clip in list_clips(tmp_path).found} == {"train", "test", "bus"}


@pytest.mark.parametrize("prefix", ["", "train/"])
def test_extracted_frames_with_and_without_split_folders(prefix: str, tmp_path: Path) -> None:
    for clip in ("run/one", "run/two", "walk/three"):
        (tmp_path / prefix / clip).mkdir(parents=True)
        for number in (1, 2, 10):
            save(tmp_path / prefix / clip, f"frame_{number:04d}.jpg", number)
    index = indexing.index_folder(tmp_path, frames_fps=12)
    clips = index.manifest.clips
    assert [clip.path for clip in clips] == [
        f"{prefix}run/one", f"{prefix}run/two", f"{prefix}walk/three"
    ]  # fmt: skip
    assert {(clip.frames, clip.fps, clip.codec) for clip in clips} == {(3, 12.0, "jpeg")}
    assert {clip.split for clip in clips} == {"train" if prefix else ""}


def test_names_are_never_patterns(tmp_path: Path) -> None:
    names = ["a*b.avi", "[ab].avi", "a?b.avi", "x;y&z!#~@+().avi", "tab\there.avi", "ü – é.avi"]
    touch(tmp_path, *(f"odd [class]*/{name}" for name in names))
    assert sorted(found.path for found in list_clips(tmp_path).found) == sorted(
        f"odd [class]*/{name}" for name in names
    )


def test_a_picture_beside_videos_makes_no_frame_folder(tmp_path: Path) -> None:
    touch(tmp_path, "train/run/a.avi", "train/run/thumb1.jpg", "test/run/b.avi", "test/run/t2.jpg")
    listing = list_clips(tmp_path)
    assert [(found.path, found.split) for found in listing.found] == [
        ("test/run/b.avi", "test"),
        ("train/run/a.avi", "train"),
    ]
    assert set(listing.ignored) == {"train/run/thumb1.jpg", "test/run/t2.jpg"}


def test_classes_called_like_our_own_folders(tmp_path: Path) -> None:
    touch(tmp_path, "splits/a.avi", "run/b.avi", "videos/c.avi", "loose.avi")
    listing = list_clips(tmp_path)
    assert {found.label for found in listing.found} == {"splits", "run", "videos"}
    assert listing.ignored == ["loose.avi"]


def test_what_lies_beside_a_videos_folder_is_passed_over_aloud(tmp_path: Path) -> None:
    touch(tmp_path, "videos/jump/a.avi", "run/b.avi")
    listing = list_clips(tmp_path)
    assert [found.path for found in listing.found] == ["videos/jump/a.avi"]
    assert listing.ignored == ["run"]


@pytest.mark.parametrize(
    ("paths", "reason"),
    [
        ([], "holds no class folders; put each clip in a folder named after its class"),
        (["clip.avi"], "holds no class folders"),
        (["run/a.avi", "empty/readme.txt"], "empty holds no clips; remove the folder"),
    ],
)
def test_mistakes_are_named_with_their_mend(paths: list[str], reason: str, tmp_path: Path) -> None:
    touch(tmp_path, *paths)
    with pytest.raises(UserError, match=reason):
        list_clips(tmp_path)


def test_two_clips_may_have_one_name_but_for_the_suffix(tmp_path: Path) -> None:
    touch(tmp_path, "run/a.avi", "run/a.mp4", "run/a/0001.jpg")
    found = [each.path for each in list_clips(tmp_path).found]
    assert found == ["run/a", "run/a.avi", "run/a.mp4"]


def test_the_official_splits_name_all_such_pairs(tmp_path: Path) -> None:
    touch(tmp_path, *(f"run/{name}" for name in ("a.avi", "a.mp4", "b.avi", "b.mkv", "c.avi")))
    folder = tmp_path / "testTrainMulti_7030_splits"
    folder.mkdir()
    (folder / "run_test_split1.txt").write_text("a.avi 1\nb.avi 2\nc.avi 1\n")
    clips = tuple(
        Clip(path=each.path, label="run", source="") for each in list_clips(tmp_path).found
    )
    with pytest.raises(UserError, match=r"one of each") as error:
        hmdb51_splits.read_fold(Manifest(root=tmp_path, clips=clips), 1)
    assert "run/a, run/b;" in str(error.value)


def test_folders_that_may_not_be_read_are_named_and_not_taken_for_empty() -> None:
    with shared_folder() as root:
        touch(root, "run/a.avi", "jump/b.avi", "swim/c.avi", "swim/frames/0001.jpg")
        (root / "jump").chmod(0o000)
        (root / "fall").symlink_to(root / "jump")
        (root / "swim" / "frames").chmod(0o000)
        with another_user():
            listing = list_clips(root)
        (root / "run").chmod(0o000)
        (root / "swim").chmod(0o000)
        with another_user(), pytest.raises(UserError, match=r"can't be read \(Permission denied\)"):
            list_clips(root)
        for name in ("run", "jump", "swim", "swim/frames"):
            (root / name).chmod(0o755)
    assert [each.path for each in listing.found] == ["run/a.avi", "swim/c.avi"]
    assert listing.unreadable == dict.fromkeys(("fall", "jump", "swim/frames"), "Permission denied")
    assert not listing.ignored


def test_links_that_lead_nowhere_are_named(tmp_path: Path) -> None:
    touch(tmp_path, "run/a.avi")
    (tmp_path / "jump").symlink_to(tmp_path / "gone")
    (tmp_path / "run" / "frames").symlink_to(tmp_path / "gone")
    (tmp_path / "run" / "b.avi").symlink_to(tmp_path / "gone.avi")
    listing = list_clips(tmp_path)
    assert listing.unreadable == dict.fromkeys(("jump", "run/frames"), "the link leads nowhere")
    assert [each.path for each in listing.found] == ["run/a.avi", "run/b.avi"]


def test_classes_that_differ_in_writing_alone_are_told() -> None:
    composed, apart = "caf\u00e9", "cafe\u0301"
    names = [composed, apart, "Jump", "jump", "run", "side walk", "sidewalk"]
    assert alike_classes(names) == [[composed, apart], ["Jump", "jump"], ["side walk", "sidewalk"]]


def test_unreadable_clips_keep_their_row_and_are_reported(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    videos.write_video(tmp_path / "run" / "good.avi", frames=20)
    (tmp_path / "run" / "bad.avi").write_text("no video")
    index = indexing.index_folder(tmp_path)
    assert index.unreadable.keys() == {"run/bad.avi"}
    assert "can't be opened as video" in index.unreadable["run/bad.avi"]
    assert [(clip.path, clip.frames) for clip in index.manifest.clips] == [
        ("run/bad.avi", 0),
        ("run/good.avi", 20),
    ]
