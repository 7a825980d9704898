"""Which coded pictures of a video must be decoded for the frames that are wanted.

A decoder can begin at a keyframe and nowhere else, and a frame needs all reference frames between
that keyframe and itself. Everything else can be left alone. A picture's position is its place in
decoding order; a frame's number is its place in the order of display.
"""

import bisect
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Self

import av
import numpy as np

from dali_pipelines.decode import mpeg4
from dali_pipelines.decode.coded_pictures import PictureReader
from dali_pipelines.frame_plan import IntArray

LARGEST_DELAY = 64
"""Pictures between decoding and display. No codec needs as many: time stamps begin anew there."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """Pictures [start, stop) in decoding order; the first is a keyframe."""

    start: int
    stop: int


class Entry(NamedTuple):
    """What is kept of a packet where the packet itself isn't."""

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


class Mark(NamedTuple):
    """By what a keyframe of a long file is found again."""

    pts: int | None
    dts: int | None
    offset: int | None

    @classmethod
    def of(cls, packet: av.Packet | Entry) -> Self:
        return cls(packet.pts, packet.dts, packet.pos)

    def fits(self, packet: av.Packet) -> bool:
        """Some demuxers count anew after seeking, but not in all three."""
        pairs = zip(self, Mark.of(packet), strict=True)
        return any(known is not None and known == found for known, found in pairs)


@dataclass(frozen=True, kw_only=True)
class PacketIndex:
    positions: IntArray
    """Number of a frame → position of its picture."""
    numbers: IntArray
    """Position of a picture → number of its frame; -1 where none is shown."""
    ranks: IntArray
    """The same, but pictures that an edit list hides count too."""
    keyframes: IntArray
    """Positions of keyframes, ascending."""
    marks: list[Mark]
    """One for each keyframe."""
    sizes: IntArray
    """Bytes of the pictures, by position, where they have to be found again; else empty."""
    kinds: str = ""
    """Of MPEG-4's pictures, by position; empty for other codecs."""
    unseen: frozenset[int] = frozenset()
    """Positions of pictures that are decoded for the sake of others alone."""
    stamps: IntArray | None = None
    """When each frame is shown or, where `is_late`, decoded, ascending in the stream's clock; None
    where it isn't known."""
    is_late: bool = False
    """Whether each frame is shown as the next one is decoded."""
    last_duration: int = 0

    @classmethod
    def of(cls, reader: PictureReader, *, keep: list[av.Packet] | None = None) -> Self | None:
        """None where the order of display can't be known: then all frames must be counted.

        All of the stream is read in any case; its pictures' packets are put into `keep`.
        """
        packets: list[Any]
        if keep is None:
            packets = [Entry.of(packet) for packet in reader]
        else:
            keep += reader
            packets = keep
        walk = _Walk(reader, packets)
        order = walk.order()
        if order is None:
            return None
        numbers = _inverse(order, len(packets))
        stamps, is_late = walk.stamps(order)
        return cls(
            positions=np.array(order, np.int64),
            numbers=numbers,
            ranks=walk.ranks(numbers),
            keyframes=np.array(walk.keyframes, np.int64),
            marks=[Mark.of(packets[position]) for position in walk.keyframes],
            sizes=np.array([each.size for each in packets] if keep is None else [], np.int64),
            kinds=walk.kinds,
            unseen=frozenset(reader.unseen),
            stamps=stamps,
            is_late=is_late,
            last_duration=packets[order[-1]].duration or 0,
        )

    def __len__(self) -> int:
        return len(self.positions)

    def times(self) -> tuple[IntArray, int] | None:
        """When each frame is shown, and when the last one ends, in the stream's clock."""
        times = self.stamps
        if times is None:
            return None
        usual = int(np.median(np.diff(times))) if len(times) > 1 else 0
        if self.is_late and len(times) > 1:
            times = np.append(times[1:], times[-1] + usual)
        return times, int(times[-1]) + (self.last_duration or usual)

    def number_of(self, position: int | None) -> int:
        """The number of the frame whose picture is at `position`; -1 where there is none."""
        if position is None or not 0 <= position < len(self.numbers):
            return -1
        return int(self.numbers[position])

    def may_be_left_out(self, position: int) -> bool:
        """Whether no other picture refers to it; not known of most codecs."""
        return self.kinds[position : position + 1] == "B"

    def runs(self, wanted: list[int]) -> list[Run]:
        """The pictures to decode for the frames `wanted`, from front to back."""
        runs: list[Run] = []
        for position in sorted(self.positions[wanted].tolist()):
            start = self.keyframe_for(position)
            while runs and start <= runs[-1].stop:
                start = min(start, runs.pop().start)
            runs.append(Run(start=start, stop=position + 1))
        return runs

    def keyframe_for(self, position: int) -> int:
        """The last keyframe that neither comes after the picture nor is shown after it.

        Pictures that stand behind a keyframe but are shown before it may need what came earlier.
        """
        nearest = bisect.bisect_right(self.keyframes, position) - 1
        while nearest > 0 and self.ranks[self.keyframes[nearest]] > self.ranks[position]:
            nearest -= 1
        return int(self.keyframes[nearest])


class _Walk:
    """What a walk over a stream's pictures found."""

    def __init__(self, reader: PictureReader, packets: list[Any]) -> None:
        self._reader, self._packets = reader, packets
        self.kinds = reader.kinds
        self.keyframes = (
            [position for position, kind in enumerate(self.kinds) if kind == "I"]
            if self.kinds
            else [position for position, each in enumerate(packets) if each.is_keyframe]
        )

    @cached_property
    def _pts(self) -> list[int | None]:
        return [each.pts for each in self._packets]

    def order(self) -> list[int] | None:
        """Positions in the order of display, where it can be known."""
        reader = self._reader
        if self.keyframes[:1] != [0] or reader.has_fields:
            return None
        if self.kinds:
            return self._order_by_kind()
        away = reader.hidden | reader.unseen
        shown = [position for position in range(len(self._packets)) if position not in away]
        if not shown:
            return None
        known = [stamp for position in shown if (stamp := self._pts[position]) is not None]
        if len(set(known)) < len(shown):
            return None if reader.reorders and reader.may_have_b_frames else shown
        places = np.argsort(known)
        if np.abs(places - np.arange(len(places))).max() > LARGEST_DELAY:
            return None
        order: list[int] = np.array(shown)[places].tolist()
        if not reader.reorders:  # whatever the stamps say, the decoder goes by the packets
            return shown if order == shown else None
        if order == shown and reader.may_have_b_frames:
            return None  # where there are any, these stamps only count packets
        first = self._pts[0]
        if first is None or known[places[0]] < first:  # what is shown before it lacks references
            return None
        return order

    def _order_by_kind(self) -> list[int] | None:
        header = self._reader.unpacker.header if self._reader.unpacker else None
        has_b_frames = "B" in self.kinds
        if has_b_frames and (not self._reader.reorders or not header or header.is_interlaced):
            # Some frames come twice then; and interlaced B-frames depend on the first of all.
            return None
        order = mpeg4.order_of_display(self.kinds)
        return [each for each in order if each not in self._reader.hidden] or None

    def ranks(self, numbers: IntArray) -> IntArray:
        if not (self._reader.hidden or self._reader.unseen) or None in self._pts:
            return numbers
        if self.kinds:
            return _inverse(mpeg4.order_of_display(self.kinds), len(numbers))
        return np.argsort(np.argsort(np.array(self._pts, np.int64), kind="stable"))

    def stamps(self, order: list[int]) -> tuple[IntArray | None, bool]:
        """Of the frames, ascending; and whether they say when each is decoded, not shown."""
        from_decoding = bool(self.kinds) and not self._reader.stores_order
        use_dts = from_decoding or None in self._pts
        stamps = [each.dts for each in self._packets] if use_dts else self._pts
        known = [stamp for position in order if (stamp := stamps[position]) is not None]
        if len(known) < len(order):
            return None, False
        is_late = from_decoding and not self._reader.is_packed and "B" in self.kinds
        return np.sort(np.array(known, np.int64)), is_late


def _inverse(order: list[int], count: int) -> IntArray:
    numbers = np.full(count, -1, np.int64)
    numbers[order] = np.arange(len(order))
    return numbers
