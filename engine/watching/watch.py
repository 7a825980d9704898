"""Watches live streams: a thread per source decodes, and the calling thread runs the model."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from threading import Event, Thread

from dali_pipelines.decode.stream_source import StreamSource
from dali_pipelines.loaders.windows import require_seconds
from dali_pipelines.spec import ClipSpec
from engine.batched_predictor import BatchedPredictor, VideoModel, top_classes
from engine.errors import UserError
from engine.prediction import Prediction
from engine.watching.pending import Pending, Waiting
from engine.watching.reader import ReadSettings, SourceReader

DEFAULT_WINDOW_S = 2.0
"""For models that are trained on whole clips: about the length of a clip of HMDB51."""
USUAL_FPS = 30.0
MAX_DEFAULT_BATCH = 8
JOIN_S = 2.0


@dataclass(frozen=True, kw_only=True)
class StreamPrediction(Prediction):
    """The label of a window of a stream.

    Attributes:
        source: The stream, without its password.
        time: When the last frame of the window arrived.
        delay_s: Seconds from then until the label was there.
        dropped: Windows of this source that were not labelled so far, because the model or the
            decoder was too slow.
        part: Index of the uninterrupted part of the stream: one more after each interruption.
    """

    source: str
    time: datetime
    delay_s: float
    dropped: int
    part: int


@dataclass(kw_only=True)
class WatchTally:
    """Counts of a run, updated while it runs."""

    windows: int = 0
    dropped: int = 0
    lost: int = 0
    """How often a live stream was lost."""
    failures: dict[str, str] = field(default_factory=dict)
    """Files and pipes that couldn't be read, and why."""


def default_window_s(clip: ClipSpec) -> float:
    """The length of a window that fits how a model was trained.

    With `uniform` sampling that is the time that its frames span. With other samplings it was
    trained on whole clips, whose length isn't recorded.
    """
    if clip.sampling != "uniform":
        return DEFAULT_WINDOW_S
    return round(clip.num_frames * clip.stride / (clip.fps or USUAL_FPS), 2)


def watch(
    model: VideoModel,
    sources: Sequence[str],
    *,
    window_s: float | None = None,
    stride_s: float | None = None,
    top_k: int = 5,
    batch_size: int | None = None,
    timeout_s: float = 10.0,
    on_status: Callable[[str], None] = lambda text: None,
    tally: WatchTally | None = None,
) -> Iterator[StreamPrediction]:
    """Yield a prediction for each window of the streams; see Predictor.watch.

    Raises:
        UserError: A setting or a source is wrong.
    """
    streams = parse_sources(sources)
    require_seconds(window_s, stride_s)
    window_s = window_s or default_window_s(model.clip)
    settings = ReadSettings(
        clip=model.clip, window_s=window_s, stride_s=stride_s or window_s / 2, timeout_s=timeout_s
    )
    batch_size = batch_size or min(len(streams), MAX_DEFAULT_BATCH)
    return _watch(model, streams, settings, top_k, batch_size, on_status, tally or WatchTally())


def parse_sources(sources: Sequence[str]) -> list[StreamSource]:
    """Recognize the sources.

    Raises:
        UserError: There are none, or one is given twice.
        SpecError: One is neither a camera nor a URL, a pipe or a file.
    """
    if not sources:
        raise UserError("name a source: a camera, a URL, a file, or - for standard input.")
    if len(set(sources)) < len(sources):
        raise UserError("a source is named twice.")
    return [StreamSource.of(text) for text in sources]


def _watch(
    model: VideoModel,
    streams: list[StreamSource],
    settings: ReadSettings,
    top_k: int,
    batch_size: int,
    on_status: Callable[[str], None],
    tally: WatchTally,
) -> Iterator[StreamPrediction]:
    classify = _Classifier(model, batch_size)
    pending, stop = Pending(len(streams)), Event()
    readers = [
        SourceReader(number, stream, settings, pending, stop, on_status)
        for number, stream in enumerate(streams)
    ]
    threads = [Thread(target=reader.run, name="watch", daemon=True) for reader in readers]
    for thread in threads:
        thread.start()
    try:
        while taken := pending.take(batch_size):
            for waiting, top in classify(taken, top_k):
                tally.windows += 1
                _count(tally, pending, readers)
                yield _prediction(streams[waiting.source], waiting, top, pending)
    finally:
        stop.set()
        pending.stop()
        ends_at = time.monotonic() + JOIN_S
        for thread in threads:
            with suppress(RuntimeError):
                thread.join(max(0.0, ends_at - time.monotonic()))
        _count(tally, pending, readers)


def _count(tally: WatchTally, pending: Pending, readers: list[SourceReader]) -> None:
    tally.dropped = sum(pending.dropped)
    tally.lost = sum(reader.num_lost for reader in readers)
    tally.failures = {reader.source.name: reader.error for reader in readers if reader.error}


class _Classifier:
    """Runs the model on batches of 1, 2, 4, … windows, so that no batch has to be padded."""

    def __init__(self, model: VideoModel, batch_size: int) -> None:
        import torch

        from engine.window_predictor import WindowPredictor

        self._model = model
        self._sizes = [1]
        while 2 * self._sizes[-1] <= batch_size:
            self._sizes.append(2 * self._sizes[-1])
        for size in self._sizes:  # the first call of a model is slow
            BatchedPredictor(model, size)(torch.zeros(size, *model.clip.shape, dtype=torch.uint8))
        self._predict = WindowPredictor(model, self._sizes)

    def __call__(
        self, taken: Sequence[Waiting], top_k: int
    ) -> Iterator[tuple[Waiting, dict[str, float]]]:
        start = 0
        while start < len(taken):
            size = max(size for size in self._sizes if size <= len(taken) - start)
            part = taken[start : start + size]
            probabilities_BC = self._predict(
                [waiting.window.frames for waiting in part],
                [waiting.window.view for waiting in part],
            )
            for waiting, probabilities_C in zip(part, probabilities_BC, strict=True):
                yield waiting, top_classes(self._model, probabilities_C, top_k)
            start += size


def _prediction(
    stream: StreamSource, waiting: Waiting, top: dict[str, float], pending: Pending
) -> StreamPrediction:
    window = waiting.window
    label, confidence = next(iter(top.items()))
    delay_s = time.monotonic() - window.arrived
    return StreamPrediction(
        label=label,
        confidence=confidence,
        top=top,
        start_s=window.start_s,
        end_s=window.end_s,
        warning=f"{window.num_damaged} of its frames are damaged" if window.num_damaged else "",
        source=stream.name,
        time=datetime.now(UTC) - timedelta(seconds=delay_s),
        delay_s=round(delay_s, 3),
        dropped=pending.dropped[waiting.source],
        part=window.part,
    )
