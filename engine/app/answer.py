"""One video through one model: what was seen, what it is, who does what when, and what took long.

B windows of a batch, T frames, C channels or classes.
"""

import io
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dali_pipelines.errors import VideoError
from dali_pipelines.loaders.window_loader import WindowLoader
from dali_pipelines.loaders.windows import Window, plan_windows
from dali_pipelines.spec import ClipSpec
from engine.batched_predictor import BatchedPredictor
from engine.labelling.segments import Segment, segments

if TYPE_CHECKING:
    import torch

    Model = Callable[[torch.Tensor], torch.Tensor]

WHOLE = 2.0
"""A video of up to so many windows' length is answered as a whole."""
BATCH = 8
MAX_WINDOWS = 20_000
MAX_STRIPS = 100
"""Of a long video; those between are given up."""
FRAME_SIDE = 112
TOP = 5


@dataclass(frozen=True, kw_only=True)
class Strip:
    """The frames that the model saw of one window, as JPEG."""

    start_s: float
    end_s: float
    frames: list[bytes]


@dataclass(frozen=True, kw_only=True)
class Answer:
    top: list[tuple[int, float]]
    """The best classes of the whole and their probabilities, which are means over the windows."""
    duration_s: float
    num_windows: int
    segments: list[Segment]
    """Empty where the video is one window."""
    strips: list[Strip]
    seconds: dict[str, float]
    """What each stage took."""
    num_damaged: int
    """Damaged frames for which a neighbour stood in."""

    def strip_at(self, middle_s: float) -> Strip:
        return min(self.strips, key=lambda each: abs(each.start_s + each.end_s - 2 * middle_s))


def answer(
    path: Path,
    model: "Model",
    clip: ClipSpec,
    *,
    window_s: float,
    gpu: int | None = None,
    log: Callable[[int, int], None] = lambda done, total: None,
) -> Answer:
    """`tell` hears how many windows of how many are done, and may raise to stop."""
    started = time.perf_counter()
    windows = _plan(path, window_s)
    found_s = time.perf_counter() - started
    is_long = len(windows) > 1
    batch_size = min(BATCH, len(windows))
    loader = WindowLoader(
        [path],
        clip,
        window_s=window_s if is_long else None,
        stride_s=window_s / 2 if is_long else None,
        batch_size=batch_size,
        gpu=gpu,
        num_threads=None if is_long else 1,
        values="uint8",
    )
    answerer = BatchedPredictor(model, batch_size)
    strips = Strips(len(windows))
    found: list[tuple[float, float, NDArray[np.float32]]] = []
    model_s = strips_s = 0.0
    reading = time.perf_counter()
    with closing(loader.batches()) as batches:
        for batch in batches:
            read = time.perf_counter()
            probabilities_BC = answerer(batch.clips)
            answered = time.perf_counter()
            for window, frames, each in zip(
                batch.windows, batch.clips, probabilities_BC, strict=True
            ):
                found.append((window.start_s, window.end_s, each))
                strips.take(window, frames)
            model_s += answered - read
            strips_s += time.perf_counter() - answered
            log(len(found), len(windows))
    reading_s = time.perf_counter() - reading - model_s - strips_s
    if path in loader.report.failures:
        raise VideoError(path, loader.report.failures[path])
    mean_C = np.stack([each for _, _, each in found]).mean(axis=0, dtype=np.float64)
    return Answer(
        top=[(int(each), float(mean_C[each])) for each in np.argsort(-mean_C)[:TOP]],
        duration_s=windows[-1].end_s,
        num_windows=len(windows),
        segments=segments(found, smooth_s=window_s) if is_long else [],
        strips=strips.kept,
        seconds={
            "finding frames": found_s,
            "decoding": reading_s,
            "model": model_s,
            "pictures": strips_s,
        },
        num_damaged=sum(loader.report.damaged_frames.values()),
    )


def _plan(path: Path, window_s: float) -> list[Window]:
    """The whole, or windows that overlap by half."""
    try:
        (whole,) = plan_windows(path, window_s=None)
        if whole.end_s <= WHOLE * window_s:
            return [whole]
        if whole.end_s / window_s * 2 > MAX_WINDOWS:
            raise VideoError(
                path,
                f"it claims to last {whole.end_s:,.0f} s, too long for windows of {window_s} s",
            )
        return plan_windows(path, window_s=window_s, stride_s=window_s / 2)
    except OSError as error:
        raise VideoError(path, error.strerror or str(error)) from error


class Strips:
    """Keeps those of evenly spread windows, however many there are."""

    def __init__(self, num_windows: int) -> None:
        self.kept: list[Strip] = []
        self._each = -(-num_windows // MAX_STRIPS)

    def take(self, window: Window, frames_TCHW: "torch.Tensor") -> None:
        if window.number % self._each:
            return
        pictures = frames_TCHW.permute(0, 2, 3, 1).cpu().numpy()
        self.kept.append(
            Strip(
                start_s=window.start_s,
                end_s=window.end_s,
                frames=[_jpeg(picture) for picture in pictures],
            )
        )


def _jpeg(picture_HWC: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    image = Image.fromarray(picture_HWC)
    image.thumbnail((FRAME_SIDE, FRAME_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()
