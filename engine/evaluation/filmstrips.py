"""What a model saw of a clip: its sampled frames side by side, or one after the other."""

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dali_pipelines.decode.clip_file import read_frames
from dali_pipelines.decode.pixels import resize_short
from dali_pipelines.loaders.loader_config import Sample
from dali_pipelines.sampling import plan_frames
from dali_pipelines.spec import ClipSpec
from engine.html import embed_jpeg

HEIGHT = 96
MAX_FRAMES = 12
GIF_MS = 150


def frames_of(row: Sample, spec: ClipSpec) -> NDArray[np.uint8]:
    """(T, H, W, 3): the frames of the one central view, small."""
    plan = plan_frames(row.frames, row.fps, spec)
    frames = plan.compose(read_frames(row.path, plan.source_indices))
    small = np.stack([resize_short(frame, HEIGHT) for frame in frames])
    if len(small) > MAX_FRAMES:
        small = small[np.linspace(0, len(small) - 1, MAX_FRAMES).round().astype(int)]
    return small


def strip_as_jpeg(frames_THWC: NDArray[np.uint8]) -> str:
    """The frames from left to right, as the address of a picture that a page holds in itself."""
    from PIL import Image

    strip = np.concatenate(list(frames_THWC), axis=1)
    buffer = io.BytesIO()
    Image.fromarray(strip).save(buffer, "JPEG", quality=80)
    return embed_jpeg(buffer.getvalue())


def write_gif(path: Path, frames_THWC: NDArray[np.uint8]) -> None:
    from PIL import Image

    pictures = [Image.fromarray(frame) for frame in frames_THWC]
    pictures[0].save(
        path, save_all=True, append_images=pictures[1:], duration=GIF_MS, loop=0, optimize=True
    )
