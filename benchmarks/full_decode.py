"""Decodes all frames of a video in order, as in PyAV's examples: the reference for frame numbers.

Our decoder is checked against this, so nothing here uses it.
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
from dali_pipelines.decode.video_stream import ANY_METADATA

CELLS = 48
"""Frames are compared by the means of CELLS x CELLS cells."""
CLEARLY = 0.5
"""Another frame matches only below this fraction of the distance to the expected frame."""


def frames_in_turn(path: Path) -> Iterator[av.VideoFrame]:
    """Yield all frames in order; raises PyAV's errors."""
    # Metadata is not always UTF-8, for example in HMDB51.
    with av.open(str(path.absolute()), **ANY_METADATA) as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        for packet in container.demux(stream):
            yield from packet.decode()


def count_frames(path: Path) -> int:
    return sum(1 for _ in frames_in_turn(path))


def to_rgb(frame: av.VideoFrame) -> Frame:
    """Convert to RGB as coded, without applying the rotation of the file."""
    return cast(Frame, frame.to_ndarray(format="rgb24"))


def small(picture: Frame) -> NDArray[np.float32]:
    """Return a descriptor (CELLS, CELLS): gray means of cells, minus the mean of all cells.

    It distinguishes the frames of a video, independent of their size and of the YUV conversion.
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
    """Descriptors of all frames, about 9 kB per frame."""
    digests: dict[int, str]
    """Digests of the requested frames in RGB."""
    quarter_turns: int
    """Counter-clockwise rotation for display, in quarter turns."""

    @classmethod
    def of(cls, path: Path, numbers: tuple[int, ...]) -> Self:
        wanted = set(numbers)
        descriptors, digests = [], {}
        turns = 0
        for number, frame in enumerate(frames_in_turn(path)):
            picture = to_rgb(frame)
            turns = quarter_turns(frame)
            descriptors.append(small(picture).ravel())
            if number in wanted:
                digests[number] = _digest(np.rot90(picture, turns))
        return cls(small_TN=np.stack(descriptors), digests=digests, quarter_turns=turns)

    def is_same(self, number: int, picture: Frame) -> bool:
        """Whether a frame is identical to frame `number`, byte by byte."""
        return _digest(picture) == self.digests[number]

    def number_of(self, picture: Frame, wanted: int) -> int:
        """Return the number of a frame: `wanted`, unless another frame is clearly closer.

        Frames that differ less than color conversions do count as `wanted`.
        """
        nearest = None
        for turns in {0, self.quarter_turns}:  # some libraries apply the rotation, some don't
            distances_T = np.abs(self.small_TN - np.rot90(small(picture), -turns).ravel()).mean(1)
            if nearest is None or distances_T.min() < nearest.min():
                nearest = distances_T
        assert nearest is not None
        best = int(nearest.argmin())
        return best if nearest[best] < CLEARLY * nearest[wanted] else wanted


def _digest(picture: Frame) -> str:
    return hashlib.blake2b(np.ascontiguousarray(picture).tobytes(), digest_size=16).hexdigest()
