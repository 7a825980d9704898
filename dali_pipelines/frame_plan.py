"""FramePlan: which frames to decode for a clip, and what to mix from them.

A plan names output frames by the source frames they are made of, so that the lengthening pipeline
costs nothing until pixels are needed, and every loader, CPU or GPU, can carry out the same plan.
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]

BRIGHTNESS_GAINS = (0.6, 0.8, 1.2, 1.4)


@dataclass(frozen=True, kw_only=True)
class FramePlan:
    """Output frame t is gain[t] × the mean of source frames left[t] and right[t]."""

    left: IntArray
    right: IntArray
    gain: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.left)

    @classmethod
    def of_indices(cls, indices: IntArray) -> Self:
        return cls(left=indices, right=indices, gain=np.ones(len(indices), np.float32))

    @property
    def source_indices(self) -> IntArray:
        """The source frames a decoder must deliver: sorted, each once."""
        return np.unique(np.concatenate([self.left, self.right]))

    @property
    def is_plain(self) -> bool:
        """True where every output frame is a source frame as it is."""
        return bool(np.array_equal(self.left, self.right) and np.all(self.gain == 1))

    def take(self, positions: IntArray) -> "FramePlan":
        return FramePlan(
            left=self.left[positions], right=self.right[positions], gain=self.gain[positions]
        )

    def then(self, *others: "FramePlan") -> "FramePlan":
        plans = (self, *others)
        return FramePlan(
            left=np.concatenate([plan.left for plan in plans]),
            right=np.concatenate([plan.right for plan in plans]),
            gain=np.concatenate([plan.gain for plan in plans]),
        )

    def compose(self, decoded: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Pixels of the output frames; `decoded` holds the frames of `source_indices` in order."""
        order = self.source_indices
        left = decoded[np.searchsorted(order, self.left)]
        if self.is_plain:
            return left
        right = decoded[np.searchsorted(order, self.right)]
        gain = self.gain.reshape(-1, *[1] * (decoded.ndim - 1))
        mixed: NDArray[Any] = (left.astype(np.float32) + right) * (gain / 2)
        return np.clip(np.rint(mixed), 0, 255).astype(np.uint8)


def lengthen(plan: FramePlan, wanted: int) -> FramePlan:
    """Make `plan` at least `wanted` frames long; the gentlest step comes first.

    A frame averaged from its neighbors goes between each two; then the whole runs backwards; then
    it is repeated darker and brighter; what is still too short begins again.
    """
    if len(plan) < wanted:
        plan = _with_averages_between(plan)
    if len(plan) < wanted:
        plan = plan.then(plan.take(np.arange(len(plan))[::-1]))
    natural = plan
    for gain in BRIGHTNESS_GAINS:
        if len(plan) < wanted:
            plan = plan.then(
                FramePlan(
                    left=natural.left,
                    right=natural.right,
                    gain=(natural.gain * gain).astype(np.float32),
                )
            )
    if len(plan) < wanted:
        plan = plan.take(np.arange(wanted) % len(plan))
    return plan


def _with_averages_between(plan: FramePlan) -> FramePlan:
    """Expects a plain plan: an average of averages would need more than two source frames."""
    assert plan.is_plain
    size = 2 * len(plan) - 1
    left = np.repeat(plan.left, 2)[:size]
    right = np.empty(size, np.int64)
    right[::2] = plan.left
    right[1::2] = plan.left[1:]
    return FramePlan(left=left, right=right, gain=np.ones(size, np.float32))
