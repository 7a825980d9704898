"""Perceptual fingerprints of clips, to find near-duplicates of any size and codec.

Three frames, at 25%, 50% and 75% of the clip, are shrunk. Their perceptual hash (the 64 lowest
frequencies of a DCT, each above or below the median) finds candidates fast; the correlation of the
shrunk frames then confirms them. Two cuts of one film that don't overlap have different
fingerprints, so the sources of clips are still needed to find leaks.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dali_pipelines.decode import clip_file

SIDE = 32
LOW = 8
MOMENTS = (0.25, 0.5, 0.75)
MAX_DISTANCE = 28
"""Bits of 192 in which the hashes of a candidate pair may differ. Unrelated clips differ in about
96 bits; copies at half the size and in another codec differed in up to 8."""
MIN_CORRELATION = 0.95
"""Lowest correlation of the shrunk frames, over the three frames. Copies as above, also 25%
brighter, reached 0.98; other candidate pairs of the synthetic dataset stayed below 0.88."""
MIN_CONTRAST = 2.0
"""Standard deviation of gray levels below which a frame (black, a title) can't be compared."""


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """Hash and shrunk frames of one clip."""

    hash: NDArray[np.uint64]
    """One 64-bit hash for each frame."""
    pictures: NDArray[np.float32]
    """One shrunk frame in each row, with mean 0 and norm 1."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Indices of two clips that are near-duplicates."""

    first: int
    second: int
    distance: int
    """Number of hash bits that differ."""


def fingerprint(path: Path, num_frames: int) -> Fingerprint | None:
    """Fingerprint of a clip; None if a frame has too little contrast to be compared."""
    moments = np.array([int(num_frames * moment) for moment in MOMENTS])
    indices, order = np.unique(moments, return_inverse=True)
    frames = clip_file.read_frames(path, indices, size=(SIDE, SIDE))[order].astype(np.float32)
    gray = frames.mean(axis=3)
    if gray.std(axis=(1, 2)).min() < MIN_CONTRAST:
        return None
    low = (_DCT @ gray @ _DCT.T)[:, :LOW, :LOW].reshape(len(MOMENTS), -1)
    bits = low > np.median(low, axis=1, keepdims=True)
    halved = frames.reshape(len(MOMENTS), SIDE // 2, 2, SIDE // 2, 2, 3).mean(axis=(2, 4))
    pictures = halved.reshape(len(MOMENTS), -1)
    pictures -= pictures.mean(axis=1, keepdims=True)
    pictures /= np.linalg.norm(pictures, axis=1, keepdims=True)
    return Fingerprint(hash=np.packbits(bits, axis=1).view(np.uint64)[:, 0], pictures=pictures)


def near_duplicates(first: Sequence[Fingerprint], second: Sequence[Fingerprint]) -> list[Pair]:
    """All near-duplicate pairs of a clip in `first` and a clip in `second`."""
    if not first or not second:
        return []
    hashes = np.stack([entry.hash for entry in second])
    pairs = []
    for i, entry in enumerate(first):
        distances = np.bitwise_count(hashes ^ entry.hash).sum(axis=1)
        for j in map(int, np.flatnonzero(distances <= MAX_DISTANCE)):
            correlation = (entry.pictures * second[j].pictures).sum(axis=1).min()
            if correlation >= MIN_CORRELATION:
                pairs.append(Pair(first=i, second=j, distance=int(distances[j])))
    return pairs


def _dct_matrix(size: int) -> NDArray[np.float64]:
    k, n = np.mgrid[0:size, 0:size]
    matrix = np.cos(math.pi * k * (2 * n + 1) / (2 * size))
    matrix[0] /= math.sqrt(2)
    return matrix * math.sqrt(2 / size)


_DCT = _dct_matrix(SIDE)
