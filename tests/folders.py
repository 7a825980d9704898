"""Clips and frames in folders where names and places alone matter, and their rows in a manifest."""

from pathlib import Path

import videos
from PIL import Image

from engine.data.manifest import Clip


def save(folder: Path, name: str, index: int = 0, size: tuple[int, int] = (64, 48)) -> None:
    folder.mkdir(exist_ok=True)
    Image.fromarray(videos.numbered(index, *size)).save(folder / name)


def touch(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"x")


def make_clips(members: list[tuple[str, str]]) -> tuple[Clip, ...]:
    """Clips of (label, source) in HMDB51's layout."""
    return tuple(
        Clip(
            path=f"videos/{label}/{source}_{label}_f_nm_np1_fr_goo_{index}.avi",
            label=label,
            source=source,
            codec="mpeg4",
            frames=60,
        )
        for index, (label, source) in enumerate(members)
    )
