"""H.264's headers: fields, keyframes and pictures that none refers to."""

from pathlib import Path

import av
import pytest
import videos
from odd_videos import FILES

from dali_pipelines.decode import h264_headers
from dali_pipelines.decode.bits import Bits


def packets_of(path: Path) -> tuple[h264_headers.Stream, list[av.Packet]]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        found = h264_headers.Stream.of(stream.codec_context.extradata or b"")
        assert found is not None
        return found, [packet for packet in container.demux(stream) if packet.size]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_keyframes_and_references_are_what_the_decoder_says(suffix: str, tmp_path: Path) -> None:
    path = videos.write_video(tmp_path / f"clip{suffix}", codec="h264", frames=60, gop=20)
    stream, packets = packets_of(path)
    assert stream.length_size == (0 if suffix == ".ts" else 4)
    assert not stream.may_have_fields
    idr = [number for number, packet in enumerate(packets) if stream.is_idr(bytes(packet))]
    assert idr == [number for number, packet in enumerate(packets) if packet.is_keyframe]
    assert len(idr) > 2
    skipped = [packet for packet in packets if not stream.is_reference(bytes(packet))]
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.skip_frame = "NONREF"
        decoded = sum(1 for _ in container.decode(video=0))
    assert 10 < len(skipped) == 60 - decoded


def test_interlaced_frames_are_told_from_fields(tmp_path: Path) -> None:
    """x264 interlaces within frames. A slice's header that says otherwise is written here."""
    stream, packets = packets_of(FILES["interlaced"](tmp_path))
    assert stream.may_have_fields
    assert not any(stream.is_field(bytes(packet)) for packet in packets)
    header = "1" + "00101" + "1" + "0" * stream.frame_number_bits + "1"  # and then the field's bit
    bits = header.ljust(64, "0")
    unit = bytes([h264_headers.SLICE | 0x60]) + int(bits, 2).to_bytes(8, "big")
    assert stream.is_field(len(unit).to_bytes(4, "big") + unit)
    assert not stream._replace(may_have_fields=False).is_field(unit)


def test_numbers_as_h264_writes_them() -> None:
    bits = Bits(
        int("1 010 011 00100 00111 1".replace(" ", "").ljust(24, "0"), 2).to_bytes(3, "big")
    )
    assert [bits.take_exp_golomb() for _ in range(6)] == [0, 1, 2, 3, 6, 0]
    assert Bits(b"").take_exp_golomb() == 0
    assert Bits(bytes(100)).take_exp_golomb() >= 0
