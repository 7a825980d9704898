"""The graph as Triton's DALI backend wants it: serialized, fed by clients, and what it is fed.

Sampling stays with the client (sampling.py): it sends the part of a video that holds the wanted
frames (clip_part.py) and their numbers in it, or for a server without GPU the frames themselves,
read as the loaders read them. One clip is one sample. DALI's C interface, by which Triton opens a
pipeline, brings its own device and size of batch.
"""

from typing import Literal

from dali_pipelines.loaders.graph import InputKind, define
from dali_pipelines.spec import ClipSpec

Device = Literal["gpu", "cpu"]
INPUT_KINDS: dict[Device, InputKind] = {"gpu": "video", "cpu": "clips"}
OUTPUT = "clips"
Dims = dict[str, tuple[str, tuple[int, ...]]]
"""Tensors by name, each with its type and its shape without the batch; -1 is any length."""


def inputs(device: Device, spec: ClipSpec) -> Dims:
    if device == "gpu":
        return {"source": ("UINT8", (-1,)), "numbers": ("INT32", (spec.num_frames,))}
    return {"source": ("UINT8", (spec.num_frames, -1, -1, 3))}


def output(spec: ClipSpec) -> Dims:
    return {OUTPUT: ("UINT8", spec.shape)}


def serialize(device: Device, spec: ClipSpec, *, max_clips: int, num_threads: int) -> bytes:
    """Needs no GPU, whatever the device."""
    from nvidia.dali import types

    graph = define(INPUT_KINDS[device], spec, gpu=device == "gpu", values="uint8", centered=True)
    pipeline = graph(
        batch_size=max_clips,
        num_threads=num_threads,
        device_id=None,  # DALI would look for a driver; Triton says which GPU it is
        exec_dynamic=True,
        prefetch_queue_depth=1,
        output_dtype=types.UINT8,
        output_ndim=4,
    )
    return pipeline.serialize()
