"""A module to a fast callable: compilers, artifacts, parity. Knows nothing of video or the task."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trt.artifact import Artifact


def load(folder: Path) -> "Artifact":
    """Open an artifact: bytes (B, T, C, H, W) to logits, whatever the size of the batch."""
    from trt import artifact

    return artifact.load(folder)
