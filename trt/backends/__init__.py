"""The compile backends by name. Each backend is a module with these constants and functions:

WHERE                        where its artifacts run, for display
LOWERS                       precisions that the compiler converts to; for others, the program
                             gets explicit casts first (program.lowered)
PACKAGES                     packages whose versions are saved in the artifact
BOUND_TO                     what must match to load an artifact: the device, those versions
probe(gpu)                   whether it can be used on this machine, without slow imports
resolve_precision(precision, gpu)
                             the precision that runs on this machine, and why it isn't the
                             requested one
build(inputs, folder)        writes the files; returns the partition: what runs in the compiler
load(folder, config)         returns the callable of an artifact
runs_on(gpu)                 "cuda", "cpu", or "" if this machine can build but not run it
"""

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from trt.backends import (
    eager_backend,
    inductor_backend,
    onnx_backend,
    openvino_backend,
    tensorrt_rtx_backend,
    torch_tensorrt_backend,
)
from trt.config import ArtifactConfig, Bond, Precision
from trt.errors import CompileError
from trt.probe import Gpu, Status

if TYPE_CHECKING:
    from trt.build_input import BuildInput

__all__ = ["BACKENDS", "Gpu", "Status", "build", "choose", "probe_all"]


class Backend(Protocol):
    """Interface of a backend; see the module docstring."""

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
    """Probe all backends."""
    return {name: backend.probe(gpu) for name, backend in BACKENDS.items()}


def build(name: str, inputs: "BuildInput", folder: Path) -> dict[str, Any]:
    """Build with a backend, and return its partition.

    Raises:
        CompileError: The compiler failed.
    """
    try:
        return BACKENDS[name].build(inputs, folder)
    except (RuntimeError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # a full disk or a missing permission, not the compiler
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise CompileError(
            f"{name} can't compile this model ({lines[0].rstrip('.:')}): choose another `backend` "
            "or `precision`."
        ) from error


def choose(gpu: Gpu | None, failed: Collection[str] = ()) -> tuple[str, str]:
    """Return the fastest backend that can be used on this machine, and the reason.

    Args:
        gpu: The GPU; None chooses for the CPU.
        failed: Backends that couldn't compile the model.
    """
    order = ("tensorrt", "inductor", "eager") if gpu else ("openvino", "inductor", "eager")
    rejected: list[str] = []
    for name in order:
        if name in failed:
            rejected.append(f"{name} failed")
            continue
        status = BACKENDS[name].probe(gpu)
        if status.usable:
            why = f"the fastest installed backend for {gpu.name if gpu else 'a CPU'}"
            return name, "; ".join([why, *rejected])
        rejected.append(f"{name} would be faster: {status.why}, {status.fix or 'no fix'}")
    raise AssertionError("eager can always be used")
