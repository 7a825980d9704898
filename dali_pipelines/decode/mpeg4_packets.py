"""MPEG-4 Part 2 (DivX, Xvid): unpacks packets, and finds picture types and the display order.

DivX and Xvid put a B-frame into the packet of the frame before it ("packed bitstream") and leave a
packet without a picture in its place. HMDB51 and UT-Interaction contain such files: they have more
packets than frames, and their timestamps give a wrong order. The display order follows from the
picture types alone. Packets are split exactly as FFmpeg's decoder splits them.
"""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import av

from dali_pipelines.decode.bits import Bits

START = b"\0\0\1"
SEQUENCE = b"\0\0\1\xb0"
PICTURE = b"\0\0\1\xb6"
KINDS = "IPBS"
LARGEST_NOT_CODED = 19
"""Largest size in bytes of a not-coded picture; the same limit as in FFmpeg."""
SURELY_CODED = len(PICTURE) + LARGEST_NOT_CODED
SHORTEST = 7
"""Data of at most this many bytes after a picture is ignored."""
PACKED = re.compile(rb"\x00\x00\x01\xb2DivX\d+(?:Build|b)\d+p")
"""Marks a packed bitstream; without it, decoders ignore the second picture of a packet."""


class Header(NamedTuple):
    """Fields of the video object layer header, ISO/IEC 14496-2, 6.2.3."""

    time_bits: int
    is_interlaced: bool


class Unpacker:
    """Splits the packets of a file into packets with one picture each."""

    def __init__(self, extradata: bytes) -> None:
        self.header: Header | None = None
        self.is_packed = False
        self.has_packed_pictures = False
        self.kinds: list[str] = []
        """Types of the pictures so far: I, P, S (global motion), B, or N (not coded)."""
        self.hidden: set[int] = set()
        """Positions of pictures that an edit list hides."""
        self._second_picture: bytes | None = None
        """Second picture of the previous packet, to be decoded next."""
        self._headers = b""
        """Last headers that were parsed."""
        self._read_headers(extradata)

    def unpack(self, packets: Iterable[av.Packet]) -> Iterator[av.Packet]:
        """Yield a packet for each picture; packets without a picture are dropped."""
        add = self.kinds.append
        for packet in packets:
            data_view = memoryview(packet)
            if (
                self.is_packed
                or self._second_picture
                or data_view[:4] != PICTURE
                or len(data_view) <= SURELY_CODED
            ):
                picture = self._next(packet, bytes(packet))
                if picture is None:
                    continue
            else:
                picture = packet
                add(KINDS[data_view[len(PICTURE)] >> 6])
            if packet.is_discard:
                self.hidden.add(len(self.kinds) - 1)
            yield picture

    def _next(self, packet: av.Packet, data: bytes) -> av.Packet | None:
        start = data.find(PICTURE)
        if self._second_picture is not None and data[data.find(START) :].startswith(SEQUENCE):
            self._second_picture = None  # a new sequence has begun
        if self._second_picture is not None:
            previous, self._second_picture = self._second_picture, None
            if _can_be_decoded_later(data, start, begin=0):
                self._second_picture = data
            start = previous.find(PICTURE)
            second = previous.find(PICTURE, start + 4)
            previous = previous[:second] if second >= 0 else previous  # the rest is lost
            self.kinds.append(self._picture_type(previous, start))
            return _copy(packet, previous)
        if start < 0:
            return None
        if start:
            self._read_headers(data[:start])
        if self.is_packed:
            second = data.find(PICTURE, start + 4)
            if _can_be_decoded_later(data, second, begin=second):
                self.has_packed_pictures = True
                self._second_picture, data = data[second:], data[:second]
                packet = _copy(packet, data)
        self.kinds.append(self._picture_type(data, start))
        return packet

    def _picture_type(self, data: bytes, start: int) -> str:
        start += len(PICTURE)
        if len(data) - start <= LARGEST_NOT_CODED and not _is_coded(data[start:], self.header):
            return "N"
        return KINDS[data[start] >> 6]

    def _read_headers(self, data: bytes) -> None:
        if data == self._headers:  # repeated with every keyframe
            return
        self._headers = data
        start = data.find(START)
        while 0 <= start < len(data) - 4:
            if 0x20 <= data[start + 3] <= 0x2F:
                self.header = _parse_header(data[start + 4 : start + 44])
            start = data.find(START, start + 3)
        if b"\0\0\1\xb2DivX" in data:
            self.is_packed = PACKED.search(data) is not None


def order_of_display(kinds: str) -> list[int]:
    """Return the positions of the pictures in display order.

    A B-frame is displayed at once, any other frame when the next reference frame arrives. Decoders
    drop a B-frame if one of its two references is missing.
    """
    if "B" not in kinds and "N" not in kinds:
        return list(range(len(kinds)))
    order: list[int] = []
    pending = -1
    num_references = 0
    for position, kind in enumerate(kinds):
        if kind == "N":
            continue
        if kind == "B":
            if num_references > 1:
                order.append(position)
            continue
        if pending >= 0:
            order.append(pending)
        pending = position
        num_references += 1
    return [*order, pending] if pending >= 0 else order


def without_packing(packet: av.Packet) -> av.Packet:
    """Remove the mark of a packed bitstream from a packet that holds one picture."""
    data = bytes(packet)
    match = PACKED.search(data)
    if match is None:
        return packet
    return _copy(packet, data[: match.end() - 1] + b"\0" + data[match.end() :])


def _can_be_decoded_later(data: bytes, start: int, *, begin: int) -> bool:
    """Whether a second picture is decoded later: an I- or B-frame in enough data."""
    return (
        0 <= start < len(data) - 4 and len(data) - begin > SHORTEST and not data[start + 4] & 0x40
    )


def _copy(packet: av.Packet, data: bytes) -> av.Packet:
    copy = av.Packet(len(data))  # FFmpeg pads its memory: decoders read a little past the end
    copy.update(data)
    copy.pts, copy.dts, copy.duration = packet.pts, packet.dts, packet.duration
    copy.is_keyframe = packet.is_keyframe
    return copy


def _is_coded(payload: bytes, header: Header | None) -> bool:
    if header is None or not payload:
        return bool(payload)
    bits = Bits(payload)
    bits.take(2)
    while bits.take(1):  # modulo_time_base: one bit per second since the last picture
        pass
    bits.take(1 + header.time_bits + 1)
    return bool(bits.take(1))


def _parse_header(data: bytes) -> Header:
    bits = Bits(data)
    bits.take(1 + 8)  # random access, object type
    version = 1
    if bits.take(1):
        version = bits.take(4)
        bits.take(3)
    if bits.take(4) == 15:  # extended aspect ratio
        bits.take(8 + 8)
    if bits.take(1):  # control parameters
        bits.take(2 + 1)
        if bits.take(1):  # buffer sizes
            bits.take(79)
    if bits.take(2) == 3 and version != 1:
        bits.take(4)
    bits.take(1)
    time_bits = max(1, (bits.take(16) - 1).bit_length())
    bits.take(1)
    if bits.take(1):  # fixed rate
        bits.take(time_bits)
    bits.take(1 + 13 + 1 + 13 + 1)  # width and height between markers
    return Header(time_bits=time_bits, is_interlaced=bool(bits.take(1)))
