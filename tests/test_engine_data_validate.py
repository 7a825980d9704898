"""The doctor on a dataset with every ailment, and what later commands make of its findings."""

import csv
import os
import signal
from pathlib import Path

import pytest
import videos
from folders import save

from dali_pipelines.decode import clip_file
from engine.data import manifest, validate
from engine.data.index import index_folder
from engine.errors import UserError


@pytest.fixture
def ward(tmp_path: Path) -> Path:
    """Good and bad clips of two classes, indexed."""
    root = tmp_path / "ward"
    for label in ("run", "walk"):
        (root / label).mkdir(parents=True)
    for codec in ("mpeg4", "h264", "vp9"):
        videos.write_video(root / "run" / f"good_{codec}", codec=codec)
    truncated = videos.write_video(root / "run" / "truncated.avi", frames=60)
    truncated.write_bytes(truncated.read_bytes()[: truncated.stat().st_size // 2])
    (root / "run" / "zero.avi").touch()
    (root / "walk" / "text.avi").write_text("hello")
    videos.write_audio(root / "walk" / "sound.avi")
    uneven = [0, 20, 100, 130, 300, 310, 480, 500, 700, 720, 900, 910]
    videos.write_video(root / "walk" / "vfr.mp4", codec="h264", frames=12, pts=uneven)
    for number in range(5):
        save(root / "walk" / "frames", f"{number}.jpg", number)
    index_folder(root).manifest.save()
    return root


BAD = {"run/truncated.avi", "run/zero.avi", "walk/sound.avi", "walk/text.avi"}


def test_the_whole_ward(ward: Path) -> None:
    dataset = manifest.load(ward)
    validate.check_dataset(dataset)
    with (ward / "health.csv").open() as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    assert list(rows) == [clip.path for clip in dataset.clips]
    assert {path for path, row in rows.items() if row["status"] == "bad"} == BAD
    assert all(rows[path]["reason"] for path in BAD)
    assert rows["run/good_mpeg4.avi"] == {
        "path": "run/good_mpeg4.avi", "status": "ok", "reason": "", "codec": "mpeg4",
        "pixel_format": "yuv420p", "width": "160", "height": "120", "rotation": "0",
        "fps": "30.0", "frame_rate": "constant", "frames_claimed": "30", "frames": "30",
        "gop": rows["run/good_mpeg4.avi"]["gop"], "loaders": "dali-gpu dali-cpu torch",
        "notes": "",
    }  # fmt: skip
    assert rows["walk/vfr.mp4"]["frame_rate"] == "variable"
    assert rows["walk/frames"]["frames"] == "5"
    assert int(rows["run/truncated.avi"]["frames"]) < int(
        rows["run/truncated.avi"]["frames_claimed"]
    )


def test_bad_clips_are_left_out_and_counted(ward: Path) -> None:
    dataset = manifest.load(ward)
    before = validate.usable_clips(dataset)
    assert before.num_bad == 3  # the index already failed to open those
    validate.check_dataset(dataset)
    usable = validate.usable_clips(dataset)
    assert {clip.path for clip in dataset.clips} - {clip.path for clip in usable.clips} == BAD
    assert usable.describe() == "5 clips; 4 bad left out"


def test_a_damaged_health_file_is_refused(ward: Path) -> None:
    (ward / "health.csv").write_text("path,status\n")
    with pytest.raises(UserError, match="run `engine data check"):
        validate.usable_clips(manifest.load(ward))


def _crash(root: Path, clip: manifest.Clip) -> object:
    if clip.path == "run/good_h264.mp4":
        os.kill(os.getpid(), signal.SIGKILL)
    return clip_file.check(root / clip.path)


def test_a_decoder_that_dies_is_a_finding(ward: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validate, "_check", _crash)
    checked = {
        entry.clip.path: entry.health for entry in validate.check_dataset(manifest.load(ward))
    }
    assert checked["run/good_h264.mp4"].reason == "crashed the decoder (SIGKILL)"
    assert checked["run/good_vp9.webm"].status == "ok"
