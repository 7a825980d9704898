"""MPEG-4's packets taken apart as FFmpeg's decoder does it, and the order that kinds make."""

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import videos
from av.video.frame import PictureType
from hypothesis import given, settings
from hypothesis import strategies as st

from dali_pipelines.decode.mpeg4_packets import PICTURE, Unpacker, order_of_display
from dali_pipelines.decode.video_stream import ANY_METADATA


def pictures_of(path: Path) -> list[tuple[av.Packet, str]]:
    with av.open(str(path), **ANY_METADATA) as container:
        stream = container.streams.video[0]
        unpacker = Unpacker(stream.codec_context.extradata or b"")
        packets = [packet for packet in container.demux(stream) if packet.size]
    found = list(unpacker.unpack(packets))
    return list(zip(found, unpacker.kinds, strict=True))


@pytest.mark.parametrize("max_b_frames", [1, 2])
@pytest.mark.parametrize("closed_gop", [True, False])
def test_each_picture_gets_a_packet_with_nothing_lost(
    max_b_frames: Any, closed_gop: bool, tmp_path: Path
) -> None:
    path = videos.write_packed(
        tmp_path / "clip", frames=50, gop=12, max_b_frames=max_b_frames, closed_gop=closed_gop
    )
    found = pictures_of(path)
    assert all(bytes(packet).count(PICTURE) == 1 for packet, _ in found)
    with av.open(str(path)) as container:
        shown = [PictureType(frame.pict_type).name for frame in container.decode(video=0)]
    order = order_of_display([kind for _, kind in found])
    assert [found[position][1] for position in order] == shown
    assert len(shown) == 50


def test_a_second_picture_is_ignored_where_nothing_says_that_it_is_packed(tmp_path: Path) -> None:
    """As FFmpeg's decoder does."""
    path = videos.write_packed(tmp_path / "clip", frames=20)
    path.write_bytes(path.read_bytes().replace(b"DivX503b2816p", b"DivX503b2816n"))
    assert [kind for _, kind in pictures_of(path)].count("B") == 0
    with av.open(str(path)) as container:
        count = sum(1 for _ in container.decode(video=0))
    assert count == len(order_of_display([kind for _, kind in pictures_of(path)])) < 20


@settings(max_examples=300)
@given(st.text("IPBSN", min_size=1, max_size=30))
def test_order_of_any_kinds(tail: str) -> None:
    kinds = "I" + tail
    order = order_of_display(kinds)
    references = [position for position, kind in enumerate(kinds) if kind in "IPS"]
    assert len(order) == len(set(order))
    assert [each for each in order if kinds[each] in "IPS"] == references
    second = references[1] if len(references) > 1 else len(kinds)
    assert {each for each in order if kinds[each] == "B"} == {
        position for position, kind in enumerate(kinds) if kind == "B" and position > second
    }
    place = {position: number for number, position in enumerate(order)}
    for position in place:
        if kinds[position] == "B":  # shown between the two references before it
            before = [each for each in references if each < position]
            assert place[before[-2]] < place[position] < place[before[-1]]


@settings(max_examples=300)
@given(st.binary(max_size=64), st.binary(max_size=200), st.booleans())
def test_any_bytes_are_taken_apart(headers: bytes, data: bytes, packed: bool) -> None:
    name = b"\0\0\1\xb2DivX503b1393p" if packed else b""
    unpacker = Unpacker(headers + name)
    pieces = data.replace(b"\xff", PICTURE).split(b"\xfe")
    packets = []
    for piece in filter(None, pieces):
        packet = av.Packet(len(piece))
        packet.update(piece)
        packets.append(packet)
    found = list(unpacker.unpack(packets))
    assert len(found) == len(unpacker.kinds) <= len(packets)
    assert set(unpacker.kinds) <= set("IPBSN")


def test_a_frame_that_is_not_coded_is_told_from_a_small_one(tmp_path: Path) -> None:
    def still(index: int, width: int, height: int) -> np.ndarray:
        return np.full((height, width, 3), 90, np.uint8)

    path = videos.write_packed(tmp_path / "clip", frames=30, size=(64, 48), draw=still)
    found = pictures_of(path)
    smallest = min(packet.size for packet, kind in found if kind != "N")
    assert smallest <= 19  # as small as one that is not coded may be
    with av.open(str(path)) as container:
        count = sum(1 for _ in container.decode(video=0))
    assert count == 30 == sum(kind != "N" for _, kind in found)
