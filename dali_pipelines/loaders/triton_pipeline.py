"""The DALI graph for Triton's DALI backend: the serialized pipeline, its inputs and outputs.

The client samples the frames (sampling.py). It sends the part of a video that holds them
(remux.py) with their numbers; for a server without a GPU it sends the decoded frames. One clip
is one sample. Triton sets the device and the batch size when it opens the pipeline.
"""

from typing import Literal

from dali_pipelines.loaders.dali_graph import InputKind, define
from dali_pipelines.spec import ClipSpec

Device = Literal["gpu", "cpu"]
INPUT_KINDS: dict[Device, InputKind] = {"gpu": "video", "cpu": "clips"}
OUTPUT = "clips"
Dims = dict[str, tuple[str, tuple[int, ...]]]
"""Tensors by name, with data type and shape without the batch dimension; -1 is any length."""


def inputs(device: Device, spec: ClipSpec) -> Dims:
    """Inputs of the pipeline."""
    if device == "gpu":
        return {"source": ("UINT8", (-1,)), "numbers": ("INT32", (spec.num_frames,))}
    return {"source": ("UINT8", (spec.num_frames, -1, -1, 3))}


def output(spec: ClipSpec) -> Dims:
    """Output of the pipeline."""
    return {OUTPUT: ("UINT8", spec.shape)}


def serialize(device: Device, spec: ClipSpec, *, max_clips: int, num_threads: int) -> bytes:
    """Serialize the pipeline for a device; this needs no GPU.

    Args:
        device: Where the pipeline will run.
        spec: Preprocessing settings.
        max_clips: Largest batch size.
        num_threads: CPU threads of DALI.
    """
    from nvidia.dali import types

    graph = define(INPUT_KINDS[device], spec, gpu=device == "gpu", values="uint8", centered=True)
    pipeline = graph(
        batch_size=max_clips,
        num_threads=num_threads,
        device_id=None,  # Triton sets the GPU; an id would make DALI load the driver here
        exec_dynamic=True,
        prefetch_queue_depth=1,
        output_dtype=types.UINT8,
        output_ndim=4,
    )
    return pipeline.serialize()
