"""Labels one video for the page: classes, segments, the frames the model saw, and timings.

Shape letters: B windows of a batch, T frames, C channels or classes, H height, W width.
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

MAX_WHOLE_WINDOWS = 2.0
"""Videos up to this many window lengths are labelled as one clip."""
BATCH_SIZE = 8
MAX_WINDOWS = 20_000
MAX_STRIPS = 100
"""Film strips kept of a long video, evenly spread."""
FRAME_SIDE = 112
TOP = 5


@dataclass(frozen=True, kw_only=True)
class Strip:
    """The frames of one window that the model saw, as JPEG."""

    start_s: float
    end_s: float
    frames: list[bytes]


@dataclass(frozen=True, kw_only=True)
class Answer:
    top: list[tuple[int, float]]
    """The most likely classes and their probabilities, averaged over the windows."""
    duration_s: float
    num_windows: int
    segments: list[Segment]
    """Empty if the video is one window."""
    strips: list[Strip]
    seconds: dict[str, float]
    """Duration of each stage."""
    num_damaged: int
    """Damaged frames that were replaced with a neighboring frame."""

    def strip_at(self, middle_s: float) -> Strip:
        """The strip whose window is centered closest to this time."""
        return min(self.strips, key=lambda strip: abs(strip.start_s + strip.end_s - 2 * middle_s))


def answer(
    path: Path,
    model: "Model",
    clip: ClipSpec,
    *,
    window_s: float,
    gpu: int | None = None,
    log: Callable[[int, int], None] = lambda done, total: None,
) -> Answer:
    """Label a video, window by window if it is long.

    Args:
        path: The video.
        model: Predicts logits for uint8 clips.
        clip: The clips that the model expects.
        window_s: Length of a window in seconds; windows overlap by half.
        gpu: GPU of the model; None for the CPU.
        log: Called with the number of finished windows and their total; may raise to stop.

    Raises:
        VideoError: The video can't be read.
    """
    started = time.perf_counter()
    windows = _plan(path, window_s)
    planning_s = time.perf_counter() - started
    is_long = len(windows) > 1
    batch_size = min(BATCH_SIZE, len(windows))
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
    predictor = BatchedPredictor(model, batch_size)
    strips = Strips(len(windows))
    predictions: list[tuple[float, float, NDArray[np.float32]]] = []
    model_s = strips_s = 0.0
    loop_started = time.perf_counter()
    with closing(loader.batches()) as batches:
        for batch in batches:
            model_started = time.perf_counter()
            probabilities_BC = predictor(batch.clips)
            model_ended = time.perf_counter()
            for window, frames_TCHW, probabilities_C in zip(
                batch.windows, batch.clips, probabilities_BC, strict=True
            ):
                predictions.append((window.start_s, window.end_s, probabilities_C))
                strips.add(window, frames_TCHW)
            model_s += model_ended - model_started
            strips_s += time.perf_counter() - model_ended
            log(len(predictions), len(windows))
    decoding_s = time.perf_counter() - loop_started - model_s - strips_s
    if path in loader.report.failures:
        raise VideoError(path, loader.report.failures[path])
    mean_C = np.stack([probabilities_C for _, _, probabilities_C in predictions]).mean(
        axis=0, dtype=np.float64
    )
    return Answer(
        top=[(int(index), float(mean_C[index])) for index in np.argsort(-mean_C)[:TOP]],
        duration_s=windows[-1].end_s,
        num_windows=len(windows),
        segments=segments(predictions, smooth_s=window_s) if is_long else [],
        strips=strips.kept,
        seconds={
            "finding frames": planning_s,
            "decoding": decoding_s,
            "model": model_s,
            "pictures": strips_s,
        },
        num_damaged=sum(loader.report.damaged_frames.values()),
    )


def _plan(path: Path, window_s: float) -> list[Window]:
    """One window for a short video, or windows that overlap by half."""
    try:
        (whole,) = plan_windows(path, window_s=None)
        if whole.end_s <= MAX_WHOLE_WINDOWS * window_s:
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
    """Collects film strips of at most `MAX_STRIPS` evenly spread windows."""

    def __init__(self, num_windows: int) -> None:
        self.kept: list[Strip] = []
        self._interval = -(-num_windows // MAX_STRIPS)

    def add(self, window: Window, frames_TCHW: "torch.Tensor") -> None:
        if window.number % self._interval:
            return
        frames_THWC = frames_TCHW.permute(0, 2, 3, 1).cpu().numpy()
        self.kept.append(
            Strip(
                start_s=window.start_s,
                end_s=window.end_s,
                frames=[_jpeg(frame_HWC) for frame_HWC in frames_THWC],
            )
        )


def _jpeg(frame_HWC: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    image = Image.fromarray(frame_HWC)
    image.thumbnail((FRAME_SIDE, FRAME_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()
