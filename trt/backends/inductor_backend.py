"""AOTInductor backend: PyTorch's ahead-of-time compiler; builds a package for this machine."""

import contextlib
import importlib.util
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trt.backends import eager_backend
from trt.backends.eager_backend import runs_on as runs_on
from trt.build_input import BuildInput
from trt.config import PROGRAM, ArtifactConfig, Bond, Precision, nearest
from trt.errors import CompileError
from trt.probe import Gpu, Status, install_command, installed

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
    if gpu is not None and cuda_home() is None:
        return Status(
            usable=False,
            why="no CUDA headers, which its code for a GPU includes",
            fix=f"{install_command('inductor')}, or set CUDA_HOME to a CUDA toolkit",
        )
    return Status(usable=True, why=f"{installed('torch')} with a C++ compiler")


def cuda_home() -> str | None:
    """Folder of the CUDA toolkit, or of the headers that were installed beside PyTorch.

    PyTorch's own headers are not complete: the extra `inductor` adds `crt` and `nv`.
    """
    from torch.utils import cpp_extension

    if cpp_extension.CUDA_HOME:
        return str(cpp_extension.CUDA_HOME)
    spec = importlib.util.find_spec("nvidia")
    headers = ("cuda.h", "cuda_runtime_api.h", "crt/host_defines.h", "nv/target")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for home in sorted(Path(folder).glob("cu[0-9]*"), reverse=True):
            if all((home / "include" / header).is_file() for header in headers):
                return str(home)
    return None


@contextlib.contextmanager
def _with_cuda_home() -> Iterator[None]:
    """Tell PyTorch where the CUDA headers are; it looks for an installed toolkit only."""
    from torch.utils import cpp_extension

    before, cpp_extension.CUDA_HOME = cpp_extension.CUDA_HOME, cuda_home()
    try:
        yield
    finally:
        cpp_extension.CUDA_HOME = before


def build(inputs: BuildInput, folder: Path) -> dict[str, Any]:
    import torch
    from torch._inductor import aoti_compile_and_package

    from trt import program
    from trt.tf32 import tf32

    exported = inputs.program()
    program.save(exported, folder / PROGRAM)
    inputs.on_step("compiling")
    configs: dict[str, Any] = {"freezing": True}
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        exported = program.on_gpu(exported)
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        stack.enter_context(torch.no_grad())
        if on_gpu:
            stack.enter_context(_with_cuda_home())
            stack.enter_context(tf32(inputs.target.precision == "tf32"))
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
    from trt.tf32 import with_tf32

    return CudaGraphRunner(with_tf32(run, config.target.precision == "tf32"))
