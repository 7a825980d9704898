"""How a training clip is varied, and how a test clip is viewed: numbers only, no pixels.

What is drawn is a pure function of (seed, epoch, clip, repeat), so that every loader, every rank
and a resumed run draws the same; the loaders hand the numbers to their operators as arguments.
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
    """Where the crop sits is always drawn. The four of color are the greatest change from 1, and
    for hue in degrees; 0 leaves it alone. All frames of a clip are changed alike."""

    flip: bool = True
    """Mirror every second clip; switch it off where classes tell left from right."""
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
    """One look at a clip: its frames, where the crop sits (0 to 1), and what is done to it."""

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
    """First pixel of a crop: `position` 0 is the left or top end, 1 the other, 0.5 the middle."""
    return int(np.float32(position) * np.float32(length - crop))


def color_matrix(view: ClipView) -> tuple[np.ndarray, float]:
    """(M, b): a pixel becomes M·pixel + b. This is what DALI's color_twist computes.

    Hue and saturation turn and stretch the color plane of YIQ; contrast pivots on 128.
    """
    to_yiq = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
    turn = math.radians(view.hue)
    cos, sin = view.saturation * math.cos(turn), view.saturation * math.sin(turn)
    in_yiq = np.array([[1, 0, 0], [0, cos, sin], [0, -sin, cos]])
    matrix = np.linalg.inv(to_yiq) @ in_yiq @ to_yiq * (view.brightness * view.contrast)
    return matrix, 128 * (1 - view.contrast) * view.brightness
