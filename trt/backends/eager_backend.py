"""Reference backend: runs the exported program in eager PyTorch."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from trt.build_input import BuildInput
from trt.config import PROGRAM, ArtifactConfig, Bond, Precision, nearest
from trt.probe import Gpu, Status, installed

if TYPE_CHECKING:
    from trt.build_input import Run

WHERE = "anywhere, as reference"
LOWERS: frozenset[Precision] = frozenset({"fp32", "tf32"})
PACKAGES: tuple[str, ...] = ("torch",)
BOUND_TO: frozenset[Bond] = frozenset()


def probe(gpu: Gpu | None) -> Status:
    return Status(usable=True, why=installed("torch"))


def resolve_precision(precision: Precision, gpu: Gpu | None) -> tuple[Precision, str]:
    known: set[Precision] = {"fp32", "bf16", "fp16"}
    if gpu is not None and gpu.capability >= (8, 0):
        known.add("tf32")
    return nearest(precision, known, "torch")


def runs_on(gpu: Gpu | None) -> str:
    return "cuda" if gpu else "cpu"


def build(inputs: BuildInput, folder: Path) -> dict[str, Any]:
    from trt import program

    exported = inputs.program()
    program.save(exported, folder / PROGRAM)
    return {"engines": 0, "in_engine": 0, "in_torch": program.num_operators(exported)}


def load(folder: Path, config: ArtifactConfig) -> "Run":
    import torch

    from trt import program

    exported = program.load(folder / PROGRAM)
    if not torch.cuda.is_available():
        return exported.module()
    from trt.tf32 import with_tf32

    module = program.on_gpu(exported).module()
    return with_tf32(module, config.target.precision == "tf32")
