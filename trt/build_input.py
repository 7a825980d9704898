"""What a backend is given to build from, and what it gives back."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trt.config import PROGRAM, Target

if TYPE_CHECKING:
    import torch
    from torch.export import ExportedProgram

    from trt.program import Uint8Input

    Run = Callable[[torch.Tensor], torch.Tensor]
    """Bytes (B, T, C, H, W) to logits (B, classes), for a batch within the artifact's range."""


@dataclass(frozen=True, kw_only=True)
class BuildInput:
    """The model is in fp32 where the backend lowers it by itself, and else lowered already."""

    model: "Uint8Input | None"
    example: "torch.Tensor"
    """One clip as the loader gives it: (1, T, C, H, W) of bytes."""
    target: Target
    stored: Path | None = None
    """An artifact to build from where there is no model: the program in it is already lowered."""
    calibration: "Callable[[], Iterable[torch.Tensor]] | None" = None
    """Clips on which the ranges of int8 are measured, each like `example`; None: no int8."""
    on_step: Callable[[str], None] = lambda step: None
    """Told what is being done, for a progress display."""

    def program(self) -> "ExportedProgram":
        from trt import program

        if self.stored is not None:
            exported = program.load(self.stored / PROGRAM)
            exported._example_inputs = ((self.example,), {})  # some compilers look at it
            return exported
        assert self.model is not None
        return program.export(self.model, self.example, self.target.batches)
