"""Augmentation parameters of a clip: crop, flip and color. No pixels are changed here.

The random parameters are a pure function of (seed, epoch, clip, repeat), so every loader, every
rank and a resumed run draws the same values. The loaders pass them to their operators.
"""

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from dali_pipelines.frame_plan import FramePlan
from dali_pipelines.sampling import plan_frames
from dali_pipelines.settings import Range, Share, check
from dali_pipelines.spec import ClipSpec


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Training augmentation. All frames of a clip get the same parameters.

    The crop position is always random. Brightness, contrast and saturation are drawn from
    [1 - value, 1 + value], hue from [-value, value] degrees; 0 disables them.
    """

    flip: bool = True
    """Mirror a clip with probability 0.5; disable it when classes differ by left and right."""
    brightness: Share = 0.0
    contrast: Share = 0.0
    saturation: Share = 0.0
    hue: Annotated[float, Range(least=0, most=180)] = 0.0

    def __post_init__(self) -> None:
        check(self)

    @property
    def changes_color(self) -> bool:
        return max(self.brightness, self.contrast, self.saturation, self.hue) > 0


@dataclass(frozen=True, kw_only=True)
class ClipView:
    """One view of a clip: its frames, the crop position (0 to 1) and the augmentation values."""

    plan: FramePlan
    crop_x: float = 0.5
    crop_y: float = 0.5
    mirror: bool = False
    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0


def training_view(
    num_available: int,
    fps: float,
    spec: ClipSpec,
    augment: Augment,
    *,
    seed: int,
    epoch: int,
    clip: int,
    repeat: int = 0,
) -> ClipView:
    """Draw a random training view.

    Args:
        num_available: Frames in the clip.
        fps: Frame rate of the clip; 0 if unknown.
        spec: How frames are sampled.
        augment: Which augmentations are applied, and how strongly.
        seed: Seed of the run.
        epoch: Number of the epoch.
        clip: Id of the clip.
        repeat: Which repetition of the clip within the epoch.
    """
    rng = np.random.default_rng([seed, epoch, clip, repeat])
    plan = plan_frames(num_available, fps, spec, rng)
    crop_x, crop_y, coin = rng.random(3)
    low_high = [
        (1 - change, 1 + change)
        for change in (augment.brightness, augment.contrast, augment.saturation)
    ]
    brightness, contrast, saturation = (rng.uniform(low, high) for low, high in low_high)
    return ClipView(
        plan=plan,
        crop_x=crop_x,
        crop_y=crop_y,
        mirror=augment.flip and coin < 0.5,
        brightness=brightness,
        contrast=contrast,
        saturation=saturation,
        hue=rng.uniform(-augment.hue, augment.hue),
    )


def crop_offset(length: int, crop: int, position: float) -> int:
    """First pixel of a crop: `position` 0 is left or top, 1 is right or bottom, 0.5 the center."""
    return int(np.float32(position) * np.float32(length - crop))


def color_matrix(view: ClipView) -> tuple[np.ndarray, float]:
    """Return (M, b) so that a pixel becomes M·pixel + b, as in DALI's color_twist.

    Hue rotates and saturation scales the color plane of YIQ; contrast is relative to 128.
    """
    to_yiq = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
    angle = math.radians(view.hue)
    cos, sin = view.saturation * math.cos(angle), view.saturation * math.sin(angle)
    in_yiq = np.array([[1, 0, 0], [0, cos, sin], [0, -sin, cos]])
    matrix = np.linalg.inv(to_yiq) @ in_yiq @ to_yiq * (view.brightness * view.contrast)
    return matrix, 128 * (1 - view.contrast) * view.brightness
