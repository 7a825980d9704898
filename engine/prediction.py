"""Predicts labels of videos: prefetches clips, runs the model in batches, keeps the order.

Shape letters: B clips of a batch, T frames, C classes.
"""

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dali_pipelines.cores import num_cores
from dali_pipelines.errors import VideoError
from engine.batched_predictor import BatchedPredictor, VideoModel, top_classes

if TYPE_CHECKING:
    from dali_pipelines.loaders.window_loader import WindowLoader
    from dali_pipelines.loaders.windows import Window

Video = Any
"""A path, or frames as a uint8 array or tensor (T, H, W, 3) in RGB."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The predicted label of a video or of a window.

    Attributes:
        path: The video; None if frames were given.
        label: The most likely class; empty if the video can't be read.
        confidence: Its probability, from 0 to 1.
        top: The most likely classes and their probabilities, the best first.
        start_s: Start of the window in seconds.
        end_s: End of the window, or duration of the video; 0 if frames were given.
        warning: Problems of a file that could be read, such as damaged frames.
        error: Why the video can't be read; empty if it can.
    """

    path: Path | None = None
    label: str = ""
    confidence: float = 0.0
    top: dict[str, float] = field(default_factory=dict)
    start_s: float = 0.0
    end_s: float = 0.0
    warning: str = ""
    error: str = ""

    @property
    def duration_s(self) -> float:
        """Length of the window or video in seconds."""
        return self.end_s - self.start_s


def predict(
    predictor: VideoModel,
    videos: Sequence[Video],
    *,
    top_k: int,
    batch_size: int,
    on_video: Callable[[], None],
) -> list[Prediction]:
    """Return a prediction for each video, in order; see Predictor.predict."""
    if not videos:
        return []
    batched = _batched(predictor, min(batch_size, len(videos)))
    predictions: dict[int, Prediction] = {}
    files = {n: Path(video) for n, video in enumerate(videos) if _is_path(video)}
    if files:
        of_files = _predict_files(predictor, list(files.values()), batched, top_k, on_video)
        predictions |= zip(files, of_files, strict=True)
    arrays = {n: _frames(video) for n, video in enumerate(videos) if n not in files}
    if arrays:
        of_arrays = _predict_arrays(predictor, list(arrays.values()), batched, top_k, on_video)
        predictions |= zip(arrays, of_arrays, strict=True)
    return [predictions[number] for number in range(len(videos))]


def predict_windows(
    predictor: VideoModel,
    path: Path,
    *,
    window_s: float,
    stride_s: float | None,
    top_k: int,
    batch_size: int,
) -> Iterator[Prediction]:
    """Yield a prediction for each window of a video; see Predictor.predict_windows."""
    loader = _loader(predictor, [path], batch_size, window_s=window_s, stride_s=stride_s)
    for window, probabilities_C in _predict_loader(loader, _batched(predictor, batch_size)):
        yield _prediction(predictor, probabilities_C, top_k, window, _warning(loader, path))
    if reason := loader.report.failures.get(path):
        raise VideoError(path, reason)


def _predict_files(
    predictor: VideoModel,
    paths: list[Path],
    batched: BatchedPredictor,
    top_k: int,
    on_video: Callable[[], None],
) -> list[Prediction]:
    """Predict each file as one window, in order; a file that can't be read yields no window."""
    loader = _loader(predictor, paths, batched.batch_size)
    predictions: list[Prediction] = []
    failed = Prediction(error="it gave no frames")
    for window, probabilities_C in _predict_loader(loader, batched):
        while paths[len(predictions)] != window.path:
            predictions.append(failed)
            on_video()
        predictions.append(_prediction(predictor, probabilities_C, top_k, window))
        on_video()
    for _ in paths[len(predictions) :]:
        predictions.append(failed)
        on_video()
    reasons = loader.report.failures
    return [
        Prediction(path=path, error=reasons.get(path, prediction.error))
        if prediction is failed
        else dataclasses.replace(prediction, warning=_warning(loader, path))
        for path, prediction in zip(paths, predictions, strict=True)
    ]


def _predict_arrays(
    predictor: VideoModel,
    videos: list[NDArray[np.uint8]],
    batched: BatchedPredictor,
    top_k: int,
    on_video: Callable[[], None],
) -> list[Prediction]:
    from dali_pipelines.augment import ClipView
    from dali_pipelines.decode.pixels import resize_short
    from dali_pipelines.loaders.dali_graph import ClipGraph
    from dali_pipelines.sampling import plan_frames

    spec, size = predictor.clip, batched.batch_size
    graph = ClipGraph(
        "pixels",
        spec,
        max_views=size,
        num_threads=num_cores(),
        gpu=predictor.device.index,
        values="uint8",
    )
    predictions = []
    for start in range(0, len(videos), size):
        frames, views = [], []
        for video_THWC in videos[start : start + size]:
            view = ClipView(plan=plan_frames(len(video_THWC), 0.0, spec))
            numbers, inverse = np.unique(view.plan.source_indices, return_inverse=True)
            resized = np.stack([resize_short(video_THWC[n], spec.resize) for n in numbers])
            frames += list(view.plan.compose(resized[inverse]))
            views.append(view)
        clips = graph.run(frames, views)
        for probabilities_C in batched(clips):
            predictions.append(_prediction(predictor, probabilities_C, top_k))
            on_video()
    return predictions


def _is_path(video: Video) -> bool:
    return isinstance(video, str | os.PathLike)


def _frames(video: Video) -> NDArray[np.uint8]:
    frames = np.asarray(video)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not frames.size:
        raise TypeError(
            "a video must be a path, or frames as uint8 of shape (T, H, W, 3), not "
            f"{type(video).__name__} of {frames.dtype} and shape {frames.shape}"
        )
    return frames


def _batched(predictor: VideoModel, batch_size: int) -> BatchedPredictor:
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    return BatchedPredictor.before_loading(predictor, batch_size)


def _loader(
    predictor: VideoModel, paths: list[Path], batch_size: int, **windows: float | None
) -> "WindowLoader":
    from dali_pipelines.loaders.window_loader import WindowLoader

    return WindowLoader(
        paths,
        predictor.clip,
        batch_size=batch_size,
        gpu=predictor.device.index,
        values="uint8",
        **windows,  # type: ignore[arg-type]
    )


def _predict_loader(
    loader: "WindowLoader", batched: BatchedPredictor
) -> "Iterator[tuple[Window, NDArray[np.float32]]]":
    with closing(loader.batches()) as batches:
        for batch in batches:
            yield from zip(batch.windows, batched(batch.clips), strict=True)


def _warning(loader: "WindowLoader", path: Path) -> str:
    report = loader.report
    parts = [report.flaws[path]] if path in report.flaws else []
    if num_damaged := report.damaged_frames.get(path):
        parts.append(f"{num_damaged} of its decoded frames are damaged")
    if num_streams := report.num_streams.get(path):
        parts.append(f"it holds {num_streams} video streams; the first one was read")
    return "; ".join(parts)


def _prediction(
    predictor: VideoModel,
    probabilities_C: NDArray[np.float32],
    top_k: int,
    window: "Window | None" = None,
    warning: str = "",
) -> Prediction:
    top = top_classes(predictor, probabilities_C, top_k)
    label, confidence = next(iter(top.items()))
    return Prediction(
        path=window.path if window else None,
        label=label,
        confidence=confidence,
        top=top,
        start_s=window.start_s if window else 0.0,
        end_s=window.end_s if window else 0.0,
        warning=warning,
    )
