"""Shows the sampled frames of a clip, side by side as a JPEG or as an animated GIF."""

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
    """The frames of the central view, resized and at most `MAX_FRAMES`, as (T, H, W, 3)."""
    plan = plan_frames(row.frames, row.fps, spec)
    frames = plan.compose(read_frames(row.path, plan.source_indices))
    resized = np.stack([resize_short(frame, HEIGHT) for frame in frames])
    if len(resized) > MAX_FRAMES:
        resized = resized[np.linspace(0, len(resized) - 1, MAX_FRAMES).round().astype(int)]
    return resized


def strip_as_jpeg(frames_THWC: NDArray[np.uint8]) -> str:
    """The frames from left to right, as a data URL of a JPEG."""
    from PIL import Image

    strip = np.concatenate(list(frames_THWC), axis=1)
    buffer = io.BytesIO()
    Image.fromarray(strip).save(buffer, "JPEG", quality=80)
    return embed_jpeg(buffer.getvalue())


def write_gif(path: Path, frames_THWC: NDArray[np.uint8]) -> None:
    """Write the frames as an animated GIF."""
    from PIL import Image

    images = [Image.fromarray(frame) for frame in frames_THWC]
    images[0].save(
        path, save_all=True, append_images=images[1:], duration=GIF_MS, loop=0, optimize=True
    )
