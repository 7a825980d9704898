"""The script that compares fast decoding with exact decoding."""

import argparse
from pathlib import Path

import videos

from benchmarks.clip_sets import clip_set
from benchmarks.scripts import fast_decode


def test_each_codec_is_measured_by_itself(tmp_path: Path) -> None:
    for codec in ("h264", "mjpeg", "mpeg4"):
        videos.write_video(tmp_path / codec, codec=codec, size=(162, 122), draw=videos.moving(0))
    (tmp_path / "broken.avi").write_bytes(b"no video")
    options = argparse.Namespace(files=9, frames=3, short=[32], repeats=1, as_mjpeg=True)
    rows = fast_decode.measure(clip_set(f"drawn={tmp_path}"), options)
    found = {row["codec"]: row for row in rows}
    assert {codec: row["num_files"] for codec, row in found.items()} == {
        "h264": 1, "mjpeg": 1, "as mjpeg": 3,
    }  # fmt: skip
    for row in rows:
        assert row["num_unreadable"] == 1
        assert row["identical"]
        assert 0 < row["mean_difference"] < 10
        assert row["times_as_fast"] > 0
