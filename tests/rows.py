"""Rows of clips for the loaders, and what two loaders that agree give of them."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from dali_pipelines.decode import clip_file
from dali_pipelines.loaders.dali_loader import DaliLoader
from dali_pipelines.loaders.loader_config import LoaderConfig, Sample
from dali_pipelines.loaders.torch_loader import TorchLoader
from dali_pipelines.spec import ClipSpec

SMALL = ClipSpec(num_frames=4, resize=72, crop=64)


def rows_of(paths: list[Path]) -> list[Sample]:
    rows = []
    for number, path in enumerate(paths):
        facts = clip_file.probe(path)
        rows.append(
            Sample(
                id=number,
                path=path,
                label=number % 3,
                frames=facts.frames,
                fps=facts.fps,
                width=facts.width,
                height=facts.height,
                codec=facts.codec,
            )
        )
    return rows


def write_frames(
    folder: Path, suffix: str, count: int = 20, size: tuple[int, int] = (96, 80)
) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (count, 6, 8, 3), np.uint8)
    for number, pixels in enumerate(small):
        image = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
        image.save(folder / f"frame_{number:04}{suffix}", quality=95)
    return folder


def by_id(batches: Any) -> dict[int, list[torch.Tensor]]:
    found: dict[int, list[torch.Tensor]] = {}
    for batch in batches:
        for row, clip in zip(batch.ids.tolist(), batch.clips, strict=True):
            found.setdefault(row, []).append(clip.float().cpu())
    return found


def assert_same_pixels(
    one: torch.Tensor, other: torch.Tensor, spec: ClipSpec, *, most: float = 8
) -> None:
    std = torch.tensor(spec.std).reshape(3, 1, 1)
    difference = ((one - other).abs() * std * 255).flatten()
    assert difference.mean() <= 2
    assert difference.kthvalue(max(1, int(difference.numel() * 0.999))).values <= most


def assert_loaders_agree(
    rows: list[Sample], config: LoaderConfig, *, most: float = 8, **options: Any
) -> DaliLoader:
    """`most`: largest difference of a pixel, out of 255, except for one in a thousand."""
    ours, plain = DaliLoader(rows, config, **options), TorchLoader(rows, config, num_workers=0)
    left, right = by_id(ours), by_id(plain)
    assert left.keys() == right.keys() == {row.id for row in rows}
    for number, clips in left.items():
        assert len(clips) == len(right[number]) == config.num_views
        for one, other in zip(clips, right[number], strict=True):
            assert_same_pixels(one, other, config.spec, most=most)
    return ours
