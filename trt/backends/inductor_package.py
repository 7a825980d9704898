"""AOTInductor packages: writes and opens them."""

import contextlib
import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trt.config import PROGRAM
from trt.errors import CompileError

if TYPE_CHECKING:
    from trt.build_input import Run

PACKAGE = "model.pt2"
CPP = "#include <locale>\nvoid *made() { return new std::locale; }\n"
CPP_LIBRARIES = (b"libstdc++.so", b"libc++.so")
COMPILERS = ("g++", "c++", "clang++")
SYSTEM = ("/usr/bin/g++", "/usr/bin/clang++")
"""Compilers to try if none on the path can be used."""


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


def cpp_compiler() -> str:
    """The first C++ compiler, from `CXX` on, whose code shares the C++ library of this process.

    Some toolchains link their own copy, with which PyTorch would crash when it opens the package.

    Raises:
        CompileError: There is none.
    """
    failed = []
    for name in dict.fromkeys([os.environ.get("CXX", "g++"), *COMPILERS, *SYSTEM]):
        if (path := shutil.which(name)) is None:
            continue
        with tempfile.TemporaryDirectory() as folder:
            library = Path(folder) / "made.so"
            ended = subprocess.run(
                [path, "-shared", "-fPIC", "-x", "c++", "-", "-o", str(library)],
                input=CPP.encode(), capture_output=True,
            )  # fmt: skip
            if ended.returncode:
                return path  # PyTorch says what fails
            if any(name in library.read_bytes() for name in CPP_LIBRARIES):
                return path
            failed.append(f"{path} links the C++ library statically")
    raise CompileError(
        f"no C++ compiler can be used ({'; '.join(failed) or 'none found'}); set CXX to one."
    )


@contextlib.contextmanager
def _with_cuda_home() -> Iterator[None]:
    """Tell PyTorch where the CUDA headers are; it looks for an installed toolkit only."""
    from torch.utils import cpp_extension

    before, cpp_extension.CUDA_HOME = cpp_extension.CUDA_HOME, cuda_home()
    try:
        yield
    finally:
        cpp_extension.CUDA_HOME = before


def compile_package(folder: Path, shape: Sequence[int], *, tf32: bool, freezing: bool) -> None:
    """Compile the program in a folder.

    Args:
        folder: Holds the program; the package is written into it.
        shape: Shape of a batch of clips, of the size to optimize for.
        tf32: Whether a GPU may compute in TF32.
        freezing: Whether the weights are constants, which the compiler may rearrange.
    """
    import torch
    from torch._inductor import aoti_compile_and_package

    from trt import program
    from trt.tf32 import tf32 as allow_tf32

    exported = program.load(folder / PROGRAM)
    exported._example_inputs = ((torch.zeros(shape, dtype=torch.uint8),), {})
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        if torch.cuda.is_available():
            exported = program.on_gpu(exported)
            stack.enter_context(_with_cuda_home())
            stack.enter_context(allow_tf32(tf32))
        aoti_compile_and_package(
            exported,
            package_path=str(folder / PACKAGE),
            inductor_configs={"freezing": freezing, "cpp.cxx": (None, cpp_compiler())},
        )


def open_package(folder: Path, *, tf32: bool, cuda_graphs: bool) -> "Run":
    """Open the package in a folder; the options only matter on a GPU."""
    import torch
    from torch._inductor import aoti_load_package

    on_gpu = torch.cuda.is_available()
    try:  # with several threads it makes CUDA calls that are not allowed in a graph capture
        run = aoti_load_package(str(folder / PACKAGE), run_single_threaded=on_gpu and cuda_graphs)
    except (OSError, RuntimeError) as error:
        raise CompileError(f"{folder / PACKAGE} can't be opened ({error}).") from error
    if not on_gpu:
        return run
    from trt.cuda_graphs import CudaGraphRunner
    from trt.tf32 import with_tf32

    run = with_tf32(run, tf32)
    return CudaGraphRunner(run) if cuda_graphs else run
