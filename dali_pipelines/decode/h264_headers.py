"""Parses the H.264 headers that determine the frame order, ITU-T H.264, 7.3.

A frame may be coded as two fields, each a separate picture. A keyframe of the container need not be
an IDR picture: later pictures may refer to pictures before it.
"""

from collections.abc import Iterator
from typing import NamedTuple, Self

from dali_pipelines.decode.bits import Bits

SLICE, IDR_SLICE, SEQUENCE = 1, 5, 7
B_SLICE = 1
WITH_CHROMA_FORMAT = frozenset({44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244})
HEADER_SIZE = 64
"""Bytes of a slice header that are enough for the fields read here."""


class Stream(NamedTuple):
    """How a stream separates its NAL units, and the format of its slice headers."""

    length_size: int
    """Bytes of the length prefix of each unit; 0 if start codes separate them."""
    may_have_fields: bool
    frame_number_bits: int

    @classmethod
    def of(cls, extradata: bytes) -> Self | None:
        """Parse the extradata of a stream; None if it holds no sequence header."""
        length_size, headers = 0, list(_split_by_start_codes(extradata))
        if extradata[:1] == b"\1" and len(extradata) > 8:
            length_size = (extradata[4] & 3) + 1
            headers = [extradata[8:]]  # the first sequence header, after its length
        for unit in headers:
            if unit and unit[0] & 31 == SEQUENCE:
                return cls(length_size, *_read_sequence(_payload(unit[1:])))
        return None

    def units(self, data: bytes) -> Iterator[bytes]:
        return (
            _split_by_lengths(data, self.length_size)
            if self.length_size
            else _split_by_start_codes(data)
        )

    def is_field(self, data: bytes) -> bool:
        """Whether a packet's picture is one of the two fields of a frame."""
        bits = self._slice_header(data) if self.may_have_fields else None
        if bits is None:
            return False
        for _ in range(3):  # first_mb_in_slice, slice_type, pic_parameter_set_id
            bits.take_exp_golomb()
        bits.take(self.frame_number_bits)
        return bool(bits.take(1))

    def is_b_frame(self, data: bytes) -> bool:
        bits = self._slice_header(data)
        if bits is None:
            return False
        bits.take_exp_golomb()  # first_mb_in_slice
        return bits.take_exp_golomb() % 5 == B_SLICE

    def _slice_header(self, data: bytes) -> Bits | None:
        """Header of the first slice in a packet."""
        for unit in self.units(data):
            if unit and unit[0] & 31 in (SLICE, IDR_SLICE):
                return Bits(_payload(unit[1:HEADER_SIZE]))
        return None

    def is_idr(self, data: bytes) -> bool:
        """Whether it is an IDR picture: no later picture refers to one before it."""
        return any(unit and unit[0] & 31 == IDR_SLICE for unit in self.units(data))

    def is_reference(self, data: bytes) -> bool:
        """Whether other pictures may refer to this one."""
        return any(
            unit and unit[0] & 31 in (SLICE, IDR_SLICE) and unit[0] >> 5 & 3
            for unit in self.units(data)
        )


def _split_by_lengths(data: bytes, size: int) -> Iterator[bytes]:
    start = 0
    while start + size < len(data):
        length = int.from_bytes(data[start : start + size], "big")
        yield data[start + size : start + size + length]
        start += size + length


def _split_by_start_codes(data: bytes) -> Iterator[bytes]:
    start = data.find(b"\0\0\1")
    while start >= 0:
        next_start = data.find(b"\0\0\1", start + 3)
        yield data[start + 3 : next_start if next_start >= 0 else len(data)]
        start = next_start


def _payload(unit: bytes) -> bytes:
    """Remove the emulation prevention bytes."""
    return unit.replace(b"\0\0\3", b"\0\0")


def _read_sequence(data: bytes) -> tuple[bool, int]:
    """Return whether there may be fields, and the number of bits of frame_num."""
    bits = Bits(data)
    profile = bits.take(8)
    bits.take(16)
    bits.take_exp_golomb()
    if profile in WITH_CHROMA_FORMAT:
        _skip_chroma_format(bits)
    frame_number_bits = bits.take_exp_golomb() + 4
    order_type = bits.take_exp_golomb()
    if order_type == 0:
        bits.take_exp_golomb()
    elif order_type == 1:
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


def _skip_chroma_format(bits: Bits) -> None:
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
            _skip_scaling_list(bits, 16 if number < 6 else 64)


def _skip_scaling_list(bits: Bits, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            code = bits.take_exp_golomb()
            change = (code + 1) // 2 if code % 2 else -(code // 2)
            following = (last + change) % 256
        last = following or last
