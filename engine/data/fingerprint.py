"""A perceptual hash of a clip: near-duplicates differ in few bits, whatever their size or codec.

Three frames, a quarter, half and three quarters through, are shrunk and transformed by a DCT; each
of the 64 lowest frequencies gives one bit, above or below the median. Two copies of one clip agree;
two cuts of one film that don't overlap don't, so sources are still needed.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dali_pipelines import clip_file

SIDE = 32
LOW = 8
MOMENTS = (0.25, 0.5, 0.75)
MAX_DISTANCE = 20
"""Of 192 bits. Unrelated clips differ in 96, give or take 20; a copy re-encoded at half the size
differs in a few."""
PLAIN = 2.0
"""Standard deviation of grey levels below which a frame (black, a title) says nothing."""

Bits = NDArray[np.uint64]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Indices of two clips that look the same."""

    first: int
    second: int
    distance: int


def fingerprint(path: Path, num_frames: int) -> Bits | None:
    """Three words of 64 bits; None where the frames are too plain to tell clips apart."""
    wanted = np.unique(np.array([int(num_frames * moment) for moment in MOMENTS]))
    grey = clip_file.read_frames(path, wanted, size=(SIDE, SIDE), grey=True).astype(np.float64)
    if grey.std(axis=(1, 2)).min() < PLAIN:
        return None
    low = (_DCT @ grey @ _DCT.T)[:, :LOW, :LOW].reshape(len(grey), -1)
    bits = low > np.median(low, axis=1, keepdims=True)
    words = np.packbits(bits, axis=1).view(np.uint64)[:, 0]
    return np.resize(words, len(MOMENTS))


def near_duplicates(first: NDArray[np.uint64], second: NDArray[np.uint64]) -> list[Pair]:
    """All pairs across two sets of fingerprints, (N, 3) and (M, 3), within MAX_DISTANCE."""
    pairs = []
    for i, words in enumerate(first):
        distances = np.bitwise_count(second ^ words).sum(axis=1)
        for j in np.flatnonzero(distances <= MAX_DISTANCE):
            pairs.append(Pair(first=i, second=int(j), distance=int(distances[j])))
    return pairs


def _dct_matrix(size: int) -> NDArray[np.float64]:
    k, n = np.mgrid[0:size, 0:size]
    matrix = np.cos(math.pi * k * (2 * n + 1) / (2 * size))
    matrix[0] /= math.sqrt(2)
    return matrix * math.sqrt(2 / size)


_DCT = _dct_matrix(SIDE)
