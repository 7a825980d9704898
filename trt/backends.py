"""The compile backends by name, and whether each can be used on this machine.

A probe looks for libraries and hardware without loading what is slow or prints; it answers with a
reason, and with the one command that mends what can be mended.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version


@dataclass(frozen=True, kw_only=True)
class Status:
    usable: bool
    why: str
    mend: str = ""
    """One command that makes the backend usable; empty where none can."""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """What a probe needs to know of the first NVIDIA GPU."""

    name: str
    capability: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Backend:
    where: str
    probe: Callable[[Gpu | None], Status]


def probe_all(gpu: Gpu | None) -> dict[str, Status]:
    return {name: backend.probe(gpu) for name, backend in BACKENDS.items()}


def _tensorrt(gpu: Gpu | None) -> Status:
    flavours = ("torch-tensorrt", "torch-tensorrt-rtx")
    installed = [found for name in flavours if (found := _installed(name))]
    if gpu is None:
        return Status(usable=False, why="no NVIDIA GPU")
    if not installed:
        return _missing("Torch-TensorRT", "tensorrt")
    return Status(usable=True, why=installed[0])


def _tensorrt_rtx(gpu: Gpu | None) -> Status:
    """Engines are built without a GPU; only running them takes one."""
    for package, extra in (("tensorrt-rtx", "tensorrt-rtx"), ("onnx", "onnx")):
        if not _installed(package):
            return _missing(package, extra)
    runs = "and runs" if gpu and gpu.capability >= (8, 0) else "but can't run"
    return Status(usable=True, why=f"{_installed('tensorrt-rtx')}; builds engines {runs} them here")


def _inductor(gpu: Gpu | None) -> Status:
    if not (shutil.which("g++") or shutil.which("c++") or shutil.which("clang++")):
        return Status(usable=False, why="no C++ compiler", mend="apt-get install g++")
    return Status(usable=True, why=f"{_installed('torch')} with a C++ compiler")


def _openvino(gpu: Gpu | None) -> Status:
    found = _installed("openvino")
    return Status(usable=True, why=found) if found else _missing("OpenVINO", "openvino")


def _onnx(gpu: Gpu | None) -> Status:
    for package in ("onnx", "onnxscript"):
        if not _installed(package):
            return _missing(package, "onnx")
    return Status(usable=True, why=_installed("onnx"))


def _eager(gpu: Gpu | None) -> Status:
    return Status(usable=True, why=_installed("torch"))


def _installed(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return ""


def _missing(library: str, extra: str) -> Status:
    return Status(
        usable=False, why=f"{library} is not installed", mend=f"pip install 'engine[{extra}]'"
    )


BACKENDS: dict[str, Backend] = {
    "tensorrt": Backend(where="NVIDIA GPU", probe=_tensorrt),
    "tensorrt-rtx": Backend(where="RTX-class GPU, built anywhere", probe=_tensorrt_rtx),
    "inductor": Backend(where="GPU or CPU", probe=_inductor),
    "openvino": Backend(where="CPU", probe=_openvino),
    "onnx": Backend(where="anywhere, to run elsewhere", probe=_onnx),
    "eager": Backend(where="anywhere, the yardstick", probe=_eager),
}
