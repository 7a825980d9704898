"""The DALI graph of all loaders: decode (if DALI decodes), resize, crop, mirror, color, normalize.

A graph has one of four kinds of input; the other steps are the same for all inputs and devices:

    pixels   frames decoded by PyAV, with the short side already resized    (H, W, C) each
    clips    the same, with all frames of a view in one array               (T, H, W, C)
    images   JPEG or PNG files, one per frame                               bytes
    video    parts of video files, and the numbers of the wanted frames     bytes

Shape letters: B views, T frames, C channels, H height, W width.
"""

import re
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from dali_pipelines.augment import ClipView
from dali_pipelines.spec import ClipSpec, Values

if TYPE_CHECKING:
    import torch

InputKind = Literal["pixels", "clips", "images", "video"]
INPUT_KINDS: tuple[InputKind, ...] = get_args(InputKind)
BY_VIEW: frozenset[InputKind] = frozenset({"clips", "video"})
"""Inputs with one sample per view instead of one per frame."""
COLORS = ("brightness", "contrast", "saturation", "hue")


class ClipGraph:
    """A built DALI pipeline.

    Args:
        input_kind: Kind of input; see the module docstring.
        spec: Size, crop and normalization.
        max_views: Largest number of views per run.
        num_threads: CPU threads of DALI.
        gpu: GPU index; None runs on the CPU.
        values: Data type of the output.
        color: Whether the views change colors.
    """

    def __init__(
        self,
        input_kind: InputKind,
        spec: ClipSpec,
        *,
        max_views: int,
        num_threads: int,
        gpu: int | None = None,
        values: Values = "float32",
        color: bool = False,
    ) -> None:
        self._input_kind = input_kind
        self._spec = spec
        self._color = color
        # `run` sends repeated frame numbers once, so there may be fewer frames.
        pad = spec.num_frames if input_kind == "video" else None
        self._pipeline = _Pipeline(
            define(input_kind, spec, gpu=gpu is not None, values=values, color=color, pad=pad),
            batch_size=max_views if input_kind in BY_VIEW else max_views * spec.num_frames,
            num_threads=num_threads,
            gpu=gpu,
        )

    def run(self, sources: list[Any], views: list[ClipView]) -> "torch.Tensor":
        """Process some views.

        Args:
            sources: For pixels and images one entry per frame, view after view; for clips one array
                per view; for video one (bytes, frame numbers) per view.
            views: Crop and augmentation values of each view.

        Returns:
            (B, T, C, H, W) on the device of the graph; the tensor owns its memory.
        """
        import torch

        pipeline, frames = self._pipeline, self._spec.num_frames
        places: list[Any] = []
        if self._input_kind == "video":  # unique numbers: DALI restarts decoding for a repeated one
            pipeline.feed("source", [encoded for encoded, _ in sources])
            pairs = [np.unique(numbers, return_inverse=True) for _, numbers in sources]
            pipeline.feed("numbers", [unique.astype(np.int32) for unique, _ in pairs])
            places = [inverse for _, inverse in pairs]
        else:
            pipeline.feed("source", sources)
        repeat = 1 if self._input_kind in BY_VIEW else frames
        names = ("crop_x", "crop_y", *(COLORS if self._color else ()))
        for name in names:
            values = np.array([getattr(view, name) for view in views], np.float32)
            pipeline.feed(name, np.repeat(values, repeat))
        mirrored = np.array([view.mirror for view in views], np.int32)
        pipeline.feed("mirror", np.repeat(mirrored, repeat))
        clips_BTCHW = pipeline.run().reshape(
            len(views), frames, 3, self._spec.crop, self._spec.crop
        )
        if all(np.array_equal(place, np.arange(frames)) for place in places):
            return clips_BTCHW
        order = torch.from_numpy(np.stack(places)).to(clips_BTCHW.device)
        return clips_BTCHW[torch.arange(len(views), device=order.device)[:, None], order]


class PartGraph:
    """A built DALI pipeline that decodes parts of videos to frames with the crop of testing.

    Args:
        spec: Size, crop and normalization.
        max_parts: Largest number of parts per run.
        num_threads: CPU threads of DALI.
        gpu: GPU index; None runs on the CPU.
        values: Data type of the output.
    """

    def __init__(
        self, spec: ClipSpec, *, max_parts: int, num_threads: int, gpu: int | None, values: Values
    ) -> None:
        graph = define("video", spec, gpu=gpu is not None, values=values, centered=True, pad=-1)
        self._pipeline = _Pipeline(graph, batch_size=max_parts, num_threads=num_threads, gpu=gpu)

    def run(self, sources: list[tuple[NDArray[np.uint8], NDArray[np.int32]]]) -> "torch.Tensor":
        """Decode parts.

        Args:
            sources: A part as bytes, and the numbers of its frames, ascending and unique.

        Returns:
            (N, F, C, H, W) with the F of the part that has most frames; the tensor owns its memory.

        Raises:
            RuntimeError: DALI rejects a part.
        """
        self._pipeline.feed("source", [encoded for encoded, _ in sources])
        self._pipeline.feed("numbers", [numbers for _, numbers in sources])
        return self._pipeline.run()


class _Pipeline:
    """A built DALI pipeline whose output is a tensor that owns its memory."""

    def __init__(self, graph: Any, *, batch_size: int, num_threads: int, gpu: int | None) -> None:
        self._pipeline = graph(
            batch_size=batch_size,
            num_threads=num_threads,
            device_id=gpu,
            exec_dynamic=True,  # its outputs own their memory, so torch can keep them
            prefetch_queue_depth=1,
        )
        self._pipeline.build()
        self._stream: torch.cuda.Stream | None = None

    def feed(self, name: str, values: Any) -> None:
        self._pipeline.feed_input(name, values)

    def run(self) -> "torch.Tensor":
        import torch

        self._pipeline.schedule_run()
        (output,) = self._pipeline.share_outputs()  # waits until they are there
        tensor = torch.from_dlpack(output.as_tensor())
        if tensor.is_cuda:
            tensor = self._in_torch_memory(tensor)
        self._pipeline.release_outputs()
        return tensor

    def _in_torch_memory(self, tensor: "torch.Tensor") -> "torch.Tensor":
        """Copy a tensor of DALI on the GPU.

        DALI reuses the memory of an output as soon as nobody holds it, even if a model that was
        launched on it has not run yet; torch's own memory is safe from that.
        """
        import torch

        if self._stream is None:
            self._stream = torch.cuda.Stream(tensor.device)
        with torch.cuda.stream(self._stream):
            copy = tensor.clone()
        self._stream.synchronize()
        copy.record_stream(torch.cuda.default_stream(tensor.device))
        return copy


def reason_of(error: RuntimeError) -> str:
    """The line of DALI's multi-line message that describes the error."""
    _, found, after = str(error).partition("encountered:")
    lines = [line.strip() for line in (after if found else str(error)).splitlines()]
    first = next((line for line in lines if line), repr(error))
    return re.sub(r"^Assert on .* failed: ", "", first)


def define(
    input_kind: InputKind,
    spec: ClipSpec,
    *,
    gpu: bool,
    values: Values,
    color: bool = False,
    centered: bool = False,
    pad: int | None = None,
) -> Any:
    """Define the graph as a DALI pipeline function.

    Args:
        input_kind: Kind of input; see the module docstring.
        spec: Size, crop and normalization.
        gpu: Whether the graph runs on a GPU.
        values: Data type of the output.
        color: Whether to add the color operator.
        centered: Always use the center crop of testing, so that only frames are fed.
        pad: Number of frames to which videos are padded; -1 is that of the longest in the batch.

    Returns:
        A function that takes DALI's pipeline arguments (batch size, device, …) and returns the
        pipeline.
    """
    from nvidia.dali import fn, pipeline_def, types

    dtypes = {"float32": types.FLOAT, "float16": types.FLOAT16, "uint8": types.UINT8}

    def view(name: str, center: float, dtype: Any = types.FLOAT) -> Any:
        return center if centered else fn.external_source(name=name, ndim=0, dtype=dtype)

    @pipeline_def
    def graph() -> Any:
        frames = _decode(input_kind, gpu=gpu)
        if input_kind in ("images", "video"):
            frames = _resize_short(frames, spec.resize)
        if pad is not None:
            frames = fn.pad(frames, axis_names="F", shape=[pad])
        crop = {
            "crop": (spec.crop, spec.crop),
            "crop_pos_x": view("crop_x", 0.5),
            "crop_pos_y": view("crop_y", 0.5),
            "rounding": "truncate",
        }
        if color:
            color_values = {
                name: fn.external_source(name=name, ndim=0, dtype=types.FLOAT) for name in COLORS
            }
            frames = fn.color_twist(fn.crop(frames, **crop), **color_values)
            crop = {}
        return fn.crop_mirror_normalize(
            frames,
            **crop,
            mirror=view("mirror", 0, types.INT32),
            mean=[0.0] if values == "uint8" else [255 * value for value in spec.mean],
            std=[1.0] if values == "uint8" else [255 * value for value in spec.std],
            dtype=dtypes[values],
            output_layout="FCHW" if input_kind in BY_VIEW else "CHW",
            device="gpu" if gpu else "cpu",
        )

    return graph


def _decode(input_kind: InputKind, *, gpu: bool) -> Any:
    """The frames of the input, in the memory of the graph's device."""
    from nvidia.dali import fn, types

    # `ClipGraph.run` waits for the outputs, so the input arrays stay alive and need no copy.
    if input_kind == "pixels":
        pixels = fn.external_source(name="source", layout="HWC", no_copy=True)
        return pixels.gpu() if gpu else pixels
    if input_kind == "clips":
        clips = fn.external_source(
            name="source", layout="FHWC", ndim=4, dtype=types.UINT8, no_copy=True
        )
        return clips.gpu() if gpu else clips
    mixed = "mixed" if gpu else "cpu"
    encoded = fn.external_source(name="source", ndim=1, dtype=types.UINT8, no_copy=True)
    if input_kind == "images":
        return fn.decoders.image(
            encoded,
            device=mixed,
            output_type=types.RGB,
            jpeg_fancy_upsampling=True,  # as libjpeg does on a CPU
        )
    numbers = fn.external_source(name="numbers", ndim=1, dtype=types.INT32)
    # A frame past the end is an error, not a black frame; the loader then retries with PyAV.
    return fn.decoders.video(encoded, frames=numbers, device=mixed, pad_mode="none")


def _resize_short(frames: Any, short_side: int) -> Any:
    """Resize frames so that their short side has this many pixels."""
    from nvidia.dali import fn, math, types

    shape = frames.shape()
    height, width = shape[-3], shape[-2]
    short = math.min(height, width)
    size = fn.stack(height * short_side // short, width * short_side // short)
    return fn.resize(
        frames,
        size=fn.cast(size, dtype=types.FLOAT),
        interp_type=types.INTERP_LINEAR,
        antialias=True,
    )
