"""The compile backends by name. Each is a module with the same functions:

WHERE                        where its artifacts run, in words
LOWERS                       the precisions that it brings about by itself; others are casts in
                             the program that it gets (program.lowered)
PACKAGES                     libraries whose versions an artifact records
BOUND_TO                     what must be here as it was there: the device, those versions
probe(gpu)                   whether it can be used here, without loading anything slow
resolve_precision(precision, gpu)
                             the precision that would really run here, and why another one does
build(inputs, folder)         writes the payload; returns the partition: what runs in the compiler
load(folder, config)         from payload to a callable
runs_on(gpu)                 "cuda", "cpu", or nothing where this machine builds but can't run it
"""

from typing import Any, Protocol

from trt.backends import (
    eager_backend,
    inductor_backend,
    onnx_backend,
    openvino_backend,
    tensorrt_rtx_backend,
    torch_tensorrt_backend,
)
from trt.config import ArtifactConfig, Bond, Precision
from trt.probe import Gpu, Status

__all__ = ["BACKENDS", "Gpu", "Status", "choose", "probe_all"]


class Backend(Protocol):
    """See the module's docstring."""

    WHERE: str
    LOWERS: frozenset[Precision]
    PACKAGES: tuple[str, ...]
    BOUND_TO: frozenset[Bond]

    def probe(self, gpu: Gpu | None) -> Status: ...
    def resolve_precision(self, precision: Precision, gpu: Gpu | None) -> tuple[Precision, str]: ...
    def build(self, inputs: Any, folder: Any) -> dict[str, Any]: ...
    def load(self, folder: Any, config: ArtifactConfig) -> Any: ...
    def runs_on(self, gpu: Gpu | None) -> str: ...


BACKENDS: dict[str, Backend] = {
    "tensorrt": torch_tensorrt_backend,
    "tensorrt-rtx": tensorrt_rtx_backend,
    "inductor": inductor_backend,
    "openvino": openvino_backend,
    "onnx": onnx_backend,
    "eager": eager_backend,
}


def probe_all(gpu: Gpu | None) -> dict[str, Status]:
    return {name: backend.probe(gpu) for name, backend in BACKENDS.items()}


def choose(gpu: Gpu | None) -> tuple[str, str]:
    """The fastest backend that can be used here, and why it is that."""
    order = ("tensorrt", "inductor", "eager") if gpu else ("openvino", "inductor", "eager")
    passed: list[str] = []
    for name in order:
        status = BACKENDS[name].probe(gpu)
        if status.usable:
            why = f"the fastest for {gpu.name if gpu else 'a CPU'} that is installed"
            return name, "; ".join([why, *passed])
        passed.append(f"{name} would be faster: {status.why}, {status.fix or 'no fix'}")
    raise AssertionError("eager can always be used")
