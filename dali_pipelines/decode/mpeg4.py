"""MPEG-4 Part 2 (DivX, Xvid): one packet for each coded picture, the pictures' kinds, their order.

DivX and Xvid put a B-frame into the packet of the frame before it ("packed bitstream") and leave a
packet without a picture in its place. HMDB51 and UT-Interaction are coded so: the packets are more
than the frames, and time stamps give a wrong order. The order of display follows from the kinds of
the pictures alone. Which picture a packet holds is decided here as FFmpeg's decoder decides it.
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
"""Bytes of a picture that only says that nothing is coded; FFmpeg draws the same line."""
SURELY_CODED = len(PICTURE) + LARGEST_NOT_CODED
SHORTEST = 7
"""Bytes up to which what lies behind a picture is ignored."""
PACKED = re.compile(rb"\x00\x00\x01\xb2DivX\d+(?:Build|b)\d+p")
"""How an encoder says that it packs; without it, decoders ignore a second picture in a packet."""


class Header(NamedTuple):
    """What a video object layer says, ISO/IEC 14496-2, 6.2.3."""

    time_bits: int
    is_interlaced: bool


class Unpacker:
    """Turns packets as they are stored into packets with one picture each."""

    def __init__(self, extradata: bytes) -> None:
        self.header: Header | None = None
        self.is_packed = False
        self.has_packed_pictures = False
        self.kinds: list[str] = []
        """Of the pictures so far: I, P, S (global motion), B, or N (not coded, not shown)."""
        self.hidden: set[int] = set()
        """Positions of pictures that an edit list keeps from being shown."""
        self._waiting: bytes | None = None
        """What lies behind the first picture of the packet before, to be decoded next."""
        self._headers = b""
        """Those read last."""
        self._read_headers(extradata)

    def unpack(self, packets: Iterable[av.Packet]) -> Iterator[av.Packet]:
        """A packet for each picture. One without a picture only fills a place, and gives none."""
        add = self.kinds.append
        for packet in packets:
            view = memoryview(packet)
            if self.is_packed or self._waiting or view[:4] != PICTURE or len(view) <= SURELY_CODED:
                single = self._next(packet, bytes(packet))
                if single is None:
                    continue
            else:
                single = packet
                add(KINDS[view[len(PICTURE)] >> 6])
            if packet.is_discard:
                self.hidden.add(len(self.kinds) - 1)
            yield single

    def _next(self, packet: av.Packet, data: bytes) -> av.Packet | None:
        at = data.find(PICTURE)
        if self._waiting is not None and data[data.find(START) :].startswith(SEQUENCE):
            self._waiting = None  # a new sequence has begun
        if self._waiting is not None:
            taken, self._waiting = self._waiting, None
            if _may_wait(data, at, begin=0):
                self._waiting = data
            at = taken.find(PICTURE)
            second = taken.find(PICTURE, at + 4)
            taken = taken[:second] if second >= 0 else taken  # what follows is lost
            self.kinds.append(self._kind(taken, at))
            return _copy(packet, taken)
        if at < 0:
            return None
        if at:
            self._read_headers(data[:at])
        if self.is_packed:
            second = data.find(PICTURE, at + 4)
            if _may_wait(data, second, begin=second):
                self.has_packed_pictures = True
                self._waiting, data = data[second:], data[:second]
                packet = _copy(packet, data)
        self.kinds.append(self._kind(data, at))
        return packet

    def _kind(self, data: bytes, at: int) -> str:
        at += len(PICTURE)
        if len(data) - at <= LARGEST_NOT_CODED and not _is_coded(data[at:], self.header):
            return "N"
        return KINDS[data[at] >> 6]

    def _read_headers(self, data: bytes) -> None:
        if data == self._headers:  # they come again with every keyframe
            return
        self._headers = data
        at = data.find(START)
        while 0 <= at < len(data) - 4:
            if 0x20 <= data[at + 3] <= 0x2F:
                self.header = _parse_header(data[at + 4 : at + 44])
            at = data.find(START, at + 3)
        if b"\0\0\1\xb2DivX" in data:
            self.is_packed = PACKED.search(data) is not None


def order_of_display(kinds: str) -> list[int]:
    """Positions of the pictures in the order in which they are shown.

    A B-frame is shown at once, and any other frame when the next one comes. B-frames for which a
    decoder lacks one of two references are dropped by it.
    """
    if "B" not in kinds and "N" not in kinds:
        return list(range(len(kinds)))
    order: list[int] = []
    held = -1
    num_references = 0
    for position, kind in enumerate(kinds):
        if kind == "N":
            continue
        if kind == "B":
            if num_references > 1:
                order.append(position)
            continue
        if held >= 0:
            order.append(held)
        held = position
        num_references += 1
    return [*order, held] if held >= 0 else order


def without_packing(packet: av.Packet) -> av.Packet:
    """The packet of an unpacked picture, whose headers no longer say that pictures are packed."""
    data = bytes(packet)
    found = PACKED.search(data)
    if found is None:
        return packet
    return _copy(packet, data[: found.end() - 1] + b"\0" + data[found.end() :])


def _may_wait(data: bytes, at: int, *, begin: int) -> bool:
    """Whether a picture is kept to be decoded later: an I or B, and what is kept long enough."""
    return 0 <= at < len(data) - 4 and len(data) - begin > SHORTEST and not data[at + 4] & 0x40


def _copy(packet: av.Packet, data: bytes) -> av.Packet:
    copy = av.Packet(len(data))  # FFmpeg's own memory: decoders read a little behind its end
    copy.update(data)
    copy.pts, copy.dts, copy.duration = packet.pts, packet.dts, packet.duration
    copy.is_keyframe = packet.is_keyframe
    return copy


def _is_coded(payload: bytes, header: Header | None) -> bool:
    if header is None or not payload:
        return bool(payload)
    bits = Bits(payload)
    bits.take(2)
    while bits.take(1):  # one for each second since the last picture
        pass
    bits.take(1 + header.time_bits + 1)
    return bool(bits.take(1))


def _parse_header(data: bytes) -> Header:
    bits = Bits(data)
    bits.take(1 + 8)  # random access, type of object
    version = 1
    if bits.take(1):
        version = bits.take(4)
        bits.take(3)
    if bits.take(4) == 15:  # aspect ratio in numbers
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
