"""Answers requests for labels: admits them, decodes, batches and formats.

Shape letters: C classes.
"""

import asyncio
import math
import time
from collections import Counter, deque
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, aclosing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prometheus_client import Gauge

from dali_pipelines.loaders.windows import ReadWindow
from engine.batched_predictor import top_classes
from engine.predictor import Predictor
from engine.serving.http.batcher import BatchFacts
from engine.serving.http.decoding import Decoder
from engine.serving.http.failures import RequestError, too_late
from engine.serving.http.metrics import Metrics
from engine.serving.http.served_model import ServedModel
from engine.serving.http.settings import ServeSettings

UPLOADS_PER_PLACE = 4
"""Uploads at a time, for each place in the queue."""
RATE_OVER = 32
"""Answers over which the rate is measured."""

Row = dict[str, Any]


class Service:
    """The models, the queue and the decoder of a server; opening it loads the models."""

    def __init__(self, settings: ServeSettings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self._decoder = Decoder()
        self._num: Counter[str] = Counter()
        """Requests that have a place, by the stage."""
        self._num_films = 0
        """Requests for windows, each of which has several clips on their way."""
        self._answered: deque[float] = deque(maxlen=RATE_OVER)
        self.models = {
            name: ServedModel(name, path, settings, self._expected, self._count_batch)
            for name, path in settings.models.items()
        }

    def close(self) -> None:
        self._decoder.close()
        for model in self.models.values():
            model.close()

    def model(self, name: str | None) -> ServedModel:
        """Find a model by its name; None is the first one."""
        name = name or next(iter(self.models))
        if name not in self.models:
            known = ", ".join(self.models)
            raise RequestError(404, "model", f"there is no model {name!r}; choose from: {known}.")
        return self.models[name]

    def uploading(self) -> AbstractContextManager[None]:
        """Count a request whose body is received; too many are refused."""
        limit = UPLOADS_PER_PLACE * self.settings.queue
        return self._place("uploads", limit, self.metrics.uploads)

    @contextmanager
    def queued(self) -> Iterator[None]:
        """Give a request a place in the queue; if there is none, it is refused."""
        with self._place("queue", self.settings.queue, self.metrics.queue):
            try:
                yield
            finally:
                self._answered.append(time.monotonic())

    async def predict(self, path: Path, served: ServedModel, *, top_k: int) -> Row:
        """Label a video as a whole."""
        started = time.monotonic()
        with served.in_use() as model:
            read = await self._decoder.clip(
                path,
                model.predictor.clip,
                max_duration_s=self.settings.max_duration_s,
                timeout_s=self.settings.timeout_s,
            )
            self.metrics.stage_s.labels("decode").observe(time.monotonic() - started)
            left_s = self.settings.timeout_s - (time.monotonic() - started)
            probabilities_C = await self._in_time(model.batcher.submit(read), left_s)
        row = _row(model.predictor, read, probabilities_C, top_k)
        return {"model": served.name, "digest": model.digest, **row}

    async def windows(
        self,
        path: Path,
        served: ServedModel,
        *,
        window_s: float,
        stride_s: float | None,
        top_k: int,
    ) -> AsyncGenerator[Row, None]:
        """Label the windows of a video, in order of time."""
        ahead = 2 * self.settings.max_batch
        with served.in_use() as model, self._film():
            pending: deque[tuple[ReadWindow, Future[NDArray[np.float32]]]] = deque()

            async def next_row() -> Row:
                read, result = pending.popleft()
                probabilities_C = await self._in_time(result, self.settings.timeout_s)
                return _row(model.predictor, read, probabilities_C, top_k)

            decoded = self._decoder.windows(
                path, model.predictor.clip, window_s, stride_s, ahead=ahead,
                max_duration_s=self.settings.max_duration_s, timeout_s=self.settings.timeout_s,
            )  # fmt: skip
            async with aclosing(decoded):
                async for read in decoded:
                    pending.append((read, model.batcher.submit(read)))
                    while pending and (len(pending) >= ahead or pending[0][1].done()):
                        yield await next_row()
            while pending:
                yield await next_row()

    def facts(self) -> list[Row]:
        """What `/v1/models` lists."""
        return [
            {
                "name": name,
                "digest": model.current.digest,
                "runs_on": model.current.predictor.runs_on,
                "classes": model.current.predictor.class_names,
                "frames": model.current.predictor.clip.num_frames,
                "size": model.current.predictor.clip.crop,
            }
            for name, model in self.models.items()
        ]

    def reload_changed(self) -> None:
        """Open changed models again."""
        for name, model in self.models.items():
            if (replaced := model.reload_if_changed()) is not None:
                self.metrics.reloads.labels(name, "ok" if replaced else "failed").inc()

    async def _in_time(
        self, result: "Future[NDArray[np.float32]]", timeout_s: float
    ) -> NDArray[np.float32]:
        waiting = asyncio.wrap_future(result)
        await asyncio.wait({waiting}, timeout=max(0.0, timeout_s))
        if not waiting.done():
            raise too_late(self.settings.timeout_s)
        return waiting.result()

    @contextmanager
    def _place(self, what: str, limit: int, gauge: Gauge) -> Iterator[None]:
        if self._num[what] >= limit:
            raise self._busy(what)
        self._num[what] += 1
        gauge.set(self._num[what])
        try:
            yield
        finally:
            self._num[what] -= 1
            gauge.set(self._num[what])

    @contextmanager
    def _film(self) -> Iterator[None]:
        self._num_films += 1
        try:
            yield
        finally:
            self._num_films -= 1

    def _expected(self) -> int:
        return self._num["queue"] + self._num_films * self.settings.max_batch

    def _busy(self, what: str) -> RequestError:
        message = "the server is busy: try again later."
        return RequestError(429, what, message, retry_after_s=self._seconds_to_wait())

    def _seconds_to_wait(self) -> int:
        """About how long the queue takes, by the rate of the last answers."""
        if len(self._answered) < 2:
            return 1
        rate = (len(self._answered) - 1) / max(1e-3, self._answered[-1] - self._answered[0])
        return min(60, max(1, math.ceil(self._num["queue"] / rate)))

    def _count_batch(self, name: str, facts: BatchFacts) -> None:
        self.metrics.batch_size.labels(name).observe(facts.size)
        self.metrics.windows.labels(name).inc(facts.size)
        self.metrics.stage_s.labels("model").observe(facts.model_s)
        for wait_s in facts.waits_s:
            self.metrics.stage_s.labels("wait").observe(wait_s)


def _row(
    predictor: Predictor, read: ReadWindow, probabilities_C: NDArray[np.float32], top_k: int
) -> Row:
    top = top_classes(predictor, probabilities_C, top_k)
    label, confidence = next(iter(top.items()))
    row: Row = {
        "label": label,
        "confidence": round(confidence, 6),
        "top": {name: round(value, 6) for name, value in top.items()},
        "start_s": read.window.start_s,
        "end_s": read.window.end_s,
    }
    if read.num_damaged:
        row["warning"] = f"{read.num_damaged} of its decoded frames are damaged"
    return row
