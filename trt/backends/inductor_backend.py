"""AOTInductor backend: PyTorch's ahead-of-time compiler; builds a package for this machine."""

import dataclasses
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trt.backends import eager_backend, inductor_package, inductor_process
from trt.backends.eager_backend import runs_on as runs_on
from trt.build_input import BuildInput
from trt.config import PROGRAM, ArtifactConfig, Bond, Precision, nearest
from trt.probe import Gpu, Status, install_command, installed

if TYPE_CHECKING:
    from trt.build_input import Run

WHERE = "GPU or CPU"
LOWERS: frozenset[Precision] = frozenset({"fp32", "tf32"})
PACKAGES: tuple[str, ...] = ("torch",)
BOUND_TO: frozenset[Bond] = frozenset({"device", "versions"})


def resolve_precision(precision: Precision, gpu: Gpu | None) -> tuple[Precision, str]:
    """On a CPU without AVX-512 the kernels don't support bf16, and bf16 programs fail."""
    import torch

    if gpu is None and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return nearest(precision, {"fp32", "fp16"}, "this CPU")
    return eager_backend.resolve_precision(precision, gpu)


def probe(gpu: Gpu | None) -> Status:
    if not any(map(shutil.which, inductor_package.COMPILERS)):
        return Status(usable=False, why="no C++ compiler", fix="apt-get install g++")
    if gpu is not None and inductor_package.cuda_home() is None:
        return Status(
            usable=False,
            why="no CUDA headers, which its code for a GPU includes",
            fix=f"{install_command('inductor')}, or set CUDA_HOME to a CUDA toolkit",
        )
    return Status(usable=True, why=f"{installed('torch')} with a C++ compiler")


def build(inputs: BuildInput, folder: Path) -> dict[str, Any]:
    import torch

    from trt import program

    exported = inputs.program()
    program.save(exported, folder / PROGRAM)
    batches = inputs.target.batches
    facts = inductor_process.Facts(
        shape=[min(batches.opt, batches.max), *inputs.example.shape[1:]],
        tf32=inputs.target.precision == "tf32",
    )
    partition = {"engines": 1, "in_engine": program.num_operators(exported), "in_torch": 0}
    if torch.cuda.is_available():
        return {**partition, **_build_what_runs(inputs, folder, facts)}
    inputs.on_step("compiling")
    inductor_process.run("compile", folder, facts)
    return partition


def _build_what_runs(
    inputs: BuildInput, folder: Path, facts: inductor_process.Facts
) -> dict[str, bool]:
    """Compile for a GPU, with fewer optimizations if the result doesn't run.

    Returns:
        The optimizations.

    Raises:
        RuntimeError: It doesn't compile, or doesn't run without them.
    """
    failure = RuntimeError()
    for freezing in (True, False):
        inputs.on_step("compiling" if freezing else "compiling without freezing")
        facts = dataclasses.replace(facts, freezing=freezing)
        try:
            inductor_process.run("compile", folder, facts)
            for cuda_graphs in (True, False):
                inputs.on_step("running it" if cuda_graphs else "running it without CUDA graphs")
                facts = dataclasses.replace(facts, cuda_graphs=cuda_graphs)
                try:
                    inductor_process.run("try", folder, facts)
                    return {"freezing": freezing, "cuda_graphs": cuda_graphs}
                except RuntimeError as error:
                    inputs.on_step(str(error))
                    failure = error
        except RuntimeError as error:
            inputs.on_step(str(error))
            failure = error
    raise failure


def load(folder: Path, config: ArtifactConfig) -> "Run":
    return inductor_package.open_package(
        folder,
        tf32=config.target.precision == "tf32",
        cuda_graphs=config.partition.get("cuda_graphs", True),
    )
