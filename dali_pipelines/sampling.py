"""Which frames of a clip make a sample: the one place where that is decided.

Every loader, on CPU and GPU, in training and in testing, calls these functions. They are pure: the
same frame count, rate, spec and random state give the same plan, always inside the clip and always
of the length asked for. Mixing pixels is frame_plan.py's business, decoding video_file.py's.
"""

from dataclasses import dataclass

import numpy as np

from dali_pipelines.errors import SpecError
from dali_pipelines.frame_plan import FramePlan, IntArray, lengthen
from dali_pipelines.spec import ClipSpec


@dataclass(frozen=True, kw_only=True)
class View:
    """One of several looks at a clip in testing: frames, and where the crop sits (0 to 1)."""

    plan: FramePlan
    crop_x: float
    crop_y: float


def plan_frames(
    num_available: int,
    fps: float,
    spec: ClipSpec,
    rng: np.random.Generator | None = None,
) -> FramePlan:
    """The frames of one sample from a clip of `num_available` frames at `fps` (0: unknown).

    Without `rng` the plan is the deterministic one for testing: the middle window, the middle of
    each segment, and for `random` evenly spaced frames.
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
    """`num_clips` looks spread over time, by one center crop or three along the long side."""
    if num_clips < 1:
        raise SpecError(f"the number of clips in a test must be at least 1, not {num_clips}")
    if num_crops not in (1, 3):
        raise SpecError(f"the number of crops in a test is 1 or 3, not {num_crops}")
    if num_clips == 1:
        plans = [plan_frames(num_available, fps, spec)]
    else:
        phases = np.linspace(0.0, 1.0, num_clips)
        plans = [_plan(num_available, fps, spec, None, phase=float(phase)) for phase in phases]
    anchors = (0.5,) if num_crops == 1 else (0.0, 0.5, 1.0)
    wide = width >= height
    return [
        View(plan=plan, crop_x=anchor if wide else 0.5, crop_y=0.5 if wide else anchor)
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
    walk = step if spec.sampling == "uniform" else 1.0
    sampled = np.floor(np.arange(0, num_available, walk)).astype(np.int64)
    return lengthen(FramePlan.of_indices(sampled), spec.num_frames).take(np.arange(spec.num_frames))


def _frame_step(fps: float, spec: ClipSpec) -> float:
    """`stride` in frames of this file; never under one frame, so that no frame comes twice."""
    if spec.fps is None or fps <= 0:
        return float(spec.stride)
    return max(1.0, spec.stride * fps / spec.fps)


def _span(num_frames: int, step: float) -> int:
    return int(np.floor((num_frames - 1) * step)) + 1


def _pick(
    length: int, step: float, spec: ClipSpec, rng: np.random.Generator | None, phase: float | None
) -> IntArray:
    """Indices into `length` frames, which are enough. `phase`, 0 to 1, places a view in time."""
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
