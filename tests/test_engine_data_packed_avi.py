"""Packed B-frames: laid out as in HMDB51's and UT-Interaction's files, and nothing lost by it."""

from pathlib import Path
from typing import Any, Literal, NamedTuple

import av
import numpy as np
import pytest
import videos
from av.bitstream import BitStreamFilterContext
from av.video.frame import PictureType
from numpy.typing import NDArray

from dali_pipelines.decode.video_stream import ANY_METADATA
from engine.data.packed_avi import VOP_START

B_FRAMES = pytest.mark.parametrize("max_b_frames", [1, 2])
NumBFrames = Literal[1, 2]


class Shown(NamedTuple):
    kind: str
    planes: list[NDArray[np.uint8]]

    @property
    def number(self) -> int:
        return videos.number_of(self.planes[0])


def show(frame: Any) -> Shown:
    assert not frame.is_corrupt
    rows = [np.frombuffer(plane, np.uint8).reshape(plane.height, -1) for plane in frame.planes]
    widths = [plane.width for plane in frame.planes]
    return Shown(
        kind=PictureType(frame.pict_type).name,
        planes=[row[:, :width].copy() for row, width in zip(rows, widths, strict=True)],
    )


def decode(path: Path) -> list[Shown]:
    """All of it; whatever is wrong with a packet is an error."""
    with av.open(str(path), **ANY_METADATA) as container:
        stream: Any = container.streams.video[0]
        stream.codec_context.options = {"err_detect": "explode"}
        stream.codec_context.thread_count = 1
        return [show(frame) for packet in container.demux(stream) for frame in packet.decode()]


def numbers(path: Path) -> list[int]:
    return [frame.number for frame in decode(path)]


def read_packets(path: Path) -> list[av.Packet]:
    with av.open(str(path), **ANY_METADATA) as container:
        return [packet for packet in container.demux(video=0) if packet.size]


def kinds(packet: av.Packet) -> str:
    """Of its VOPs; N for one without content."""
    vops = bytes(packet).split(VOP_START)[1:]
    return "".join("IPBS"[vop[0] >> 6] if len(vop) > 4 else "N" for vop in vops)


def test_one_b_frame_in_a_row_as_in_hmdb51(tmp_path: Path) -> None:
    path = videos.write_packed(tmp_path / "clip", frames=8, references={3})
    packets = read_packets(path)
    assert [kinds(each) for each in packets] == ["I", "", "PB", "N", "P", "PB", "N", "PB", "N"]
    assert "".join(frame.kind for frame in decode(path)) == "IBPPBPBP"
    assert [each.is_keyframe for each in packets] == [True, True, *[False] * 7]
    assert bytes(packets[1]) == b"\x7f"
    n_vops = [bytes(packets[slot]).hex() for slot in (3, 6, 8)]  # at the times 2, 5 and 7
    assert n_vops == ["000001b6514f7f", "000001b652cf7f", "000001b653cf7f"]


def test_two_b_frames_in_a_row_as_in_ut_interaction(tmp_path: Path) -> None:
    path = videos.write_packed(tmp_path / "clip", frames=9, max_b_frames=2)
    packets = read_packets(path)
    slots = ["I", "", "", "PB", "B", "N", "PB", "B", "N", "PB", "N"]
    assert [kinds(each) for each in packets] == slots
    assert "".join(frame.kind for frame in decode(path)) == "IBBPBBPBP"
    assert [each.is_keyframe for each in packets] == [True, True, True, *[False] * 8]
    n_vops = [bytes(packets[slot]).hex() for slot in (5, 8, 10)]  # at the times 3, 6 and 8
    assert n_vops == ["000001b651cf", "000001b6534f", "000001b6544f"]


@B_FRAMES
@pytest.mark.parametrize("size", [(160, 120), (161, 97), (340, 256)])
@pytest.mark.parametrize(("gop", "closed_gop"), [(300, True), (12, True), (12, False)])
def test_all_frames_come_out_in_order(
    max_b_frames: NumBFrames, size: tuple[int, int], gop: int, closed_gop: bool, tmp_path: Path
) -> None:
    path = videos.write_packed(
        tmp_path / "clip",
        frames=72,
        size=size,
        fps=25,
        gop=gop,
        max_b_frames=max_b_frames,
        closed_gop=closed_gop,
        references={6, 20, 21},
    )
    assert numbers(path) == list(range(72))
    packets = read_packets(path)
    assert len(packets) == 72 + max_b_frames
    found = [kinds(each) for each in packets]
    assert set(found) <= {"", "I", "P", "B", "N", "PB", "IB"}
    assert found.count("I") + found.count("IB") == (1 if gop == 300 else pytest.approx(6, abs=1))
    assert ("IB" in found) == (not closed_gop)


@B_FRAMES
@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5])
def test_short_ones(max_b_frames: NumBFrames, frames: int, tmp_path: Path) -> None:
    path = videos.write_packed(tmp_path / "clip", frames=frames, max_b_frames=max_b_frames)
    assert numbers(path) == list(range(frames))
    assert len(read_packets(path)) == frames + max_b_frames


@B_FRAMES
@pytest.mark.parametrize("closed_gop", [True, False])
def test_ffmpegs_filter_unpacks_it_into_the_same_pictures(
    max_b_frames: NumBFrames, closed_gop: bool, tmp_path: Path
) -> None:
    path = videos.write_packed(
        tmp_path / "clip", frames=73, gop=20, max_b_frames=max_b_frames, closed_gop=closed_gop
    )
    decoder: Any = av.CodecContext.create("mpeg4", "r")
    unpacked = []
    with av.open(str(path)) as container:
        stream: Any = container.streams.video[0]
        unpack = BitStreamFilterContext("mpeg4_unpack_bframes", stream)
        packets = [*(packet for packet in container.demux(stream) if packet.size), None]
        for packet in packets:
            for single in unpack.filter(packet):
                assert kinds(single) in ("", "I", "P", "B")
                unpacked += [show(frame) for frame in decoder.decode(single)]
    unpacked += [show(frame) for frame in decoder.decode(None)]
    packed = decode(path)
    assert [frame.number for frame in unpacked] == list(range(73))
    for one, other in zip(unpacked, packed, strict=True):
        assert all(map(np.array_equal, one.planes, other.planes))


@B_FRAMES
def test_what_it_says_of_its_encoder(max_b_frames: NumBFrames, tmp_path: Path) -> None:
    path = videos.write_packed(
        tmp_path / "clip", frames=60, gop=20, max_b_frames=max_b_frames, closed_gop=False
    )
    name = {1: b"DivX503b2816p", 2: b"DivX503b1393p"}[max_b_frames]
    keyframes = [bytes(each) for each in read_packets(path) if "I" in kinds(each)]
    assert len(keyframes) >= 3
    assert all(data.count(b"\0\0\1\xb2" + name + b"\0\0\1") == 1 for data in keyframes)
    assert b"Lav" not in path.read_bytes()
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        assert context.codec_tag == {1: "DX50", 2: "XVID"}[max_b_frames]
        assert context.extradata[-len(name) :] == name


@B_FRAMES
@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".avi"])
def test_it_stays_packed_in_other_containers(
    max_b_frames: NumBFrames, suffix: str, tmp_path: Path
) -> None:
    path = videos.write_packed(tmp_path / "clip", frames=31, max_b_frames=max_b_frames)
    copy = videos.remux(path, tmp_path / f"copy{suffix}")
    assert [bytes(each) for each in read_packets(copy)] == [
        bytes(each) for each in read_packets(path)
    ]
    assert numbers(copy) == list(range(31))


def test_a_file_that_ends_before_its_last_slot_lacks_a_frame(tmp_path: Path) -> None:
    """As some of HMDB51's do: FFmpeg shows the reference in the last packet, not the B-frame."""
    path = videos.write_packed(tmp_path / "clip", frames=31)
    last = len(read_packets(path)) - 1
    copy = videos.remux(path, tmp_path / "copy.avi", without={last})
    assert kinds(read_packets(copy)[-1]) == "PB"
    assert numbers(copy) == [*range(29), 30]


def test_fillers_are_as_many_as_asked_for(tmp_path: Path) -> None:
    for num_fillers in (0, 3):
        path = videos.write_packed(tmp_path / "clip", frames=20, num_fillers=num_fillers)
        packets = read_packets(path)
        assert len(packets) == 20 + num_fillers
        assert [each.size for each in packets].count(1) == num_fillers
        assert numbers(path) == list(range(20))


def test_titles_are_any_bytes(tmp_path: Path) -> None:
    path = videos.write_packed(tmp_path / "clip", title=b"Pel\xedcula \xfc")
    assert b"strn\x0b\0\0\0Pel\xedcula \xfc\0" in path.read_bytes()
    with av.open(str(path), **ANY_METADATA) as container:
        title = container.streams.video[0].metadata["title"]
    assert title.encode("utf-8", "surrogateescape") == b"Pel\xedcula \xfc"
    assert numbers(path) == list(range(30))


@B_FRAMES
def test_the_same_frames_make_the_same_bytes(max_b_frames: NumBFrames, tmp_path: Path) -> None:
    one, other = (
        videos.write_packed(tmp_path / name, max_b_frames=max_b_frames).read_bytes()
        for name in ("one", "other")
    )
    assert one == other


def test_a_b_frame_that_passes_for_an_n_vop_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="so small that FFmpeg takes it for an N-VOP"):
        videos.write_packed(tmp_path / "clip", size=(64, 48), max_b_frames=2, draw=videos.corner)
