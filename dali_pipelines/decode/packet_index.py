"""PacketIndex: which coded pictures of a video must be decoded to get certain frames.

Decoding can only start at a keyframe, and a frame needs all reference frames from that keyframe up
to itself; everything else can be skipped. The position of a picture is its index in decoding order;
the number of a frame is its index in display order.
"""

import bisect
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Self

import av
import numpy as np

from dali_pipelines.decode import mpeg4_packets
from dali_pipelines.decode.coded_pictures import PictureReader
from dali_pipelines.frame_plan import IntArray

LARGEST_DELAY = 64
"""Largest plausible distance between decoding and display order; beyond it, timestamps restart."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """Pictures [start, stop) in decoding order; the first is a keyframe."""

    start: int
    stop: int


class PacketInfo(NamedTuple):
    """Metadata of a packet that isn't kept in memory."""

    pts: int | None
    dts: int | None
    pos: int | None
    size: int
    duration: int | None
    is_keyframe: bool

    @classmethod
    def of(cls, packet: av.Packet) -> Self:
        return cls(
            packet.pts, packet.dts, packet.pos, packet.size, packet.duration, packet.is_keyframe
        )


class SeekPoint(NamedTuple):
    """Timestamps and file offset by which a keyframe is found again."""

    pts: int | None
    dts: int | None
    offset: int | None

    @classmethod
    def of(cls, packet: av.Packet | PacketInfo) -> Self:
        return cls(packet.pts, packet.dts, packet.pos)

    def matches(self, packet: av.Packet) -> bool:
        """Whether any value is the same; after seeking, some demuxers change one or two of them."""
        pairs = zip(self, SeekPoint.of(packet), strict=True)
        return any(expected is not None and expected == actual for expected, actual in pairs)


@dataclass(frozen=True, kw_only=True)
class PacketIndex:
    """Maps frame numbers to picture positions and back; knows the keyframes."""

    positions: IntArray
    """Number of a frame → position of its picture."""
    numbers: IntArray
    """Position of a picture → number of its frame; -1 if it is not displayed."""
    ranks: IntArray
    """Position of a picture → display order, including pictures that an edit list hides."""
    keyframes: IntArray
    """Positions of keyframes, ascending."""
    seek_points: list[SeekPoint]
    """One for each keyframe."""
    sizes: IntArray
    """Size of each picture in bytes, by position; empty if the packets are kept in memory."""
    kinds: str = ""
    """Types of MPEG-4 pictures, by position; empty for other codecs."""
    unseen: frozenset[int] = frozenset()
    """Positions of pictures that are only decoded as references."""
    stamps: IntArray | None = None
    """Display time of each frame (decoding time if `is_late`), ascending, in units of the stream's
    time base; None if unknown."""
    is_late: bool = False
    """Whether a frame is displayed when the next one is decoded."""
    last_duration: int = 0

    @classmethod
    def of(cls, reader: PictureReader, *, keep: list[av.Packet] | None = None) -> Self | None:
        """Index a stream; all of it is read.

        Args:
            reader: The pictures of the stream.
            keep: Collects the packets, if given.

        Returns:
            None if the display order can't be determined without decoding.
        """
        packets: list[Any]
        if keep is None:
            packets = [PacketInfo.of(packet) for packet in reader]
        else:
            keep += reader
            packets = keep
        stream = _Stream(reader, packets)
        order = stream.order()
        if order is None:
            return None
        numbers = _inverse(order, len(packets))
        stamps, is_late = stream.stamps(order)
        return cls(
            positions=np.array(order, np.int64),
            numbers=numbers,
            ranks=stream.ranks(numbers),
            keyframes=np.array(stream.keyframes, np.int64),
            seek_points=[SeekPoint.of(packets[position]) for position in stream.keyframes],
            sizes=np.array([packet.size for packet in packets] if keep is None else [], np.int64),
            kinds=stream.kinds,
            unseen=frozenset(reader.unseen),
            stamps=stamps,
            is_late=is_late,
            last_duration=packets[order[-1]].duration or 0,
        )

    def __len__(self) -> int:
        return len(self.positions)

    def times(self) -> tuple[IntArray, int] | None:
        """Return when each frame is displayed and when the last one ends; None if unknown.

        Times are in units of the stream's time base.
        """
        times = self.stamps
        if times is None:
            return None
        median_gap = int(np.median(np.diff(times))) if len(times) > 1 else 0
        if self.is_late and len(times) > 1:
            times = np.append(times[1:], times[-1] + median_gap)
        return times, int(times[-1]) + (self.last_duration or median_gap)

    def number_of(self, position: int | None) -> int:
        """Number of the frame at `position`; -1 if there is none."""
        if position is None or not 0 <= position < len(self.numbers):
            return -1
        return int(self.numbers[position])

    def may_be_left_out(self, position: int) -> bool:
        """Whether no other picture refers to this one; False if unknown, as for most codecs."""
        return self.kinds[position : position + 1] == "B"

    def runs(self, wanted: list[int]) -> list[Run]:
        """Return the pictures to decode for the frames `wanted`, in decoding order."""
        runs: list[Run] = []
        for position in sorted(self.positions[wanted].tolist()):
            start = self.keyframe_for(position)
            while runs and start <= runs[-1].stop:
                start = min(start, runs.pop().start)
            runs.append(Run(start=start, stop=position + 1))
        return runs

    def keyframe_for(self, position: int) -> int:
        """Position of the keyframe from which the picture at `position` can be decoded.

        That is the last keyframe before it in both decoding and display order: leading pictures,
        which follow a keyframe but are displayed before it, may refer to earlier pictures.
        """
        nearest = bisect.bisect_right(self.keyframes, position) - 1
        while nearest > 0 and self.ranks[self.keyframes[nearest]] > self.ranks[position]:
            nearest -= 1
        return int(self.keyframes[nearest])


class _Stream:
    """All packets of a stream, and the frame order that follows from them."""

    def __init__(self, reader: PictureReader, packets: list[Any]) -> None:
        self._reader, self._packets = reader, packets
        self.kinds = reader.kinds
        self.keyframes = (
            [position for position, kind in enumerate(self.kinds) if kind == "I"]
            if self.kinds
            else [position for position, packet in enumerate(packets) if packet.is_keyframe]
        )

    @cached_property
    def _pts(self) -> list[int | None]:
        return [packet.pts for packet in self._packets]

    def order(self) -> list[int] | None:
        """Positions in display order; None if it can't be determined."""
        reader = self._reader
        if self.keyframes[:1] != [0] or reader.has_fields:
            return None
        if self.kinds:
            return self._order_by_type()
        not_displayed = reader.hidden | reader.unseen
        displayed = [
            position for position in range(len(self._packets)) if position not in not_displayed
        ]
        if not displayed:
            return None
        known = [stamp for position in displayed if (stamp := self._pts[position]) is not None]
        if len(set(known)) < len(displayed):
            return None if reader.reorders and reader.may_have_b_frames else displayed
        by_time = np.argsort(known)
        if np.abs(by_time - np.arange(len(by_time))).max() > LARGEST_DELAY:
            return None
        order: list[int] = np.array(displayed)[by_time].tolist()
        if not reader.reorders:  # the decoder keeps packet order, regardless of timestamps
            return displayed if order == displayed else None
        if order == displayed and reader.may_have_b_frames:
            return None  # with B-frames, such timestamps only count packets
        first = self._pts[0]
        if first is None or known[by_time[0]] < first:  # leading pictures lack their references
            return None
        return order

    def _order_by_type(self) -> list[int] | None:
        header = self._reader.unpacker.header if self._reader.unpacker else None
        has_b_frames = "B" in self.kinds
        if has_b_frames and (not self._reader.reorders or not header or header.is_interlaced):
            # Some frames are then output twice, and interlaced B-frames depend on the first frame.
            return None
        order = mpeg4_packets.order_of_display(self.kinds)
        return [position for position in order if position not in self._reader.hidden] or None

    def ranks(self, numbers: IntArray) -> IntArray:
        if not (self._reader.hidden or self._reader.unseen) or None in self._pts:
            return numbers
        if self.kinds:
            return _inverse(mpeg4_packets.order_of_display(self.kinds), len(numbers))
        return np.argsort(np.argsort(np.array(self._pts, np.int64), kind="stable"))

    def stamps(self, order: list[int]) -> tuple[IntArray | None, bool]:
        """Return the timestamps of the frames, ascending, and PacketIndex.is_late."""
        uses_decoding_time = bool(self.kinds) and not self._reader.stores_order
        use_dts = uses_decoding_time or None in self._pts
        stamps = [packet.dts for packet in self._packets] if use_dts else self._pts
        known = [stamp for position in order if (stamp := stamps[position]) is not None]
        if len(known) < len(order):
            return None, False
        is_late = uses_decoding_time and not self._reader.is_packed and "B" in self.kinds
        return np.sort(np.array(known, np.int64)), is_late


def _inverse(order: list[int], count: int) -> IntArray:
    numbers = np.full(count, -1, np.int64)
    numbers[order] = np.arange(len(order))
    return numbers
