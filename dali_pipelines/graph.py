"""The one DALI graph: decode (where DALI decodes), resize, crop, mirror, colour, normalise.

A graph has one of three fronts, and the rest is the same whatever the front and the device:

    pixels   frames that PyAV decoded, their short side already resized     (H, W, C) each
    images   JPEG or PNG files, a frame each                                bytes
    video    whole video files, and the numbers of the frames wanted        bytes

Shape letters: B looks, T frames of each, C colours, H, W.
"""

from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from dali_pipelines.augment import Look
from dali_pipelines.spec import ClipSpec

if TYPE_CHECKING:
    import torch

Front = Literal["pixels", "images", "video"]
FRONTS: tuple[Front, ...] = get_args(Front)
COLOURS = ("brightness", "contrast", "saturation", "hue")


class ClipGraph:
    """A built pipeline for up to `max_looks` looks a run."""

    def __init__(
        self,
        front: Front,
        spec: ClipSpec,
        *,
        max_looks: int,
        num_threads: int,
        gpu: int | None = None,
        half: bool = False,
        colour: bool = False,
    ) -> None:
        self._front = front
        self._spec = spec
        self._colour = colour
        self._pipeline = _define(front, spec, gpu=gpu is not None, half=half, colour=colour)(
            batch_size=max_looks if front == "video" else max_looks * spec.num_frames,
            num_threads=num_threads,
            device_id=gpu,
            exec_dynamic=True,  # its outputs own their memory, so torch can keep them
            prefetch_queue_depth=1,
        )
        self._pipeline.build()

    def run(self, sources: list[Any], looks: list[Look]) -> "torch.Tensor":
        """`sources` has one entry a frame, look after look; for video one (bytes, numbers) a look.

        Returns (B, T, C, H, W) on the device of the graph, in memory of its own.
        """
        import torch

        pipeline, frames = self._pipeline, self._spec.num_frames
        if self._front == "video":
            pipeline.feed_input("source", [encoded for encoded, _ in sources])
            pipeline.feed_input("numbers", [numbers for _, numbers in sources])
        else:
            pipeline.feed_input("source", sources)
        repeat = 1 if self._front == "video" else frames
        names = ("crop_x", "crop_y", *(COLOURS if self._colour else ()))
        for name in names:
            values = np.array([getattr(look, name) for look in looks], np.float32)
            pipeline.feed_input(name, np.repeat(values, repeat))
        mirrored = np.array([look.mirror for look in looks], np.int32)
        pipeline.feed_input("mirror", np.repeat(mirrored, repeat))
        pipeline.schedule_run()
        (output,) = pipeline.share_outputs()
        tensor = torch.from_dlpack(output.as_tensor())
        pipeline.release_outputs()
        return tensor.reshape(len(looks), frames, 3, self._spec.crop, self._spec.crop)


def _define(front: Front, spec: ClipSpec, *, gpu: bool, half: bool, colour: bool) -> Any:
    from nvidia.dali import fn, pipeline_def, types

    device = "gpu" if gpu else "cpu"
    mixed = "mixed" if gpu else "cpu"

    def decode() -> Any:
        # `run` waits for the outputs, so the arrays outlive their use and DALI needs no copy.
        if front == "pixels":
            pixels = fn.external_source(name="source", layout="HWC", no_copy=True)
            return pixels.gpu() if gpu else pixels
        encoded = fn.external_source(name="source", ndim=1, dtype=types.UINT8, no_copy=True)
        if front == "images":
            return fn.decoders.image(encoded, device=mixed, output_type=types.RGB)
        numbers = fn.external_source(name="numbers", ndim=1, dtype=types.INT32)
        # A frame beyond the end is an error, not a black picture; PyAV then has a look at the file.
        return fn.decoders.video(encoded, frames=numbers, device=mixed, pad_mode="none")

    def resize_short(frames: Any) -> Any:
        from nvidia.dali import math

        shape = frames.shape()
        height, width = shape[-3], shape[-2]
        short = math.min(height, width)
        size = fn.stack(height * spec.resize // short, width * spec.resize // short)
        return fn.resize(
            frames,
            size=fn.cast(size, dtype=types.FLOAT),
            interp_type=types.INTERP_LINEAR,
            antialias=True,
        )

    @pipeline_def
    def graph() -> Any:
        frames = decode()
        if front != "pixels":
            frames = resize_short(frames)
        crop = {
            "crop": (spec.crop, spec.crop),
            "crop_pos_x": fn.external_source(name="crop_x", ndim=0, dtype=types.FLOAT),
            "crop_pos_y": fn.external_source(name="crop_y", ndim=0, dtype=types.FLOAT),
            "rounding": "truncate",
        }
        if colour:
            values = {
                name: fn.external_source(name=name, ndim=0, dtype=types.FLOAT) for name in COLOURS
            }
            frames = fn.color_twist(fn.crop(frames, **crop), **values)
            crop = {}
        return fn.crop_mirror_normalize(
            frames,
            **crop,
            mirror=fn.external_source(name="mirror", ndim=0, dtype=types.INT32),
            mean=[255 * value for value in spec.mean],
            std=[255 * value for value in spec.std],
            dtype=types.FLOAT16 if half else types.FLOAT,
            output_layout="FCHW" if front == "video" else "CHW",
            device=device,
        )

    return graph
