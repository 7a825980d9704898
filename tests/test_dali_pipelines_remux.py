"""Parts of files: the wanted frames in them are those of the whole, bit for bit."""

from pathlib import Path

import av
import dali_decoder
import numpy as np
import pytest
import videos
from odd_videos import FILES, ORDER_UNKNOWN

from dali_pipelines.decode.codec_support import decode_with_dali
from dali_pipelines.decode.coded_pictures import SHOWS_EXISTING
from dali_pipelines.decode.remux import cut_part

NONE = {*ORDER_UNKNOWN, "wmv2", "mpeg2video"}
"""Files of which no part is cut: their order isn't known, or DALI can't decode them."""
SOMETIMES = {"frames that are not coded", "av1"}
"""Not if the part would hold packets without a picture of their own."""


@pytest.mark.parametrize("name", FILES)
def test_a_part_holds_the_wanted_frames(name: str, tmp_path: Path) -> None:
    path = FILES[name](tmp_path)
    every = videos.every_frame(path)
    rng = np.random.default_rng(0)
    choices = [[0], [len(every) - 1], [20, 21, 22], [1, 40], list(range(len(every)))]
    choices += [rng.choice(len(every), size).tolist() for size in (2, 3, 5, 8, 20)]
    for wanted in choices:
        part = cut_part(path, np.array(wanted))
        if name not in SOMETIMES:
            assert (part is None) == (name in NONE)
        if part is None:
            continue
        found = list(dali_decoder.frames_at(part.encoded).values())
        assert part.numbers.keys() == set(wanted)
        for number, place in part.numbers.items():
            turned = np.rot90(every[number]) if name == "turned" else every[number]
            np.testing.assert_array_equal(found[place], turned)


def test_a_part_is_as_small_as_what_is_wanted(tmp_path: Path) -> None:
    """Two of three frames are B-frames here, and a keyframe comes each twelve frames."""
    path = videos.write_video(tmp_path / "clip", codec="mpeg4", frames=120, gop=12)
    part = cut_part(path, np.array([70]))
    assert part is not None
    assert len(list(dali_decoder.frames_at(part.encoded).values())) <= 5
    assert len(part.encoded) < path.stat().st_size / 10


def test_packets_that_show_a_picture_again_are_found(tmp_path: Path) -> None:
    """SVT-AV1 writes them in its pyramids of B-frames, three bytes each."""
    path = FILES["av1"](tmp_path)
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        found = [SHOWS_EXISTING["av1"](packet) for packet in packets]
        assert found == [packet.size == 3 for packet in packets]
    assert any(found)
    assert cut_part(path, np.arange(60)) is None
    assert cut_part(path, np.array([0])) is not None  # the first keyframe needs none of them


def test_what_lies_beyond_the_end_is_not_there(tmp_path: Path) -> None:
    assert cut_part(videos.write_video(tmp_path / "clip"), np.array([3, 30])) is None


@pytest.mark.parametrize("name", FILES)
def test_dali_numbers_the_frames_of_a_part_as_the_loader_does(name: str, tmp_path: Path) -> None:
    """By its rules, since most codecs need a GPU."""
    path = FILES[name](tmp_path)
    every = videos.every_frame(path)
    rng = np.random.default_rng(1)
    for size in (1, 2, 5, 20):
        wanted = rng.choice(len(every), size, replace=False)
        part = cut_part(path, wanted)
        if part is None:
            continue
        entries = dali_decoder.index(part.encoded)
        times = [entry.time for entry in entries]
        assert len(set(times)) == len(times)
        assert entries[0].is_keyframe
        frames = dali_decoder.frames_at(part.encoded)
        for number, place in part.nvdec_numbers.items():
            turned = np.rot90(every[number]) if name == "turned" else every[number]
            np.testing.assert_array_equal(frames[times[place]], turned)


@pytest.mark.parametrize("name", ["vp8", "vp9", "mjpeg", "hidden VP8 frames"])
def test_dali_decodes_the_wanted_frames_of_a_part(name: str, tmp_path: Path) -> None:
    """Of the codecs that it decodes on a CPU."""
    path = FILES[name](tmp_path)
    every = videos.every_frame(path)
    for wanted in ([0], [59], [1, 40], [20, 21, 22, 44]):
        part = cut_part(path, np.array(wanted))
        assert part is not None
        frames = decode_with_dali(part, [part.numbers[number] for number in wanted])
        assert frames is not None
        for number, frame in zip(wanted, frames, strict=True):
            distance = [np.abs(frame.astype(int) - other).mean() for other in every]
            assert np.argmin(distance) == number
            assert distance[number] < 3
