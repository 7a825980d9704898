"""Prepares a trained model for the compilers: uint8 input, precision, export, saving and loading.

Shape letters: B batch, T frames, C channels, H height, W width.
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
from torch.export.passes import move_to_device_pass
from torch.utils._pytree import tree_map

from trt import program_check
from trt.config import BatchRange
from trt.errors import CompileError

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
ALWAYS_KEPT: dict[torch.dtype, tuple[type[nn.Module], ...]] = {torch.float16: (nn.LayerNorm,)}
"""Modules that stay in fp32: the sums of squares in a LayerNorm overflow fp16."""


class Uint8Input(nn.Module):
    """Wraps a model to take uint8 clips, which are a quarter of the size of fp32 ones.

    Args:
        model: Takes normalized clips.
        mean: Mean of each channel, for pixel values from 0 to 1.
        std: Standard deviation of each channel.
        dtype: Data type of the model's input.
    """

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
    """Runs a module in fp32 inside a model of lower precision."""

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.module = module
        self.dtype = dtype

    def forward(self, *inputs: Any) -> Any:
        outputs = self.module(*cast(inputs, torch.float32))
        return cast(outputs, self.dtype)


def lowered(model: Uint8Input, precision: str, fp32_layers: Collection[str] = ()) -> Uint8Input:
    """Return a copy that computes in bf16 or fp16, with explicit casts.

    Args:
        model: A model in fp32.
        precision: With any other precision (tf32, int8, …) the compiler converts the model, and
            it is returned unchanged.
        fp32_layers: Names of modules that stay in fp32.
    """
    dtype = DTYPES.get(precision)
    if dtype is None:
        return model
    changed = copy.deepcopy(model)
    changed.dtype = dtype
    changed.model.to(dtype)
    always_fp32 = ALWAYS_KEPT.get(dtype, ())
    for name in outermost(
        [
            *fp32_layers,
            *(
                name
                for name, module in model.model.named_modules()
                if isinstance(module, always_fp32)
            ),
        ]
    ):
        parent, _, attribute = name.rpartition(".")
        original = Fp32Module(copy.deepcopy(model.model.get_submodule(name)), dtype)
        setattr(changed.model.get_submodule(parent), attribute, original)
    return changed


def outermost(names: Collection[str]) -> list[str]:
    """Remove the modules that are inside another module of the list."""
    chosen: list[str] = []
    for name in sorted(set(names)):
        if not any(name.startswith(f"{parent}.") for parent in chosen):
            chosen.append(name)
    return chosen


def export(model: nn.Module, example_BTCHW: Tensor, batches: BatchRange) -> ExportedProgram:
    """Export the model as one graph, with a dynamic batch size up to `batches.max`."""
    size = max(2, min(batches.opt, batches.max))
    example = example_BTCHW[:1].expand(size if batches.max > 1 else 1, *example_BTCHW.shape[1:])
    dims = {0: Dim("batch", min=1, max=batches.max)} if batches.max > 1 else {}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # recurrent layers warn about flattened weights
        return torch.export.export(model, (example.contiguous(),), dynamic_shapes=(dims,))


def on_gpu(program: ExportedProgram) -> ExportedProgram:
    """Move a program to the current GPU, with its index: checks inside it compare exact devices."""
    return move_to_device_pass(program, f"cuda:{torch.cuda.current_device()}")


def num_operators(program: ExportedProgram) -> int:
    return sum(node.op == "call_function" for node in program.graph.nodes)


def save(program: ExportedProgram, path: Path) -> None:
    """Save a program without torch's pickle of the example inputs."""
    original = path.with_suffix(".whole.pt2")
    torch.export.save(program, original)
    with zipfile.ZipFile(original) as source, zipfile.ZipFile(path, "w") as target:
        for item in source.infolist():
            with target.open(item.filename, "w", force_zip64=True) as written:
                if program_check.EXAMPLE not in item.filename:
                    with source.open(item) as read:
                        shutil.copyfileobj(read, written, 1 << 20)
    original.unlink()


def load(path: Path) -> ExportedProgram:
    """Load a program that contains only data.

    Raises:
        CompileError: The file is damaged, or could run code.
    """
    program_check.check(path)
    try:
        return torch.export.load(path)
    except Exception as error:  # torch raises many different errors for a damaged program
        raise CompileError(f"{path} can't be read ({error}): compile the model again.") from error


def cast(values: Any, dtype: torch.dtype) -> Any:
    """Convert the floating-point tensors in a nested structure."""
    return tree_map(
        lambda leaf: leaf.to(dtype) if isinstance(leaf, Tensor) and leaf.is_floating_point()
        else leaf, values,
    )  # fmt: skip
