"""ClipSpec: everything that turns a video into one tensor, in one object.

`train` writes it into the checkpoint and `compile` into the artifact; whoever runs the model later
reads it from there, so that training and serving can't drift apart. How frames are chosen from a
spec is in sampling.py; how pixels are made is the business of the loaders.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

from dali_pipelines.errors import SpecError

Sampling = Literal["uniform", "equidistant", "random", "segments"]
"""uniform: every `stride`-th frame of a window. equidistant: from first to last frame, evenly.
random: any frames, in order. segments: one frame from each of `num_frames` equal parts."""

Short = Literal["loop", "hold", "lengthen-before", "lengthen-after"]
"""What a clip shorter than asked for gets: begin again, repeat the last frame, or be lengthened
(frame_plan.py) before its frames are sampled or after."""

Layout = Literal["TCHW", "CTHW"]

Values = Literal["float32", "float16", "uint8"]
"""What a batch is made of. float: normalised, for training. uint8: the pixels as they are, for
whatever normalises by itself; a quarter of the bytes."""


@dataclass(frozen=True, kw_only=True)
class ClipSpec:
    num_frames: int = 8
    sampling: Sampling = "equidistant"
    stride: int = 32
    """Frames from one sampled frame to the next; `uniform` alone uses it."""
    fps: float | None = None
    """Frame rate at which `stride` is counted; None counts the file's own frames."""
    short: Short = "loop"
    resize: int = 256
    """Length of the short side after resizing."""
    crop: int = 224
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    layout: Layout = "TCHW"

    def __post_init__(self) -> None:
        literals: dict[str, Any] = {"sampling": Sampling, "short": Short, "layout": Layout}
        for name, literal in literals.items():
            if getattr(self, name) not in get_args(literal):
                known = ", ".join(get_args(literal))
                raise SpecError(f"{name} {getattr(self, name)!r} is not one of {known}")
        for name in ("num_frames", "stride", "resize", "crop"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise SpecError(f"{name} must be a whole number of at least 1, not {value}")
        if self.crop > self.resize:
            raise SpecError(f"crop {self.crop} is larger than the short side {self.resize}")
        if self.fps is not None and not 0 < self.fps < math.inf:
            raise SpecError(f"fps must be above 0, not {self.fps}")
        numbers = (*self.mean, *self.std)
        if len(self.mean) != 3 or len(self.std) != 3 or not all(map(math.isfinite, numbers)):
            raise SpecError("mean and std take three numbers each")
        if min(self.std) <= 0:
            raise SpecError(f"std must be above 0, not {min(self.std)}")

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - known):
            raise SpecError(f"unknown clip settings: {', '.join(unknown)}")
        settings: dict[str, Any] = dict(values)
        for name in {"mean", "std"} & set(values):
            settings[name] = tuple(values[name])
        return cls(**settings)
