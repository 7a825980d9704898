"""AOTInductor backend: PyTorch's ahead-of-time compiler; builds a package for this machine."""

import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trt.backends import eager_backend
from trt.backends.eager_backend import runs_on as runs_on
from trt.build_input import BuildInput
from trt.config import PROGRAM, ArtifactConfig, Bond, Precision, nearest
from trt.errors import CompileError
from trt.probe import Gpu, Status, installed

if TYPE_CHECKING:
    from trt.build_input import Run

WHERE = "GPU or CPU"
LOWERS: frozenset[Precision] = frozenset({"fp32", "tf32"})
PACKAGES: tuple[str, ...] = ("torch",)
BOUND_TO: frozenset[Bond] = frozenset({"device", "versions"})
PACKAGE = "model.pt2"


def resolve_precision(precision: Precision, gpu: Gpu | None) -> tuple[Precision, str]:
    """On a CPU without AVX-512 the kernels don't support bf16, and bf16 programs fail."""
    import torch

    if gpu is None and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return nearest(precision, {"fp32", "fp16"}, "this CPU")
    return eager_backend.resolve_precision(precision, gpu)


def probe(gpu: Gpu | None) -> Status:
    if not (shutil.which("g++") or shutil.which("c++") or shutil.which("clang++")):
        return Status(usable=False, why="no C++ compiler", fix="apt-get install g++")
    return Status(usable=True, why=f"{installed('torch')} with a C++ compiler")


def build(inputs: BuildInput, folder: Path) -> dict[str, Any]:
    import torch
    from torch._inductor import aoti_compile_and_package
    from torch.export.passes import move_to_device_pass

    from trt import program

    exported = inputs.program()
    program.save(exported, folder / PROGRAM)
    inputs.on_step("compiling")
    configs: dict[str, Any] = {"freezing": True}
    if torch.cuda.is_available():
        exported = move_to_device_pass(exported, "cuda")
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        aoti_compile_and_package(
            exported, package_path=str(folder / PACKAGE), inductor_configs=configs
        )
    return {"engines": 1, "in_engine": program.num_operators(exported), "in_torch": 0}


def load(folder: Path, config: ArtifactConfig) -> "Run":
    import torch
    from torch._inductor import aoti_load_package

    on_gpu = torch.cuda.is_available()
    try:  # with several threads it makes CUDA calls that are not allowed in a graph capture
        run = aoti_load_package(str(folder / PACKAGE), run_single_threaded=on_gpu)
    except (OSError, RuntimeError) as error:
        raise CompileError(f"{folder / PACKAGE} can't be opened ({error}).") from error
    if not on_gpu:
        return run
    from trt.cuda_graphs import CudaGraphRunner

    return CudaGraphRunner(run)
