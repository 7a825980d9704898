"""Which packets of a video must be decoded for the frames that are wanted.

A decoder can begin at a keyframe and nowhere else, and a frame needs all reference frames between
that keyframe and itself. Everything else can be left alone.
"""

import bisect
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Self

import av
import numpy as np

from dali_pipelines.frame_plan import IntArray

MAX_REMEMBERED = 16_000_000
"""Packets in the indices that are kept for long files, over all files: about 256 MB."""
FILE_SIZE = 1000
"""What a file counts beside its packets, so that millions of short ones aren't kept."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """Packets [start, stop) in decoding order; the first is a keyframe."""

    start: int
    stop: int


@dataclass(frozen=True, kw_only=True)
class PacketIndex:
    shown_pts: IntArray
    """Time stamps in the order in which frames are shown: frame number → time stamp."""
    positions: IntArray
    """Where in decoding order the packet of each shown frame stands."""
    keyframes: IntArray
    """Positions of keyframes, ascending."""
    keyframe_pts: IntArray

    @classmethod
    def of(cls, packets: Iterable[av.Packet], *, reorders: bool) -> Self | None:
        """None where time stamps don't tell the order: then all frames must be counted.

        `reorders`: the decoder shows frames in another order than it gets them. AVI doesn't store
        that order, and for H.264 there FFmpeg's stamps just count the packets.
        """
        pts: list[int] = []
        shown: list[int] = []
        keyframes: list[int] = []
        for position, packet in enumerate(packets):
            if packet.pts is None:
                return None
            pts.append(packet.pts)
            if packet.is_keyframe:
                keyframes.append(position)
            if not packet.is_discard:  # an edit list hides it, though others may need it
                shown.append(position)
        if not shown or keyframes[:1] != [0]:
            return None
        stamps = np.array(pts, np.int64)
        if reorders and np.all(np.diff(stamps) > 0):
            return None
        visible = np.array(shown, np.int64)
        order = np.argsort(stamps[visible], kind="stable")
        shown_pts = stamps[visible][order]
        if np.any(np.diff(shown_pts) == 0):
            return None
        return cls(
            shown_pts=shown_pts,
            positions=visible[order],
            keyframes=np.array(keyframes, np.int64),
            keyframe_pts=stamps[keyframes],
        )

    def __len__(self) -> int:
        return len(self.shown_pts)

    def number_of(self, pts: int | None) -> int | None:
        """The number of the frame that is shown at `pts`."""
        if pts is None:
            return None
        number = int(np.searchsorted(self.shown_pts, pts))
        return number if number < len(self) and self.shown_pts[number] == pts else None

    def runs(self, wanted: list[int]) -> list[Run]:
        """The packets to decode for the frames `wanted` (ascending)."""
        runs: list[Run] = []
        for number in wanted:
            position = int(self.positions[number])
            start = self._keyframe_for(number, position)
            if runs and start <= runs[-1].stop:
                runs[-1] = Run(start=runs[-1].start, stop=max(runs[-1].stop, position + 1))
            else:
                runs.append(Run(start=start, stop=position + 1))
        return runs

    def _keyframe_for(self, number: int, position: int) -> int:
        """The last keyframe that neither comes after the frame in the file nor is shown after it.

        Frames that stand behind a keyframe but are shown before it may need what came earlier.
        """
        nearest = bisect.bisect_right(self.keyframes, position) - 1
        while nearest > 0 and self.keyframe_pts[nearest] > self.shown_pts[number]:
            nearest -= 1
        return int(self.keyframes[nearest])


class IndexMemory:
    """Indices of long files, so that each is walked through once and not for every sample."""

    def __init__(self) -> None:
        self._indices: OrderedDict[tuple[Path, int, int], PacketIndex | None] = OrderedDict()
        self._size = 0
        self._lock = Lock()

    def get(self, path: Path) -> tuple[bool, PacketIndex | None]:
        with self._lock:
            key = _key(path)
            if key not in self._indices:
                return False, None
            self._indices.move_to_end(key)
            return True, self._indices[key]

    def put(self, path: Path, index: PacketIndex | None) -> None:
        with self._lock:
            key = _key(path)
            if key in self._indices:
                self._size -= _size(self._indices.pop(key))
            self._indices[key] = index
            self._size += _size(index)
            while self._size > MAX_REMEMBERED:
                _, oldest = self._indices.popitem(last=False)
                self._size -= _size(oldest)


def _size(index: PacketIndex | None) -> int:
    return FILE_SIZE + (len(index) if index else 0)


def _key(path: Path) -> tuple[Path, int, int]:
    status = path.stat()
    return path, status.st_size, status.st_mtime_ns
