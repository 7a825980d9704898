"""Reduced decoding against decoding everything: the same frames, for less work."""

import threading
from itertools import product
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import videos

from dali_pipelines import indexed_video, wanted_frames
from dali_pipelines.errors import VideoError
from dali_pipelines.indexed_video import open_indexed
from dali_pipelines.packet_index import PacketIndex, Run
from dali_pipelines.pixels import to_pixels
from dali_pipelines.wanted_frames import Stopped, decode_in_turn, decode_wanted

UNEVEN = np.cumsum(np.random.default_rng(0).integers(5, 90, 60)).tolist()


def _gaps(folder: Path) -> Path:
    slots = [slot for slot in range(90) if slot % 3 and slot % 7]
    return videos.write_video(folder / "gaps.avi", frames=len(slots), slots=slots)


def _cut(folder: Path) -> Path:
    whole = videos.write_video(folder / "whole.mp4", codec="h264", frames=60, gop=25)
    return videos.cut_without_recoding(whole, folder / "cut.mp4", 17)


FILES: dict[str, Any] = {
    codec: lambda folder, codec=codec: videos.write_video(folder / "clip", codec=codec, frames=60)
    for codec in videos.CODECS
}
FILES["variable rate"] = lambda folder: videos.write_video(
    folder / "vfr.mp4", codec="h264", frames=60, pts=UNEVEN
)
FILES["no time stamps"] = lambda folder: videos.write_video(
    folder / "h264.avi", codec="h264", frames=60
)
FILES["dropped frames"] = _gaps
FILES["edit list"] = _cut
FILES["turned"] = lambda folder: videos.turn_clockwise(
    videos.write_video(folder / "turned.mp4", codec="h264", frames=60)
)


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("name", FILES)
def test_wanted_frames_are_those_of_decoding_everything(
    name: str, in_memory: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = FILES[name](tmp_path)
    if not in_memory:
        monkeypatch.setattr(indexed_video, "KEEP_BELOW", 0)
    every = [to_pixels(item.frame) for item in decode_in_turn(path, np.arange(_count(path)))]
    rng = np.random.default_rng(0)
    choices = [[0], [len(every) - 1], [3, 4, 5], [1, 40], list(range(len(every)))]
    choices += [sorted(rng.choice(len(every), size, replace=False)) for size in (2, 3, 5, 8, 20)]
    for wanted in choices:
        found = list(decode_wanted(path, np.array(wanted)))
        assert [item.number for item in found] == wanted
        assert not any(item.is_damaged for item in found)
        for item in found:
            np.testing.assert_array_equal(to_pixels(item.frame), every[item.number])


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
        marks=[],
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


def test_neighbours_stand_in_for_damaged_frames_and_say_so(tmp_path: Path) -> None:
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


COLOUR_MATRIX = {"601": (6, 0.299, 0.114), "709": (1, 0.2126, 0.0722)}
RGB = (200, 60, 90)


def write_colour(path: Path, codec: str, matrix: str, full: bool) -> Path:
    """A video of one colour, coded by a matrix and range that it states."""
    tag, red, blue = COLOUR_MATRIX[matrix]
    encoder, suffix, pixel_format, options = videos.CODECS[codec]
    path = path.with_suffix(suffix)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(encoder, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 96, 96, pixel_format
        stream.codec_context.colorspace, stream.codec_context.color_range = tag, 2 if full else 1
        for number in range(8):
            frame = av.VideoFrame(96, 96, "yuv420p")
            for plane, value in zip(frame.planes, _planes(RGB, red, blue, full), strict=True):
                plane.update(bytes([value]) * plane.buffer_size)
            frame.colorspace, frame.color_range = tag, 2 if full else 1
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


COLOURS = list(product(["h264", "vp9"], COLOUR_MATRIX, [True, False]))


@pytest.mark.parametrize(("codec", "matrix", "full"), COLOURS)
def test_matrix_and_range_are_those_that_the_file_states(
    codec: str, matrix: str, full: bool, tmp_path: Path
) -> None:
    path = write_colour(tmp_path / "colour", codec, matrix, full)
    (item,) = decode_wanted(path, _array([1]))
    assert np.abs(to_pixels(item.frame)[48, 48].astype(int) - RGB).max() <= 4


def _planes(rgb: tuple[int, int, int], red: float, blue: float, full: bool) -> list[int]:
    """A colour in Y'CbCr, by the definition of the matrices."""
    r, g, b = (value / 255 for value in rgb)
    y = red * r + (1 - red - blue) * g + blue * b
    cb, cr = (b - y) / (2 - 2 * blue), (r - y) / (2 - 2 * red)
    if full:
        return [round(255 * y), round(255 * cb + 128), round(255 * cr + 128)]
    return [round(219 * y + 16), round(224 * cb + 128), round(224 * cr + 128)]


def _array(numbers: list[int]) -> np.ndarray:
    return np.array(numbers, np.int64)


def _count(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def _index(path: Path) -> PacketIndex:
    with open_indexed(path) as video:
        assert video.index is not None
        return video.index
