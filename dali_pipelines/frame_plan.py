"""FramePlan: which frames of a clip to decode, and how to mix them into output frames.

A plan describes output frames by their source frames, so lengthening a clip costs nothing until
pixels are needed, and every loader, on CPU or GPU, can execute the same plan.
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]

BRIGHTNESS_GAINS = (0.6, 0.8, 1.2, 1.4)


@dataclass(frozen=True, kw_only=True)
class FramePlan:
    """Output frame t is gain[t] × the mean of the source frames left[t] and right[t]."""

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
        """Source frames to decode: sorted and unique."""
        return np.unique(np.concatenate([self.left, self.right]))

    @property
    def is_plain(self) -> bool:
        """Whether every output frame is an unchanged source frame."""
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
        """Return the pixels of the output frames.

        Args:
            decoded: Pixels of the frames `source_indices`, in this order.
        """
        indices = self.source_indices
        left = decoded[np.searchsorted(indices, self.left)]
        if self.is_plain:
            return left
        right = decoded[np.searchsorted(indices, self.right)]
        gain = self.gain.reshape(-1, *[1] * (decoded.ndim - 1))
        mixed: NDArray[Any] = (left.astype(np.float32) + right) * (gain / 2)
        return np.clip(np.rint(mixed), 0, 255).astype(np.uint8)


def lengthen(plan: FramePlan, min_frames: int) -> FramePlan:
    """Extend a plan to at least `min_frames` frames.

    These steps are applied in order until the plan is long enough: insert the average of each two
    neighboring frames; append the frames in reverse order; append darker and brighter copies;
    repeat everything from the start.
    """
    if len(plan) < min_frames:
        plan = _interpolated(plan)
    if len(plan) < min_frames:
        plan = plan.then(plan.take(np.arange(len(plan))[::-1]))
    unscaled = plan
    for gain in BRIGHTNESS_GAINS:
        if len(plan) < min_frames:
            plan = plan.then(
                FramePlan(
                    left=unscaled.left,
                    right=unscaled.right,
                    gain=(unscaled.gain * gain).astype(np.float32),
                )
            )
    if len(plan) < min_frames:
        plan = plan.take(np.arange(min_frames) % len(plan))
    return plan


def _interpolated(plan: FramePlan) -> FramePlan:
    """Needs a plain plan: an average of averages would need more than two source frames."""
    assert plan.is_plain
    size = 2 * len(plan) - 1
    left = np.repeat(plan.left, 2)[:size]
    right = np.empty(size, np.int64)
    right[::2] = plan.left
    right[1::2] = plan.left[1:]
    return FramePlan(left=left, right=right, gain=np.ones(size, np.float32))
