"""What the order of frames hangs on in H.264's own headers, ITU-T H.264, 7.3.

A frame may be coded as two fields, each a picture of its own; and a keyframe of the container need
not be one behind which no picture refers to what came before it.
"""

from collections.abc import Iterator
from typing import NamedTuple, Self

from dali_pipelines.decode.bits import Bits

SLICE, IDR_SLICE, SEQUENCE = 1, 5, 7
B_SLICE = 1
WITH_CHROMA_FORMAT = frozenset({44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244})
HEADER_SIZE = 64
"""Bytes in which the parts of a slice's header lie that are read here."""


class Stream(NamedTuple):
    """How a stream's units are told apart, and what its slices' headers look like."""

    length_size: int
    """Bytes of the length in front of each unit; 0 where start codes part them."""
    may_have_fields: bool
    frame_number_bits: int

    @classmethod
    def of(cls, extradata: bytes) -> Self | None:
        """None where no sequence header is found."""
        length_size, headers = 0, list(_by_start_codes(extradata))
        if extradata[:1] == b"\1" and len(extradata) > 8:
            length_size = (extradata[4] & 3) + 1
            headers = [extradata[8:]]  # the first sequence header, behind its length
        for unit in headers:
            if unit and unit[0] & 31 == SEQUENCE:
                return cls(length_size, *_read_sequence(_payload(unit[1:])))
        return None

    def units(self, data: bytes) -> Iterator[bytes]:
        return _by_lengths(data, self.length_size) if self.length_size else _by_start_codes(data)

    def is_field(self, data: bytes) -> bool:
        """Whether a packet's picture is one of a frame's two fields."""
        bits = self._slice_header(data) if self.may_have_fields else None
        if bits is None:
            return False
        for _ in range(3):  # first macroblock, kind, parameters
            bits.take_exp_golomb()
        bits.take(self.frame_number_bits)
        return bool(bits.take(1))

    def is_b_frame(self, data: bytes) -> bool:
        bits = self._slice_header(data)
        if bits is None:
            return False
        bits.take_exp_golomb()  # first macroblock
        return bits.take_exp_golomb() % 5 == B_SLICE

    def _slice_header(self, data: bytes) -> Bits | None:
        """Of a packet's first slice."""
        for unit in self.units(data):
            if unit and unit[0] & 31 in (SLICE, IDR_SLICE):
                return Bits(_payload(unit[1:HEADER_SIZE]))
        return None

    def is_idr(self, data: bytes) -> bool:
        """Whether no later picture refers to anything before this one."""
        return any(unit and unit[0] & 31 == IDR_SLICE for unit in self.units(data))

    def is_reference(self, data: bytes) -> bool:
        """Whether any other picture may refer to this one."""
        return any(
            unit and unit[0] & 31 in (SLICE, IDR_SLICE) and unit[0] >> 5 & 3
            for unit in self.units(data)
        )


def _by_lengths(data: bytes, size: int) -> Iterator[bytes]:
    at = 0
    while at + size < len(data):
        length = int.from_bytes(data[at : at + size], "big")
        yield data[at + size : at + size + length]
        at += size + length


def _by_start_codes(data: bytes) -> Iterator[bytes]:
    at = data.find(b"\0\0\1")
    while at >= 0:
        following = data.find(b"\0\0\1", at + 3)
        yield data[at + 3 : following if following >= 0 else len(data)]
        at = following


def _payload(unit: bytes) -> bytes:
    """Without the bytes that keep a unit from holding a start code."""
    return unit.replace(b"\0\0\3", b"\0\0")


def _read_sequence(data: bytes) -> tuple[bool, int]:
    """Whether there may be fields, and how many bits a frame's number takes."""
    bits = Bits(data)
    profile = bits.take(8)
    bits.take(16)
    bits.take_exp_golomb()
    if profile in WITH_CHROMA_FORMAT:
        _pass_over_format(bits)
    frame_number_bits = bits.take_exp_golomb() + 4
    order_kind = bits.take_exp_golomb()
    if order_kind == 0:
        bits.take_exp_golomb()
    elif order_kind == 1:
        bits.take(1)
        bits.take_exp_golomb()
        bits.take_exp_golomb()
        for _ in range(min(bits.take_exp_golomb(), 255)):
            bits.take_exp_golomb()
    bits.take_exp_golomb()  # reference frames
    bits.take(1)
    bits.take_exp_golomb()  # width, height
    bits.take_exp_golomb()
    return not bits.take(1), min(frame_number_bits, 16)


def _pass_over_format(bits: Bits) -> None:
    chroma = bits.take_exp_golomb()
    if chroma == 3:
        bits.take(1)
    bits.take_exp_golomb()
    bits.take_exp_golomb()
    bits.take(1)
    if not bits.take(1):
        return
    for number in range(12 if chroma == 3 else 8):  # scaling lists
        if bits.take(1):
            _pass_over_list(bits, 16 if number < 6 else 64)


def _pass_over_list(bits: Bits, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            code = bits.take_exp_golomb()
            change = (code + 1) // 2 if code % 2 else -(code // 2)
            following = (last + change) % 256
        last = following or last
