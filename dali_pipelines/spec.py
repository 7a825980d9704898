"""ClipSpec: all preprocessing settings that turn a video into one tensor.

`train` saves it in the checkpoint and `compile` in the artifact, so training and inference always
use the same preprocessing. Frames are chosen in sampling.py; the loaders produce the pixels.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, Self

from dali_pipelines.errors import SpecError
from dali_pipelines.settings import Count, Positive, check, from_plain

Sampling = Literal["uniform", "equidistant", "random", "segments"]
"""uniform: every `stride`-th frame of a window. equidistant: evenly from the first to the last
frame. random: random frames, in order. segments: one frame from each of `num_frames` equal parts.
"""

Short = Literal["loop", "hold", "lengthen-before", "lengthen-after"]
"""How a clip that is too short is extended: start again, repeat the last frame, or lengthen it (see
frame_plan.py) before or after its frames are sampled."""

FastCodec = Literal["h264", "mjpeg"]
"""Codecs that can be decoded faster with slightly different pixels; see decode/fast_decode.py."""

Values = Literal["float32", "float16", "uint8"]
"""Data type of a batch. float: normalized values, for training. uint8: raw pixels, for models that
normalize their input; a quarter of the memory of float32."""


@dataclass(frozen=True, kw_only=True)
class ClipSpec:
    """Preprocessing settings: frame sampling, resizing, cropping and normalization."""

    num_frames: Count = 8
    sampling: Sampling = "equidistant"
    stride: Count = 32
    """Distance between sampled frames; only `uniform` uses it."""
    fps: Positive | None = None
    """Frame rate that `stride` refers to; None counts the frames of the file."""
    short: Short = "loop"
    resize: Count = 256
    """Short side of a frame after resizing."""
    crop: Count = 224
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[Positive, Positive, Positive] = (0.229, 0.224, 0.225)
    fast_decode: tuple[FastCodec, ...] = ()
    """Codecs to decode fast. Only `engine compile` sets it, after it has compared the labels of
    held-out clips; training decodes exactly."""

    def __post_init__(self) -> None:
        check(self)
        if self.crop > self.resize:
            raise SpecError(f"crop {self.crop} is larger than the short side {self.resize}")

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(T, C, H, W) of one clip."""
        return self.num_frames, 3, self.crop, self.crop

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain values; `fast_decode` only if it is used."""
        values = dataclasses.asdict(self)
        if not self.fast_decode:
            del values["fast_decode"]
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        values = dict(values)
        if values.pop("layout", "TCHW") != "TCHW":  # a setting until version 0.1
            raise SpecError("the clip layout CTHW is no longer supported; use TCHW")
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - known):
            raise SpecError(f"unknown clip settings: {', '.join(unknown)}")
        return from_plain(cls, values)
