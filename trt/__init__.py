"""Compiles a module to a fast callable: backends, artifacts, parity. Independent of the task."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trt.artifact import Artifact


def load(folder: Path) -> "Artifact":
    """Load an artifact: a callable from uint8 clips (B, T, C, H, W) to logits, for any batch size.

    Raises:
        CompileError: The artifact is damaged.
        RefusedError: A file was changed, or the artifact can't run on this machine.
    """
    from trt import artifact

    return artifact.load(folder)
