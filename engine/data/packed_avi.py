"""Writes MPEG-4 in AVI with packed B-frames, as DivX and XviD did; HMDB51 consists of such files.

These encoders had to return exactly one packet for each input frame, for one slot of the AVI file.
A B-frame needs the reference after it, so their output was delayed. Fillers of one byte take the
first slots. Then a reference and the first B-frame before it share a packet, each further B-frame
follows one slot later, and the last slot gets a VOP without content ("N-VOP"). With two B-frames
in a row:

    shown     I0 B1 B2 P3 B4 B5 P6
    encoded   I0 P3 B1 B2 P6 B4 B5
    slots     I0 - - P3+B1 B2 N P6+B4 B5 N

Decoders recognize such a stream by the `p` at the end of the encoder's name in it. (ISO/IEC 14496-2
calls a coded picture a VOP.)
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, repeat
from pathlib import Path
from typing import NamedTuple

import av
from av.video.stream import VideoStream

from dali_pipelines.decode.video_stream import ANY_METADATA

VISUAL_OBJECT_START, USER_DATA_START, VOP_START = b"\0\0\1\0", b"\0\0\1\xb2", b"\0\0\1\xb6"
ENCODER_NAME = re.compile(re.escape(USER_DATA_START) + rb"[^\0]*")
B_VOP = 2
LONGEST_N_VOP = 19
"""In bytes. FFmpeg treats every packet this short as an N-VOP."""
NO_SCENE_CHANGES = "1000000000"
"""Turns scene detection off, which FFmpeg requires for closed GOPs."""


@dataclass(frozen=True, kw_only=True)
class AviStyle:
    """The bitstream details in which encoders differ."""

    four_cc: str
    encoder_name: bytes
    max_b_frames: int
    """Longest run of B-frames; the number of fillers is the same."""
    n_vop_end: bytes = b""
    says_profile: bool = True
    """Whether each keyframe is preceded by the profile."""


DIVX = AviStyle(
    four_cc="DX50",
    encoder_name=b"DivX503b2816p",
    max_b_frames=1,
    n_vop_end=b"\x7f",
    says_profile=False,
)
"""As in HMDB51."""
XVID = AviStyle(four_cc="XVID", encoder_name=b"DivX503b1393p", max_b_frames=2)
"""As in UT-Interaction. The name isn't XviD's own, because decoders would then use XviD's IDCT."""


class Slot(NamedTuple):
    data: bytes
    is_keyframe: bool = False


FILLER = Slot(b"\x7f", is_keyframe=True)


def write_packed_avi(
    path: Path,
    frames: Iterable[av.VideoFrame],
    *,
    size: tuple[int, int],
    fps: int,
    style: AviStyle = DIVX,
    gop: int = 300,
    closed_gop: bool = True,
    bit_rate: int = 800_000,
    max_quantizer: int = 31,
    num_fillers: int | None = None,
    title: bytes | None = None,
) -> None:
    """Encode `frames` to `path`.

    Args:
        path: The AVI file to write.
        frames: Frames in yuv420p. A frame whose `pict_type` is P does not become a B-frame.
        size: Width and height.
        fps: Frame rate.
        style: The encoder to imitate.
        gop: Distance of keyframes, in frames.
        closed_gop: Whether no B-frame refers across a keyframe.
        bit_rate: In bits per second.
        max_quantizer: Coarsest quantizer, up to 31.
        num_fillers: Overrides the number of fillers of `style`.
        title: Title in the metadata; the bytes are written unchanged.

    Raises:
        ValueError: A B-frame is so small that decoders would drop it.
    """
    container = av.open(
        str(path),
        "w",
        format="avi",
        **ANY_METADATA,
        options={"fflags": "+bitexact"},  # don't write FFmpeg's version into the file
    )
    with container:
        stream = container.add_stream("mpeg4", rate=fps)
        if title is not None:
            stream.metadata["title"] = title.decode("utf-8", "surrogateescape")
        encoder = stream.codec_context
        encoder.width, encoder.height, encoder.pix_fmt = *size, "yuv420p"
        encoder.codec_tag = style.four_cc
        encoder.max_b_frames, encoder.gop_size = style.max_b_frames, gop
        encoder.bit_rate, encoder.qmax = bit_rate, max_quantizer
        encoder.thread_count = 1  # deterministic output
        if closed_gop:
            encoder.options = {"flags": "+cgop", "sc_threshold": NO_SCENE_CHANGES}
        slots = _pack(_encode(stream, frames, fps), style, fps)
        fillers = repeat(FILLER, style.max_b_frames if num_fillers is None else num_fillers)
        for number, slot in enumerate(chain([next(slots)], fillers, slots)):
            packet = av.Packet(slot.data)
            packet.stream, packet.time_base = stream, Fraction(1, fps)
            packet.pts = packet.dts = number
            packet.is_keyframe = slot.is_keyframe
            container.mux(packet)


def _encode(stream: VideoStream, frames: Iterable[av.VideoFrame], fps: int) -> Iterator[av.Packet]:
    for index, frame in enumerate(frames):
        frame.pts, frame.time_base = index, Fraction(1, fps)
        yield from stream.encode(frame)
    yield from stream.encode(None)


def _pack(packets: Iterable[av.Packet], style: AviStyle, fps: int) -> Iterator[Slot]:
    """Pack packets, in decoding order, into slots; fillers are added by the caller."""
    group: list[av.Packet] = []  # a reference and its B-frames
    for packet in packets:
        if group and _vop_type(packet) != B_VOP:
            yield from _slots(group, style, fps)
            group = []
        group.append(packet)
    yield from _slots(group, style, fps)


def _slots(group: list[av.Packet], style: AviStyle, fps: int) -> Iterator[Slot]:
    reference, *b_frames = map(bytes, group)
    is_keyframe, number = group[0].is_keyframe, group[0].pts
    assert number is not None
    if any(len(data) <= LONGEST_N_VOP for data in b_frames[1:]):
        raise ValueError("a B-frame is so small that FFmpeg takes it for an N-VOP")
    reference = ENCODER_NAME.sub(USER_DATA_START + style.encoder_name, reference)
    if is_keyframe and not style.says_profile:
        reference = reference[reference.index(VISUAL_OBJECT_START) :]
    yield Slot(reference + b"".join(b_frames[:1]), is_keyframe)
    yield from map(Slot, b_frames[1:])
    if b_frames:
        yield Slot(_n_vop(number, fps) + style.n_vop_end)


def _n_vop(number: int, fps: int) -> bytes:
    """A P-VOP that is marked as not coded and has the time of the reference before it."""
    time = f"{number % fps:0{max(1, (fps - 1).bit_length())}b}"
    vop_type, new_seconds, marker, is_coded = "01", "0", "1", "0"
    bits = vop_type + new_seconds + marker + time + marker + is_coded
    bits += "0" + "1" * (7 - len(bits) % 8)
    return VOP_START + int(bits, 2).to_bytes(len(bits) // 8, "big")


def _vop_type(packet: av.Packet) -> int:
    data = bytes(packet)
    return data[data.index(VOP_START) + len(VOP_START)] >> 6
