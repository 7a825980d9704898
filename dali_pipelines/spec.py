"""ClipSpec: everything that turns a video into one tensor, in one object.

`train` writes it into the checkpoint and `compile` into the artifact; whoever runs the model later
reads it from there, so that training and serving can't drift apart. How frames are chosen from a
spec is in sampling.py; how pixels are made is the business of the loaders.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, Self

from dali_pipelines.errors import SpecError
from dali_pipelines.settings import Count, Positive, check, from_plain

Sampling = Literal["uniform", "equidistant", "random", "segments"]
"""uniform: every `stride`-th frame of a window. equidistant: from first to last frame, evenly.
random: any frames, in order. segments: one frame from each of `num_frames` equal parts."""

Short = Literal["loop", "hold", "lengthen-before", "lengthen-after"]
"""What a clip shorter than asked for gets: begin again, repeat the last frame, or be lengthened
(frame_plan.py) before its frames are sampled or after."""

Values = Literal["float32", "float16", "uint8"]
"""What a batch is made of. float: normalized, for training. uint8: the pixels as they are, for
whatever normalizes by itself; a quarter of the bytes."""


@dataclass(frozen=True, kw_only=True)
class ClipSpec:
    num_frames: Count = 8
    sampling: Sampling = "equidistant"
    stride: Count = 32
    """Frames from one sampled frame to the next; `uniform` alone uses it."""
    fps: Positive | None = None
    """Frame rate at which `stride` is counted; None counts the file's own frames."""
    short: Short = "loop"
    resize: Count = 256
    """Length of the short side after resizing."""
    crop: Count = 224
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[Positive, Positive, Positive] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        check(self)
        if self.crop > self.resize:
            raise SpecError(f"crop {self.crop} is larger than the short side {self.resize}")

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(T, C, H, W) of one clip."""
        return self.num_frames, 3, self.crop, self.crop

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        values = dict(values)
        if values.pop("layout", "TCHW") != "TCHW":  # a setting until 0.1, which no model used
            raise SpecError("clips of layout CTHW are no longer made")
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - known):
            raise SpecError(f"unknown clip settings: {', '.join(unknown)}")
        return from_plain(cls, values)
