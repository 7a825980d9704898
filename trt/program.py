"""From a trained module to the program that compilers take: bytes in, logits out, precision chosen.

Shape letters: B batch, T frames, C colors, H, W.
"""

import copy
import shutil
import warnings
import zipfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.utils._pytree import tree_map

from trt import sealed
from trt.config import BatchRange
from trt.errors import CompileError

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
ALWAYS_KEPT: dict[torch.dtype, tuple[type[nn.Module], ...]] = {torch.float16: (nn.LayerNorm,)}
"""The sums of squares of a LayerNorm leave the range of fp16, in every transformer we know of."""


class Uint8Input(nn.Module):
    """Normalizes by itself, so that the clips that travel to it are bytes: a quarter of floats."""

    def __init__(
        self,
        model: nn.Module,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        shape = (3, 1, 1)
        deviation = torch.tensor(std).reshape(shape)
        self.register_buffer("scale", 1 / (255 * deviation))
        self.register_buffer("shift", -torch.tensor(mean).reshape(shape) / deviation)
        self.model = model
        self.dtype = dtype

    def forward(self, clips_BTCHW: Tensor) -> Tensor:
        pixels = clips_BTCHW.to(torch.float32) * self.scale + self.shift
        return self.model(pixels.to(self.dtype)).float()


class Fp32Module(nn.Module):
    """A part that keeps fp32 in a model of lower precision."""

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.module = module
        self.dtype = dtype

    def forward(self, *inputs: Any) -> Any:
        found = self.module(*cast(inputs, torch.float32))
        return cast(found, self.dtype)


def lowered(model: Uint8Input, precision: str, fp32_layers: Collection[str] = ()) -> Uint8Input:
    """A copy that computes in `precision`, but for the modules `kept`: the casts are its own ops.

    Precisions that a compiler brings about by itself (tf32, int8) leave the copy in fp32.
    """
    dtype = DTYPES.get(precision)
    if dtype is None:
        return model
    changed = copy.deepcopy(model)
    changed.dtype = dtype
    changed.model.to(dtype)
    always = ALWAYS_KEPT.get(dtype, ())
    for name in outermost(
        [
            *fp32_layers,
            *(name for name, each in model.model.named_modules() if isinstance(each, always)),
        ]
    ):
        parent, _, attribute = name.rpartition(".")
        whole = Fp32Module(copy.deepcopy(model.model.get_submodule(name)), dtype)
        setattr(changed.model.get_submodule(parent), attribute, whole)
    return changed


def outermost(names: Collection[str]) -> list[str]:
    """Without those that lie inside another."""
    chosen: list[str] = []
    for name in sorted(set(names)):
        if not any(name.startswith(f"{other}.") for other in chosen):
            chosen.append(name)
    return chosen


def export(model: nn.Module, example_BTCHW: Tensor, batches: BatchRange) -> ExportedProgram:
    """The whole model as one graph; its batch may be anything within `batches`."""
    size = max(2, min(batches.opt, batches.max))
    example = example_BTCHW[:1].expand(size if batches.max > 1 else 1, *example_BTCHW.shape[1:])
    dims = {0: Dim("batch", min=1, max=batches.max)} if batches.max > 1 else {}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of recurrent layers, whose flat weights come and go
        return torch.export.export(model, (example.contiguous(),), dynamic_shapes=(dims,))


def num_operators(program: ExportedProgram) -> int:
    return sum(node.op == "call_function" for node in program.graph.nodes)


def save(program: ExportedProgram, path: Path) -> None:
    """As torch does, without its one pickle, which only keeps the example."""
    whole = path.with_suffix(".whole.pt2")
    torch.export.save(program, whole)
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w") as target:
        for item in source.infolist():
            with target.open(item.filename, "w", force_zip64=True) as written:
                if sealed.EXAMPLE not in item.filename:
                    with source.open(item) as read:
                        shutil.copyfileobj(read, written, 1 << 20)
    whole.unlink()


def load(path: Path) -> ExportedProgram:
    sealed.check(path)
    try:
        return torch.export.load(path)
    except Exception as error:  # torch has dozens, of many modules, for a damaged program
        raise CompileError(f"{path} can't be read ({error}): compile the model anew.") from error


def cast(values: Any, dtype: torch.dtype) -> Any:
    """The floating-point tensors of a structure."""
    return tree_map(
        lambda each: each.to(dtype) if isinstance(each, Tensor) and each.is_floating_point()
        else each, values,
    )  # fmt: skip
