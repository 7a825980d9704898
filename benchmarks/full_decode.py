"""Every picture of a video in turn, as PyAV's own examples decode it: what a frame number means.

Nothing here uses our decoder, which is held against it.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self, cast

import av
import numpy as np
from numpy.typing import NDArray

from dali_pipelines.decode.pixels import Frame, quarter_turns

CELLS = 48
"""A picture is compared by its means in so many rows and columns."""
CLEARLY = 0.5
"""So many times the distance of the wanted picture at most, for another one to be meant."""


def frames_in_turn(path: Path) -> Iterator[av.VideoFrame]:
    """Raises PyAV's errors. Metadata need not be UTF-8: in HMDB51 it isn't always."""
    with av.open(str(path.absolute()), metadata_errors="replace") as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        for packet in container.demux(stream):
            yield from packet.decode()


def count_frames(path: Path) -> int:
    return sum(1 for _ in frames_in_turn(path))


def to_rgb(frame: av.VideoFrame) -> Frame:
    """As it is coded: where the file asks for a turned picture, it isn't turned."""
    return cast(Frame, frame.to_ndarray(format="rgb24"))


def small(picture: Frame) -> NDArray[np.float32]:
    """(CELLS, CELLS): gray means of cells, less the mean of all.

    It tells pictures of one video apart, whatever their size and however YUV became RGB.
    """
    height, width = picture.shape[:2]
    rows = np.linspace(0, height, CELLS + 1).astype(int)
    columns = 3 * np.linspace(0, width, CELLS + 1).astype(int)
    lines = picture.reshape(height, 3 * width)
    bands = np.add.reduceat(lines, rows[:-1], axis=0, dtype=np.uint32)
    sums = np.add.reduceat(bands, columns[:-1], axis=1)
    means = sums / (np.maximum(np.diff(rows), 1)[:, None] * np.maximum(np.diff(columns), 1))
    return (means - means.mean()).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class FullDecode:
    small_TN: NDArray[np.float32]
    """Of all pictures, small. About 9 kB a picture."""
    digests: dict[int, str]
    """Of the wanted pictures in RGB."""
    quarter_turns: int
    """Counter-clockwise, by which the file asks to be turned for display."""

    @classmethod
    def of(cls, path: Path, numbers: tuple[int, ...]) -> Self:
        wanted = set(numbers)
        pictures, digests = [], {}
        turns = 0
        for number, frame in enumerate(frames_in_turn(path)):
            picture = to_rgb(frame)
            turns = quarter_turns(frame)
            pictures.append(small(picture).ravel())
            if number in wanted:
                digests[number] = _digest(np.rot90(picture, turns))
        return cls(small_TN=np.stack(pictures), digests=digests, quarter_turns=turns)

    def is_same(self, number: int, picture: Frame) -> bool:
        """Whether all its bytes are those of the wanted picture."""
        return _digest(picture) == self.digests[number]

    def number_of(self, picture: Frame, wanted: int) -> int:
        """Which picture this is: `wanted`, unless another one is clearly nearer.

        Where pictures are alike, and where they differ by less than conversions do, it is `wanted`.
        """
        nearest = None
        for turns in {0, self.quarter_turns}:  # some libraries turn pictures, and some don't
            distances_T = np.abs(self.small_TN - np.rot90(small(picture), -turns).ravel()).mean(1)
            if nearest is None or distances_T.min() < nearest.min():
                nearest = distances_T
        assert nearest is not None
        best = int(nearest.argmin())
        return best if nearest[best] < CLEARLY * nearest[wanted] else wanted


def _digest(picture: Frame) -> str:
    return hashlib.blake2b(np.ascontiguousarray(picture).tobytes(), digest_size=16).hexdigest()
