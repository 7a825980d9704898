"""Finds out how many tokens can be merged so that a build still passes the parity check."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from trt.config import ArtifactConfig

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Shares of the tokens to merge that are tried."""


def strongest(
    attempt: Callable[[float], ArtifactConfig | None], stage: Path
) -> ArtifactConfig | None:
    """Find the largest share that passes, by bisection: a share passes if a larger one does.

    Args:
        attempt: Builds with a share of the tokens merged, in `stage`, and returns the config if the
            build passes.
        stage: Folder of the build; in the end it holds the one that was found.

    Returns:
        Its config; None if no share passes.
    """
    best: ArtifactConfig | None = None
    low, high = -1, len(SHARES)
    with tempfile.TemporaryDirectory(dir=stage.parent, prefix=".best-") as folder:
        while high - low > 1:
            middle = (low + high) // 2
            config = attempt(SHARES[middle])
            if config is None:
                high = middle
            else:
                low, best = middle, config
                _move_files(stage, Path(folder))
        if best is not None:
            _move_files(Path(folder), stage)
    return best


def _move_files(source: Path, target: Path) -> None:
    """Move all files, in place of those that are there."""
    for path in target.iterdir():
        path.unlink()
    for path in source.iterdir():
        shutil.move(path, target)
