"""Frame sampling: which frames of a clip make a sample.

All loaders use these functions, in training and in testing. They are pure: the same frame count,
frame rate, spec and random state give the same plan. A plan never leaves the clip and always has
`spec.num_frames` frames. Pixels are mixed in frame_plan.py and decoded in decode/.
"""

from dataclasses import dataclass

import numpy as np

from dali_pipelines.errors import SpecError
from dali_pipelines.frame_plan import FramePlan, IntArray, lengthen
from dali_pipelines.spec import ClipSpec


@dataclass(frozen=True, kw_only=True)
class View:
    """One of several test views of a clip: its frames and the crop position (0 to 1)."""

    plan: FramePlan
    crop_x: float
    crop_y: float


def plan_frames(
    num_available: int,
    fps: float,
    spec: ClipSpec,
    rng: np.random.Generator | None = None,
) -> FramePlan:
    """Choose the frames of one sample.

    Args:
        num_available: Frames in the clip.
        fps: Frame rate of the clip; 0 if unknown.
        spec: How frames are sampled.
        rng: Source of randomness in training. None gives the deterministic plan for testing: the
            middle window, the middle of each segment, and evenly spaced frames for `random`.

    Raises:
        SpecError: The clip has no frames.
    """
    return _plan(num_available, fps, spec, rng, phase=None)


def plan_views(
    num_available: int,
    fps: float,
    width: int,
    height: int,
    spec: ClipSpec,
    *,
    num_clips: int = 1,
    num_crops: int = 1,
) -> list[View]:
    """Choose the test views of a clip: `num_clips` positions in time × `num_crops` crops.

    Args:
        num_available: Frames in the clip.
        fps: Frame rate of the clip; 0 if unknown.
        width: Width of the frames.
        height: Height of the frames.
        spec: How frames are sampled.
        num_clips: Number of views spread over time.
        num_crops: 1 for a center crop, 3 for crops along the long side.

    Raises:
        SpecError: `num_clips` or `num_crops` is invalid, or the clip has no frames.
    """
    if num_clips < 1:
        raise SpecError(f"the number of test clips must be at least 1, not {num_clips}")
    if num_crops not in (1, 3):
        raise SpecError(f"the number of test crops must be 1 or 3, not {num_crops}")
    if num_clips == 1:
        plans = [plan_frames(num_available, fps, spec)]
    else:
        phases = np.linspace(0.0, 1.0, num_clips)
        plans = [_plan(num_available, fps, spec, None, phase=float(phase)) for phase in phases]
    anchors = (0.5,) if num_crops == 1 else (0.0, 0.5, 1.0)
    is_wide = width >= height
    return [
        View(plan=plan, crop_x=anchor if is_wide else 0.5, crop_y=0.5 if is_wide else anchor)
        for plan in plans
        for anchor in anchors
    ]


def _plan(
    num_available: int,
    fps: float,
    spec: ClipSpec,
    rng: np.random.Generator | None,
    *,
    phase: float | None,
) -> FramePlan:
    if num_available < 1:
        raise SpecError("a clip without frames can't be sampled")
    step = _frame_step(fps, spec)
    needed = _span(spec.num_frames, step) if spec.sampling == "uniform" else spec.num_frames

    def pick(length: int) -> IntArray:
        return _pick(length, step, spec, rng, phase)

    if num_available >= needed:
        return FramePlan.of_indices(pick(num_available))
    if spec.short == "loop":
        return FramePlan.of_indices(pick(needed) % num_available)
    if spec.short == "hold":
        return FramePlan.of_indices(np.minimum(pick(needed), num_available - 1))
    if spec.short == "lengthen-before":
        longer = lengthen(FramePlan.of_indices(np.arange(num_available)), needed)
        return longer.take(pick(len(longer)))
    sample_step = step if spec.sampling == "uniform" else 1.0
    sampled = np.floor(np.arange(0, num_available, sample_step)).astype(np.int64)
    return lengthen(FramePlan.of_indices(sampled), spec.num_frames).take(np.arange(spec.num_frames))


def _frame_step(fps: float, spec: ClipSpec) -> float:
    """`stride` in frames of this file; at least one frame, so that no frame is repeated."""
    if spec.fps is None or fps <= 0:
        return float(spec.stride)
    return max(1.0, spec.stride * fps / spec.fps)


def _span(num_frames: int, step: float) -> int:
    return int(np.floor((num_frames - 1) * step)) + 1


def _pick(
    length: int, step: float, spec: ClipSpec, rng: np.random.Generator | None, phase: float | None
) -> IntArray:
    """Choose indices from `length` frames, which must be enough; `phase` (0 to 1) is the time."""
    count = spec.num_frames
    if spec.sampling == "uniform":
        slack = length - _span(count, step)
        if rng is not None:
            start = int(rng.integers(slack + 1))
        else:
            start = round((0.5 if phase is None else phase) * slack)
        return start + np.floor(np.arange(count) * step).astype(np.int64)
    if spec.sampling == "random" and rng is not None:
        return np.sort(rng.choice(length, size=count, replace=False)).astype(np.int64)

    edges = np.arange(count + 1) * length // count
    first, last = edges[:-1], edges[1:] - 1
    if spec.sampling == "segments" and rng is not None:
        return rng.integers(first, last + 1)
    if phase is not None:
        return first + np.floor(phase * (last - first) + 0.5).astype(np.int64)
    if spec.sampling == "segments" or count == 1:
        return (first + last) // 2
    return np.floor(np.linspace(0, length - 1, count) + 0.5).astype(np.int64)
