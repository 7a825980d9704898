"""Reduced decoding against decoding everything: the same frames, for less work."""

import threading
from itertools import product
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import videos

from dali_pipelines.decode import indexed_video, wanted_frames
from dali_pipelines.decode.indexed_video import open_indexed
from dali_pipelines.decode.packet_index import PacketIndex, Run
from dali_pipelines.decode.pixels import to_pixels
from dali_pipelines.decode.wanted_frames import decode_in_turn, decode_wanted
from dali_pipelines.errors import Stopped, VideoError

UNEVEN = np.cumsum(np.random.default_rng(0).integers(5, 90, 60)).tolist()


def _gaps(folder: Path) -> Path:
    slots = [slot for slot in range(90) if slot % 3 and slot % 7]
    return videos.write_video(folder / "gaps.avi", frames=len(slots), slots=slots)


def _cut(folder: Path) -> Path:
    whole = videos.write_video(folder / "whole.mp4", codec="h264", frames=60, gop=25)
    return videos.cut_without_recoding(whole, folder / "cut.mp4", 17)


def _unpacked_with_gaps(folder: Path) -> Path:
    """N-VOPs between the frames, as Xvid writes where a frame is dropped."""
    packed = videos.write_packed(folder / "packed", frames=60)
    path = folder / "gaps.avi"
    with av.open(str(packed)) as source, av.open(str(path), "w") as output:
        stream: Any = source.streams.video[0]
        copy: Any = output.add_stream_from_template(stream)
        time = 0
        for packet in source.demux(stream):
            for number in range(2 if 0 < packet.size < 19 else bool(packet.size)):
                single = av.Packet(bytes(packet))
                single.stream, single.time_base = copy, packet.time_base
                single.pts = single.dts = time
                single.is_keyframe = packet.is_keyframe and not number
                output.mux(single)
                time += 1
    return path


def _interlaced(folder: Path) -> Path:
    path = folder / "interlaced.mp4"
    with av.open(str(path), "w") as container:
        options = {"x264-params": "interlaced=1:log-level=none", "bf": "2"}
        stream: Any = container.add_stream("libx264", rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 160, 128, "yuv420p"
        for index in range(60):
            frame = av.VideoFrame.from_ndarray(videos.numbered(index, 160, 128), format="rgb24")
            container.mux(stream.encode(frame.reformat(format="yuv420p")))
        container.mux(stream.encode(None))
    return path


def _with_hidden_frames(folder: Path) -> Path:
    """libvpx codes frames that are only referred to; here a bit says so of two in sixty-two."""
    whole = videos.write_video(folder / "whole", codec="vp8", frames=62)
    path = folder / "hidden.webm"
    with av.open(str(whole)) as source, av.open(str(path), "w") as output:
        copy: Any = output.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(video=0)):
            if packet.size:
                data = bytearray(bytes(packet))
                data[0] &= 0xEF if number in (20, 41) else 0xFF
                hidden = av.Packet(bytes(data))
                hidden.stream, hidden.time_base = copy, packet.time_base
                hidden.pts, hidden.dts = packet.pts, packet.dts
                hidden.is_keyframe = packet.is_keyframe
                output.mux(hidden)
    return path


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
FILES["time stamps that count packets"] = lambda folder: videos.remux(
    videos.write_video(folder / "h264.avi", codec="h264", frames=60), folder / "copy.mkv"
)
FILES["dropped frames"] = _gaps
FILES["edit list"] = _cut
FILES["packed, one B-frame in a row"] = lambda folder: videos.write_packed(
    folder / "packed", frames=60, references={20, 21, 33}
)
FILES["packed, two B-frames in a row"] = lambda folder: videos.write_packed(
    folder / "packed", frames=60, max_b_frames=2, gop=20, references={9}
)
FILES["packed, open GOPs"] = lambda folder: videos.write_packed(
    folder / "packed", frames=60, gop=12, closed_gop=False, size=(161, 97)
)
for suffix in (".mkv", ".mp4"):
    FILES[f"packed in {suffix}"] = lambda folder, suffix=suffix: videos.remux(
        videos.write_packed(folder / "packed", frames=60, gop=15), folder / f"copy{suffix}"
    )
FILES["packed, its last packet lost"] = lambda folder: videos.remux(
    videos.write_packed(folder / "packed", frames=61), folder / "copy.avi", without={61}
)
FILES["packed, title not in UTF-8"] = lambda folder: videos.write_packed(
    folder / "packed", frames=60, title="Película".encode("latin-1")
)
FILES["frames that are not coded"] = lambda folder: _unpacked_with_gaps(folder)
FILES["340 × 256"] = lambda folder: videos.write_video(
    folder / "kinetics.mp4", codec="h264", frames=60, size=(340, 256)
)
FILES["interlaced"] = lambda folder: _interlaced(folder)
FILES["hidden VP8 frames"] = lambda folder: _with_hidden_frames(folder)
FILES["turned"] = lambda folder: videos.turn_clockwise(
    videos.write_video(folder / "turned.mp4", codec="h264", frames=60)
)


ORDER_UNKNOWN = {"no time stamps", "time stamps that count packets"}


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
    in_turn = list(decode_in_turn(path, np.arange(len(every))))
    assert not any(item.is_damaged for item in in_turn)
    for item, frame in zip(in_turn, every, strict=True):
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
    """FFmpeg shows it upon grey."""
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


def _index(path: Path) -> PacketIndex:
    with open_indexed(path) as video:
        assert video.index is not None
        return video.index
