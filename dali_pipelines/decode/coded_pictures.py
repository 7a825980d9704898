"""Reads the coded pictures of a stream, one per packet, in decoding order.

A container's packet is not always one displayed picture: DivX packs two pictures into a packet (see
mpeg4.py), and VP8 and VP9 have pictures that are decoded but never displayed.
"""

from collections.abc import Iterator

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from dali_pipelines.decode import h264_headers
from dali_pipelines.decode.mpeg4_packets import Unpacker
from dali_pipelines.decode.video_stream import demux

AV1_HEADERS = (3, 7)
"""Types of OBUs with a frame header and no picture."""
MPEG2_B = 3
"""picture_coding_type of a B-frame, ISO/IEC 13818-2, 6.3.9."""


class PictureReader:
    """Yields packets with one picture each. Iterate once; the attributes are valid afterwards."""

    def __init__(self, container: InputContainer, stream: VideoStream) -> None:
        self._container, self._stream = container, stream
        context = stream.codec_context
        self.unpacker = Unpacker(context.extradata or b"") if context.name == "mpeg4" else None
        self.h264 = (
            h264_headers.Stream.of(context.extradata or b"") if context.name == "h264" else None
        )
        self.unseen: set[int] = set()
        """Positions of pictures that are only decoded as references."""
        self.hidden: set[int] = self.unpacker.hidden if self.unpacker else set()
        """Positions of pictures that an edit list hides."""
        self.has_fields = False
        """Whether any frame is coded as two pictures (fields)."""
        self.may_have_b_frames = False
        """Whether the pictures before the first reordered timestamp may include B-frames."""
        self.is_whole = False
        """Whether the stream was read to its end."""

    @property
    def kinds(self) -> str:
        """Types of MPEG-4 pictures: I, P, S, B, or N (not coded). Empty for other codecs."""
        return "".join(self.unpacker.kinds) if self.unpacker else ""

    @property
    def is_packed(self) -> bool:
        return self.unpacker is not None and self.unpacker.has_packed_pictures

    @property
    def reorders(self) -> bool:
        """Whether display order may differ from decoding order."""
        return bool(self._stream.codec_context.has_b_frames)

    @property
    def stores_order(self) -> bool:
        """Whether the container stores display times. AVI doesn't: its timestamps count packets."""
        return self._container.format.name != "avi"

    def __iter__(self) -> Iterator[av.Packet]:
        if self.unpacker is not None:
            yield from self.unpacker.unpack(self._packets())
            return
        codec = self._stream.codec_context.codec.canonical_name
        is_frame = IS_FRAME.get(codec)
        watches_order, last = self.reorders, -1
        for position, packet in enumerate(self._packets()):
            if watches_order and packet.pts is not None:
                watches_order, last = packet.pts > last and not self.may_have_b_frames, packet.pts
            if watches_order:
                self.may_have_b_frames = self._may_be_b_frame(codec, packet)
            if self.h264 is not None and self.h264.may_have_fields and not self.has_fields:
                self.has_fields = self.h264.is_field(bytes(packet))
            if is_frame is not None and not is_frame(packet):
                self.unseen.add(position)
            if packet.is_discard:
                self.hidden.add(position)
            yield packet

    def _may_be_b_frame(self, codec: str, packet: av.Packet) -> bool:
        if self.h264 is not None:
            return self.h264.is_b_frame(bytes(packet))
        if codec in ("mpeg1video", "mpeg2video"):
            header = bytes(packet).partition(b"\0\0\1\0")[2]
            return len(header) < 2 or header[1] >> 3 & 7 == MPEG2_B
        return True

    def _packets(self) -> Iterator[av.Packet]:
        for packet in demux(self._container, self._stream):
            if packet.size:
                yield packet
            else:
                self.is_whole = True


def _vp8_is_frame(packet: av.Packet) -> bool:
    return bool(memoryview(packet)[0] & 0x10)


def _vp9_is_frame(packet: av.Packet) -> bool:
    """Whether a packet is displayed; of a packet with several frames, the last one is."""
    data = memoryview(packet)
    first = data[0]
    if first >> 6 != 2 or data[-1] & 0xE0 == 0xC0:  # it ends with a superframe index
        return True
    return _vp9_shows_existing(packet) or bool(first >> _vp9_shift(first) & 1)


def _vp9_shift(first: int) -> int:
    """Position of the flag show_frame in the first byte; profile 3 has one more header bit."""
    return 0 if first & 0x30 == 0x30 else 1


def _vp9_shows_existing(packet: av.Packet) -> bool:
    first = memoryview(packet)[0]
    return first >> 6 == 2 and bool(first >> (_vp9_shift(first) + 2) & 1)


def _av1_shows_existing(packet: av.Packet) -> bool:
    units = _av1_units(bytes(packet))
    return any(kind in AV1_HEADERS and unit[0] & 0x80 for kind, unit in units)


def _av1_units(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Types and contents of the OBUs of a packet; AV1 specification, 5.3."""
    place = 0
    while place < len(data):
        header = data[place]
        place += 2 if header & 4 else 1  # an extension has one byte
        size = len(data) - place
        if header & 2:
            size = shift = 0
            while place < len(data):
                byte = data[place]
                place, size, shift = place + 1, size | (byte & 0x7F) << shift, shift + 7
                if not byte & 0x80:
                    break
        if unit := data[place : place + size]:
            yield header >> 3 & 15, unit
        place += size


IS_FRAME = {"vp8": _vp8_is_frame, "vp9": _vp9_is_frame}
SHOWS_EXISTING = {"vp9": _vp9_shows_existing, "av1": _av1_shows_existing}
"""Whether a packet holds no picture, but shows one again that was decoded before."""
