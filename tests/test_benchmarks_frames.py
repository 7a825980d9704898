"""The suite that measures which decoder gives which frame: on real files, with known decoders."""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import videos

import engine
from benchmarks.baselines.frame_readers import READERS, Reader, lacks
from benchmarks.clip_sets import clip_set, linked, numbers_of
from benchmarks.full_decode import FullDecode, frames_in_turn, to_rgb
from benchmarks.scripts import decoding, frames
from benchmarks.stages.loader import _decode_in_order
from benchmarks.worker import PipelineError
from dali_pipelines.decode.pixels import Frame

Pictures = Iterator[tuple[int, Frame]]


def sound(path: Path, numbers: Sequence[int]) -> Pictures:
    """Every picture is a little brighter than in truth, as other conversions make it."""
    for number, frame in enumerate(frames_in_turn(path)):
        if number in numbers:
            yield number, np.minimum(to_rgb(frame), 252) + np.uint8(3)


def one_early(path: Path, numbers: Sequence[int]) -> Pictures:
    pictures = [to_rgb(frame) for frame in frames_in_turn(path)]
    yield from ((number, pictures[number - 1]) for number in numbers)


def no_last(path: Path, numbers: Sequence[int]) -> Pictures:
    yield from sound(path, numbers[:-1] or numbers)


def raises(path: Path, numbers: Sequence[int]) -> Pictures:
    raise RuntimeError(f"cannot open {path}")


def crashes(path: Path, numbers: Sequence[int]) -> Pictures:
    if "small" not in path.name:
        import os

        os.abort()
    return sound(path, numbers)


def count(path: Path) -> int:
    return sum(1 for _ in frames_in_turn(path))


def one_more(path: Path) -> int:
    return count(path) + 1


def reader(read: Any, **more: Any) -> Reader:
    return Reader(words=read.__name__, read=read, **{"count": count, **more})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips and a file that is none."""
    folder = tmp_path_factory.mktemp("clips") / "set"
    (folder / "deep").mkdir(parents=True)
    videos.write_video(folder / "mpeg4", frames=40, size=(162, 122))
    videos.write_video(folder / "deep" / "h264", codec="h264", frames=25)
    (folder / "broken.avi").write_bytes(b"no video")
    return folder


def rows_of(folder: Path, readers: dict[str, Reader]) -> tuple[dict[str, Any], dict[str, Any]]:
    measured = frames.measure([clip_set(f"ours={folder}")], readers, num_frames=5)
    (found,) = measured["sets"]
    return found, {row["name"]: row for row in found["rows"]}


@pytest.mark.slow
def test_wrong_and_missing_frames_are_found(folder: Path) -> None:
    found, rows = rows_of(
        folder,
        {
            "sound": reader(sound),
            "one early": reader(one_early, count=one_more),
            "no last": reader(no_last),
            "crashes": reader(crashes),
            "ours": READERS["ours"],
        },
    )
    assert found["name"] == "ours"
    assert found["num_files"] == 3
    assert list(found["broken"]) == ["broken.avi"]
    wanted = {"wanted": 10, "wrong": 0, "missing": 0, "farthest": 0, "files_wrong": 0}
    for name in ("sound", "ours"):
        assert rows[name]["equidistant"] == rows[name]["segments"] == wanted
        assert rows[name]["files_miscounted"] == 0
    assert rows["ours"]["damaged"] == 0
    early = rows["one early"]
    assert early["segments"] == wanted | {"wrong": 10, "farthest": 1, "files_wrong": 2}
    assert early["equidistant"]["wrong"] == 10
    assert early["equidistant"]["farthest"] == 39  # the one before the first is the last
    assert early["files_miscounted"] == early["files_counted"] == 2
    assert rows["no last"]["segments"] == wanted | {"missing": 2, "files_wrong": 2}
    assert rows["crashes"]["segments"] == wanted | {"missing": 10, "files_wrong": 2}
    assert rows["crashes"]["failures"] == 2
    assert "crashed the decoder" in rows["crashes"]["first_failure"]


@pytest.mark.slow
def test_ours_must_be_the_full_decode_to_the_last_bit(folder: Path) -> None:
    _, rows = rows_of(folder, {"a little brighter": reader(sound, is_ours=True)})
    assert rows["a little brighter"]["segments"]["wrong"] == 10


@pytest.mark.slow
def test_what_cannot_be_used_is_a_row_with_the_reason(folder: Path) -> None:
    _, rows = rows_of(
        folder,
        {
            "gone": reader(sound, package="no-such-package", module="no_such_package"),
            "half": reader(raises, package="half", needs="it needs a library"),
            "sound": reader(sound),
        },
    )
    assert rows["gone"] == {
        "name": "gone",
        "words": "sound",
        "error": "no-such-package isn't installed: pip install no-such-package",
    }
    assert rows["half"]["error"] == (
        "half can't read a small MPEG-4 file (RuntimeError: cannot open small.avi); "
        "it needs a library"
    )
    assert rows["sound"]["segments"]["wrong"] == 0


def test_failures_name_files_and_not_this_machine(folder: Path) -> None:
    question = frames._Task(
        name="raises",
        reader=reader(raises),
        clip=frames.Clip(path=folder / "mpeg4.avi", num_frames=40),
        numbers={"segments": [3]},
    )
    answer = frames._run(question)
    assert answer.error == "cannot open mpeg4.avi"
    assert answer.tallies["segments"].missing == 1


@pytest.mark.parametrize("name", READERS)
def test_each_decoder_gives_the_frames_of_an_ordinary_file(name: str, tmp_path: Path) -> None:
    if reason := lacks(READERS[name]):
        pytest.skip(reason)
    path = videos.write_video(tmp_path / "clip", codec="h264", frames=40)
    assert READERS[name].count(path) == 40
    wanted = [0, 7, 19, 30]
    pictures = dict(READERS[name].read(path, wanted))
    assert [videos.number_of(pictures[number]) for number in wanted] == wanted


def test_pictures_are_matched_whatever_their_size_and_turn(tmp_path: Path) -> None:
    path = videos.turn_clockwise(videos.write_video(tmp_path / "clip", codec="h264"))
    numbers = (4, 9)
    truth = FullDecode.of(path, numbers)
    assert truth.quarter_turns
    coded = [to_rgb(frame) for frame in frames_in_turn(path)]
    for picture in (coded[9], engine.read_frames(path, [9])[0], coded[9][::2, ::2]):
        assert truth.number_of(picture, 9) == 9
        assert truth.number_of(picture, 4) == 9
    assert truth.is_same(9, engine.read_frames(path, [9])[0])
    assert not truth.is_same(9, engine.read_frames(path, [10])[0])


def test_pictures_that_are_alike_count_as_each_other(tmp_path: Path) -> None:
    path = videos.write_video(tmp_path / "still", draw=videos.corner)
    truth = FullDecode.of(path, ())
    pictures = [to_rgb(frame) for frame in frames_in_turn(path)]
    assert truth.number_of(pictures[29], 15) == 15
    noise = np.random.default_rng(0).integers(0, 3, pictures[0].shape, np.uint8)
    assert truth.number_of(np.minimum(pictures[0], 250) + noise, 15) == 15


def test_sets_have_names_and_never_places(folder: Path, tmp_path: Path) -> None:
    named, plain = clip_set(f"HMDB51={folder}"), clip_set(str(folder))
    assert (named.name, plain.name) == ("HMDB51", "set")
    assert (named.argument, plain.argument) == ("HMDB51=set", "set")
    assert [path.name for path in named.paths] == ["broken.avi", "h264.mp4", "mpeg4.avi"]
    assert frames.command([named, plain], 8, None) == (
        "python -m benchmarks.scripts.frames --clips HMDB51=set --clips set --frames 8"
    )
    assert [path.name for path in named.sample(2).paths] == ["broken.avi", "mpeg4.avi"]
    clips = [frames.Clip(path=path, num_frames=1) for path in named.paths[1:]]
    links = linked(clips, tmp_path, 5)
    assert [link.path.suffix for link in links] == [".mp4", ".avi", ".mp4", ".avi", ".mp4"]
    assert links[0].path.read_bytes() == clips[0].path.read_bytes()


def test_numbers_reach_from_the_first_frame_to_the_last() -> None:
    assert numbers_of(72, 4, "equidistant") == [0, 24, 47, 71]
    assert numbers_of(72, 4, "segments") == [8, 26, 44, 62]
    assert numbers_of(3, 16, "equidistant") == [0, 1, 2]


@pytest.mark.slow
def test_the_command_prints_a_table_and_writes_a_result(folder: Path, tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.scripts.frames", "--clips", f"drawn={folder}",
         "--frames", "3", "--out", tmp_path],
        capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "drawn, 3 files" in result.stdout
    assert "broken, left out: broken.avi" in result.stdout
    (path,) = tmp_path.glob("frames_*.json")
    assert str(folder) not in path.read_text()
    found = json.loads(path.read_text())
    (each,) = found["sets"]
    assert [row["name"] for row in each["rows"]] == list(READERS)
    ours = each["rows"][0]
    assert ours["segments"]["wrong"] == ours["segments"]["missing"] == 0
    assert found["versions"]["av"] == av.__version__


@pytest.mark.slow
def test_decoding_is_timed_beside_another_checkout(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "DECODERS", ("ours", "pyav"))
    root = Path(__file__).parents[1]
    (tmp_path / "dali_pipelines").symlink_to(root / "dali_pipelines")
    options = argparse.Namespace(
        only=decoding.PARTS, frames=[3], load=6, repeats=1, against=tmp_path
    )
    found = decoding.measure(clip_set(f"drawn={folder}"), options)
    assert found["num_files"] == 2
    assert list(found["broken"]) == ["broken.avi"]
    assert [row["name"] for row in found["core"]] == ["ours", "pyav", "against"]
    assert all(row["missing"] == 0 and row["ms_a_clip"] > 0 for row in found["core"])
    assert [row["name"] for row in found["loaders"]] == ["ours", "plain", "against"]
    assert all(row["clips_per_s"] > 0 for row in found["loaders"])
    (parts,) = found["parts"]
    assert (parts["num_clips"], parts["num_cut"]) == (2, 2)
    assert 0 < parts["bytes_per_part"] < parts["bytes_per_file"]


def test_a_folder_that_is_no_checkout_is_an_error_in_words(tmp_path: Path) -> None:
    with decoding._Process(tmp_path) as process:
        with pytest.raises(PipelineError, match="has no dali_pipelines"):
            process.ask("open", reader="ours")
        process._process.kill()
        process._process.wait()
        with pytest.raises(PipelineError, match="process died"):
            process.ask("open", reader="ours")


def test_metadata_need_not_be_utf8(tmp_path: Path) -> None:
    path = videos.with_latin1_title(videos.write_video(tmp_path / "clip"))
    pictures = _decode_in_order(path, np.array([3, 20]))
    assert [videos.number_of(picture) for picture in pictures] == [3, 20]
    assert [n for n, _ in READERS["pyav"].read(path, [3])] == [3]
    assert READERS["pyav"].count(path) == 30
