"""BuildInput: what a backend compiles; Run: the compiled model."""

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
    """Maps uint8 clips (B, T, C, H, W) to logits (B, classes); B must be in the artifact's range.
    """


@dataclass(frozen=True, kw_only=True)
class BuildInput:
    """Input of a backend's `build`."""

    model: "Uint8Input | None"
    """In fp32 if the backend converts to the precision itself (see LOWERS), else already converted.
    """
    example: "torch.Tensor"
    """One clip from the loader: uint8 (1, T, C, H, W)."""
    target: Target
    stored: Path | None = None
    """Artifact to build from if there is no model; its program is already converted."""
    calibration: "Callable[[], Iterable[torch.Tensor]] | None" = None
    """Returns the calibration clips of int8, each like `example`; None: no int8."""
    on_step: Callable[[str], None] = lambda step: None
    """Called with the name of each build step, for a progress display."""

    def program(self) -> "ExportedProgram":
        """Export the model, or load the stored program."""
        from trt import program

        if self.stored is not None:
            exported = program.load(self.stored / PROGRAM)
            exported._example_inputs = ((self.example,), {})  # some compilers need it
            return exported
        assert self.model is not None
        return program.export(self.model, self.example, self.target.batches)
