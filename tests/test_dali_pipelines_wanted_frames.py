"""Reduced decoding against decoding everything: the same frames, for less work."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import videos
from odd_videos import COLORS, FILES, ORDER_UNKNOWN, RGB, write_color

from dali_pipelines.decode import indexed_video, wanted_frames
from dali_pipelines.decode.indexed_video import open_indexed
from dali_pipelines.decode.packet_index import PacketIndex, Run
from dali_pipelines.decode.pixels import to_pixels
from dali_pipelines.decode.wanted_frames import decode_in_turn, decode_wanted
from dali_pipelines.errors import Stopped, VideoError


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("name", FILES)
def test_wanted_frames_are_those_of_decoding_everything(
    name: str, in_memory: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = FILES[name](tmp_path)
    if not in_memory:
        monkeypatch.setattr(indexed_video, "KEEP_BELOW", 0)
    every = videos.every_frame(path)
    with open_indexed(path) as video:
        assert video.index is None or len(video.index) == len(every)
    rng = np.random.default_rng(0)
    choices = [[0], [len(every) - 1], [3, 4, 5], [1, 40], list(range(len(every)))]
    choices += [sorted(rng.choice(len(every), size, replace=False)) for size in (2, 3, 5, 8, 20)]
    for wanted in choices:
        found = list(decode_wanted(path, np.array(wanted)))
        assert [item.number for item in found] == wanted
        assert not any(item.is_damaged for item in found)
        for item in found:
            np.testing.assert_array_equal(to_pixels(item.frame), every[item.number])
    interleaved = list(decode_in_turn(path, np.arange(len(every))))
    assert not any(item.is_damaged for item in interleaved)
    for item, frame in zip(interleaved, every, strict=True):
        np.testing.assert_array_equal(to_pixels(item.frame), frame)


@pytest.mark.parametrize("name", FILES)
def test_the_order_is_known_without_decoding_but_for_h264_of_avi(name: str, tmp_path: Path) -> None:
    with open_indexed(FILES[name](tmp_path)) as video:
        assert (video.index is None) == (name in ORDER_UNKNOWN)
        assert video.is_packed == (name.startswith("packed") or name == "frames that are not coded")


@pytest.mark.parametrize("codec", ["mpeg4", "h264", "vp9"])
def test_frames_carry_the_number_that_was_asked_for(codec: str, tmp_path: Path) -> None:
    path = videos.write_video(tmp_path / "clip", codec=codec, frames=60)
    wanted = [0, 2, 13, 14, 37, 59]
    found = [
        videos.number_of(to_pixels(item.frame)) for item in decode_wanted(path, _array(wanted))
    ]
    assert found == wanted


def test_frames_of_variable_rate_carry_their_number(tmp_path: Path) -> None:
    path = FILES["variable rate"](tmp_path)
    found = [
        videos.number_of(to_pixels(item.frame)) for item in decode_wanted(path, _array([7, 50]))
    ]
    assert found == [7, 50]


@pytest.mark.parametrize(("wanted", "runs"), [([2], 1), ([0, 59], 2), ([20, 21], 1), ([47], 1)])
def test_only_the_packets_from_the_nearest_keyframe_are_needed(
    wanted: list[int], runs: int, tmp_path: Path
) -> None:
    """A keyframe each 12 frames: no run is longer than that and what B-frames reach ahead."""
    index = _index(videos.write_video(tmp_path / "clip", codec="mpeg4", frames=60, gop=12))
    found = index.runs(wanted)
    assert len(found) == runs
    assert all(run.stop - run.start <= 15 for run in found)
    assert all(run.start in index.keyframes for run in found)


def test_frames_that_nobody_needs_are_skipped(tmp_path: Path) -> None:
    """Two of three frames are B here: decoding the last frame takes a third of the frames."""
    path = videos.write_video(tmp_path / "clip", codec="mpeg4", frames=60, gop=60)
    with open_indexed(path) as video:
        index = video.index
        assert index is not None
        last = int(index.positions[59])
        run = Run(start=0, stop=60)
        frames = list(wanted_frames._decode_run(video, index, run, {last}, threading.Event()))
    assert len(frames) < 25
    assert videos.number_of(to_pixels(frames[-1])) == 59


def test_frames_behind_a_keyframe_but_shown_before_it_begin_earlier() -> None:
    """Decoding order I0 P3 B1 B2 I6 B4 B5: 4 and 5 need frame 3, so not only from I6."""
    order = [0, 3, 1, 2, 6, 4, 5]
    index = PacketIndex(
        positions=np.array([order.index(number) for number in range(7)]),
        numbers=np.array(order),
        ranks=np.array(order),
        keyframes=np.array([0, 4]),
        seek_points=[],
        sizes=np.zeros(7, np.int64),
    )
    assert index.runs([5]) == [Run(start=0, stop=7)]
    assert index.runs([6]) == [Run(start=4, stop=5)]


def test_a_long_file_is_walked_through_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = videos.write_video(tmp_path / "clip", codec="h264", frames=60)
    monkeypatch.setattr(indexed_video, "KEEP_BELOW", 0)
    list(decode_wanted(path, _array([30])))
    known = indexed_video._long_files.get(path)
    assert known is not None
    assert known.index is not None
    assert len(known.index) == 60


def test_neighbors_stand_in_for_damaged_frames_and_say_so(tmp_path: Path) -> None:
    path = videos.write_video(tmp_path / "clip", codec="mjpeg", frames=60)
    data = bytearray(path.read_bytes())
    starts = [at for at in range(len(data) - 3) if data[at : at + 3] == b"\xff\xd8\xff"]
    assert len(starts) == 60
    data[starts[20] : starts[21] - 8] = bytes(starts[21] - 8 - starts[20])
    path.write_bytes(data)
    found = list(decode_wanted(path, _array([19, 20, 21])))
    assert [(item.number, item.is_damaged) for item in found] == [
        (19, False),
        (20, True),
        (21, False),
    ]
    assert [videos.number_of(to_pixels(item.frame)) for item in found] == [19, 19, 21]


@pytest.mark.parametrize("decode", [decode_wanted, decode_in_turn])
@pytest.mark.parametrize("kind", ["packed", "h264", "mpeg2video", "in AVI"])
def test_what_builds_on_a_damaged_frame_is_damaged_up_to_the_next_keyframe(
    kind: str, decode: Any, tmp_path: Path
) -> None:
    """FFmpeg guesses what is missing, and marks no frame but the first as corrupt."""
    if kind == "packed":
        path = videos.write_packed(tmp_path / "clip", frames=60, gop=15, draw=videos.noisy)
    else:
        codec = "h264" if kind == "in AVI" else kind
        path = tmp_path / ("clip.avi" if kind == "in AVI" else "clip.mkv")
        path = videos.write_video(path, codec=codec, frames=60, gop=15, draw=videos.noisy)
    every = videos.every_frame(path)
    videos.damage(path, 18, 24)
    right: list[bool] = []
    for item in decode(path, np.arange(60)):
        right.append(bool(np.array_equal(to_pixels(item.frame), every[item.number])))
        assert item.is_damaged or right[-1]
    assert 0 < right.count(False) < 20
    assert all(right[:13] + right[-13:])
    sound = [number for number in range(60) if number < 13 or number > 46]
    assert not any(item.is_damaged for item in decode(path, np.array(sound)))


def test_what_comes_before_the_first_keyframe_is_damaged(tmp_path: Path) -> None:
    """FFmpeg shows it upon gray."""
    whole = videos.write_packed(tmp_path / "whole", frames=40, gop=20, draw=videos.noisy)
    path = videos.remux(whole, tmp_path / "cut.avi", without=range(6))
    found = list(decode_wanted(path, np.arange(len(videos.every_frame(path)))))
    assert [item.is_damaged for item in found[:8]] == [True] * 8
    assert not any(item.is_damaged for item in found[-15:])


def test_a_file_that_ends_too_early_is_an_error(tmp_path: Path) -> None:
    path = videos.write_video(tmp_path / "clip", frames=60)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(VideoError, match=r"clip\.avi: frame 59 is wanted but only \d+ frames"):
        list(decode_wanted(path, _array([0, 59])))


def test_decoding_can_be_stopped(tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(Stopped):
        list(decode_wanted(videos.write_video(tmp_path / "clip"), _array([5]), stop=stop))


@pytest.mark.parametrize(("codec", "matrix", "full"), COLORS)
def test_matrix_and_range_are_those_that_the_file_states(
    codec: str, matrix: str, full: bool, tmp_path: Path
) -> None:
    path = write_color(tmp_path / "color", codec, matrix, full)
    (item,) = decode_wanted(path, _array([1]))
    assert np.abs(to_pixels(item.frame)[48, 48].astype(int) - RGB).max() <= 4


def _array(numbers: list[int]) -> np.ndarray:
    return np.array(numbers, np.int64)


def _index(path: Path) -> PacketIndex:
    with open_indexed(path) as video:
        assert video.index is not None
        return video.index
