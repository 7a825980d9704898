"""Laws of sampling: always inside, always the length asked for, the same for the same seed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dali_pipelines.errors import SpecError
from dali_pipelines.frame_plan import BRIGHTNESS_GAINS, FramePlan, lengthen
from dali_pipelines.sampling import plan_frames, plan_views
from dali_pipelines.spec import ClipSpec

SHORTS = ["loop", "hold", "lengthen-before", "lengthen-after"]
SAMPLINGS = ["uniform", "equidistant", "random", "segments"]

specs = st.builds(
    ClipSpec,
    num_frames=st.integers(1, 40),
    sampling=st.sampled_from(SAMPLINGS),
    stride=st.integers(1, 40),
    fps=st.none() | st.floats(0.5, 120),
    short=st.sampled_from(SHORTS),
)
lengths = st.integers(1, 400)
rates = st.just(0.0) | st.floats(1, 120)
seeds = st.none() | st.integers(0, 2**32)


def generator(seed: int | None) -> np.random.Generator | None:
    return None if seed is None else np.random.default_rng(seed)


@given(lengths, rates, specs, seeds)
def test_inside_the_clip_at_the_length_asked_for(
    length: int, fps: float, spec: ClipSpec, seed: int | None
) -> None:
    plan = plan_frames(length, fps, spec, generator(seed))
    assert len(plan) == spec.num_frames
    for indices in (plan.left, plan.right):
        assert indices.dtype == np.int64
        assert indices.min() >= 0
        assert indices.max() < length


@given(lengths, rates, specs, seeds)
def test_the_same_seed_plans_the_same(
    length: int, fps: float, spec: ClipSpec, seed: int | None
) -> None:
    first = plan_frames(length, fps, spec, generator(seed))
    second = plan_frames(length, fps, spec, generator(seed))
    assert np.array_equal(first.left, second.left)
    assert np.array_equal(first.right, second.right)
    assert np.array_equal(first.gain, second.gain)


@given(st.integers(40, 400), specs, seeds)
def test_long_enough_clips_keep_the_order_of_time(
    length: int, spec: ClipSpec, seed: int | None
) -> None:
    plan = plan_frames(length, 0.0, spec, generator(seed))
    long_enough = spec.sampling != "uniform" or length > (spec.num_frames - 1) * spec.stride
    if long_enough:
        assert plan.is_plain
        assert np.all(np.diff(plan.left) >= 1)  # and no frame comes twice


@given(lengths, rates, specs, st.integers(1, 12), st.sampled_from([1, 3]), st.booleans())
def test_views_obey_the_same_laws(
    length: int, fps: float, spec: ClipSpec, num_clips: int, num_crops: int, wide: bool
) -> None:
    size = (320, 240) if wide else (240, 320)
    views = plan_views(length, fps, *size, spec, num_clips=num_clips, num_crops=num_crops)
    assert len(views) == num_clips * num_crops
    for view in views:
        assert len(view.plan) == spec.num_frames
        assert view.plan.source_indices.min() >= 0
        assert view.plan.source_indices.max() < length
        assert (view.crop_y if wide else view.crop_x) == 0.5


def test_three_crops_lie_along_the_long_side() -> None:
    wide = plan_views(90, 30, 320, 240, ClipSpec(), num_crops=3)
    tall = plan_views(90, 30, 240, 320, ClipSpec(), num_crops=3)
    assert [view.crop_x for view in wide] == [0, 0.5, 1]
    assert [view.crop_y for view in tall] == [0, 0.5, 1]


def test_clips_of_a_test_span_the_video() -> None:
    spec = ClipSpec(num_frames=4, sampling="uniform", stride=2)
    views = plan_views(100, 30, 320, 240, spec, num_clips=3)
    assert [view.plan.left[0] for view in views] == [0, 46, 93]
    assert views[2].plan.left[-1] == 99


def test_uniform_is_the_published_rate_of_one_in_32() -> None:
    plan = plan_frames(301, 30, ClipSpec(num_frames=8, sampling="uniform", stride=32))
    assert np.all(np.diff(plan.left) == 32)
    assert plan.left[0] == (301 - 225) // 2  # the middle window


def test_uniform_starts_anywhere_in_training() -> None:
    spec = ClipSpec(num_frames=4, sampling="uniform", stride=2)
    starts = {plan_frames(20, 0, spec, generator(seed)).left[0] for seed in range(300)}
    assert starts == set(range(14))


def test_stride_counts_at_the_rate_that_the_spec_names() -> None:
    """A 60 fps file is walked in double steps, a file of unknown rate frame by frame."""
    spec = ClipSpec(num_frames=5, sampling="uniform", stride=2, fps=30)
    assert np.all(np.diff(plan_frames(200, 60, spec).left) == 4)
    assert np.all(np.diff(plan_frames(200, 30, spec).left) == 2)
    assert np.all(np.diff(plan_frames(200, 0, spec).left) == 2)
    assert np.mean(np.diff(plan_frames(200, 45, spec).left)) == 3
    assert np.all(np.diff(plan_frames(200, 5, spec).left) == 1)


def test_equidistant_goes_from_first_to_last() -> None:
    plan = plan_frames(90, 30, ClipSpec(num_frames=8))
    assert plan.left.tolist() == [0, 13, 25, 38, 51, 64, 76, 89]


def test_segments_take_one_frame_from_each_part() -> None:
    spec = ClipSpec(num_frames=4, sampling="segments")
    for seed in range(50):
        plan = plan_frames(42, 0, spec, generator(seed))
        edges = np.arange(5) * 42 // 4
        assert np.all((plan.left >= edges[:-1]) & (plan.left < edges[1:]))


def test_random_reaches_every_frame() -> None:
    spec = ClipSpec(num_frames=3, sampling="random")
    seen = {int(i) for seed in range(300) for i in plan_frames(9, 0, spec, generator(seed)).left}
    assert seen == set(range(9))


@pytest.mark.parametrize(
    ("short", "expected"),
    [("loop", [0, 1, 2, 0, 1, 2, 0, 1]), ("hold", [0, 1, 2, 2, 2, 2, 2, 2])],
)
def test_short_clips_loop_or_hold(short: str, expected: list[int]) -> None:
    spec = ClipSpec(num_frames=8, sampling="segments", short=short)
    assert plan_frames(3, 30, spec).left.tolist() == expected


def test_lengthening_goes_step_by_step() -> None:
    clip = FramePlan.of_indices(np.arange(3))
    doubled = lengthen(clip, 5)
    assert list(zip(doubled.left, doubled.right, strict=True)) == [
        (0, 0), (0, 1), (1, 1), (1, 2), (2, 2)
    ]  # fmt: skip
    reversed_too = lengthen(clip, 6)
    assert len(reversed_too) == 10
    assert np.array_equal(reversed_too.left[5:], doubled.left[::-1])
    bright = lengthen(clip, 50)
    assert len(bright) == 50
    assert np.allclose(np.unique(bright.gain), sorted((1.0, *BRIGHTNESS_GAINS)))
    assert len(lengthen(clip, 51)) == 51  # beyond all that, it begins again


def test_lengthening_before_and_after_sampling_differ() -> None:
    """8 frames at 1/32 take 225; a clip of 90 gives 3 of its own, or 8 of a lengthened clip."""
    before = ClipSpec(sampling="uniform", stride=32, short="lengthen-before")
    after = ClipSpec(sampling="uniform", stride=32, short="lengthen-after")
    assert set(plan_frames(90, 30, after).source_indices) == {0, 32, 64}
    assert len(plan_frames(90, 30, before).source_indices) > 5


def test_composing_averages_and_brightens() -> None:
    plan = FramePlan(
        left=np.array([4, 4, 9]), right=np.array([4, 9, 9]), gain=np.array([1, 1, 1.4], np.float32)
    )
    decoded = np.stack([np.full((2, 2, 3), 100, np.uint8), np.full((2, 2, 3), 201, np.uint8)])
    assert plan.source_indices.tolist() == [4, 9]
    assert plan.compose(decoded)[:, 0, 0, 0].tolist() == [100, 150, 255]


@given(lengths, specs, seeds)
def test_plain_plans_compose_to_the_frames_themselves(
    length: int, spec: ClipSpec, seed: int | None
) -> None:
    plan = plan_frames(length, 30, spec, generator(seed))
    decoded = (plan.source_indices % 256).astype(np.uint8)[:, None, None, None]
    composed = plan.compose(decoded)
    assert composed.shape == (spec.num_frames, 1, 1, 1)
    if plan.is_plain:
        assert np.array_equal(composed[:, 0, 0, 0], plan.left % 256)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"sampling": "often"}, "unknown sampling 'often'. Choose from: uniform, equidistant"),
        ({"num_frames": 0}, "num_frames must be a whole number of at least 1"),
        ({"num_frames": 2.5}, "num_frames must be a whole number"),
        ({"fps": float("nan")}, "fps must be a number above 0, not nan"),
        ({"mean": (float("nan"), 1.0, 1.0)}, "mean must be a list of 3, each a number, not"),
        ({"crop": 300}, "crop 300 is larger than the short side 256"),
        ({"fps": 0.0}, "fps must be a number above 0"),
        ({"mean": 1}, "mean must be a list of 3, each a number, not 1"),
        ({"std": (1.0, 0.0, 1.0)}, "std must be a list of 3, each a number above 0"),
        ({"color": 1}, "unknown clip settings: color"),
    ],
)
def test_a_spec_refuses_what_makes_no_sense(values: dict, reason: str) -> None:
    with pytest.raises(SpecError, match=reason):
        ClipSpec.from_dict(values)


@given(specs)
def test_a_spec_survives_json(spec: ClipSpec) -> None:
    import json

    assert ClipSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def test_an_empty_clip_cannot_be_sampled() -> None:
    with pytest.raises(SpecError, match="without frames"):
        plan_frames(0, 30, ClipSpec())
