"""Answers requests for labels: admits them, decodes, batches and formats.

Shape letters: C classes.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dali_pipelines.loaders.windows import ReadWindow
from engine.predictor import Predictor
from engine.serving.http.batcher import BatchFacts
from engine.serving.http.decoding import Decoder
from engine.serving.http.failures import RequestError
from engine.serving.http.metrics import Metrics
from engine.serving.http.served_model import OpenModel, ServedModel
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
        self._num_queued = 0
        self._num_films = 0
        """Requests for windows, each of which has several clips on their way."""
        self._num_uploads = 0
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

    @contextmanager
    def uploading(self) -> Iterator[None]:
        """Count a request whose body is received; too many are refused."""
        if self._num_uploads >= UPLOADS_PER_PLACE * self.settings.queue:
            raise self._busy("uploads")
        self._num_uploads += 1
        self.metrics.uploads.set(self._num_uploads)
        try:
            yield
        finally:
            self._num_uploads -= 1
            self.metrics.uploads.set(self._num_uploads)

    @contextmanager
    def queued(self) -> Iterator[None]:
        """Give a request a place in the queue; if there is none, it is refused."""
        if self._num_queued >= self.settings.queue:
            raise self._busy("queue")
        self._num_queued += 1
        self.metrics.queue.set(self._num_queued)
        try:
            yield
        finally:
            self._num_queued -= 1
            self.metrics.queue.set(self._num_queued)
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
            probabilities_C = await self._through(model, read, left_s)
        return self._answer(served, model) | _row(model.predictor, read, probabilities_C, top_k)

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
            pending: deque[tuple[ReadWindow, asyncio.Future[NDArray[np.float32]]]] = deque()
            decoded = self._decoder.windows(
                path, model.predictor.clip, window_s, stride_s, ahead=ahead,
                max_duration_s=self.settings.max_duration_s, timeout_s=self.settings.timeout_s,
            )  # fmt: skip
            async with aclosing(decoded):
                async for read in decoded:
                    pending.append((read, asyncio.wrap_future(model.batcher.submit(read))))
                    while pending and (len(pending) >= ahead or pending[0][1].done()):
                        yield await self._window_row(model, *pending.popleft(), top_k)
            while pending:
                yield await self._window_row(model, *pending.popleft(), top_k)

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

    async def _window_row(
        self,
        model: OpenModel,
        read: ReadWindow,
        result: "asyncio.Future[NDArray[np.float32]]",
        top_k: int,
    ) -> Row:
        probabilities_C = await self._in_time(result, self.settings.timeout_s)
        return _row(model.predictor, read, probabilities_C, top_k)

    async def _through(
        self, model: OpenModel, read: ReadWindow, timeout_s: float
    ) -> NDArray[np.float32]:
        return await self._in_time(asyncio.wrap_future(model.batcher.submit(read)), timeout_s)

    async def _in_time(
        self, result: "asyncio.Future[NDArray[np.float32]]", timeout_s: float
    ) -> NDArray[np.float32]:
        await asyncio.wait({result}, timeout=max(0.0, timeout_s))
        if not result.done():
            message = f"there was no answer within {self.settings.timeout_s:g} s."
            raise RequestError(504, "timeout", message)
        return result.result()

    def _answer(self, served: ServedModel, model: OpenModel) -> Row:
        return {"model": served.name, "digest": model.digest}

    @contextmanager
    def _film(self) -> Iterator[None]:
        self._num_films += 1
        try:
            yield
        finally:
            self._num_films -= 1

    def _expected(self) -> int:
        return self._num_queued + self._num_films * self.settings.max_batch

    def _busy(self, what: str) -> RequestError:
        message = "the server is busy: try again later."
        return RequestError(429, what, message, retry_after_s=self._seconds_to_wait())

    def _seconds_to_wait(self) -> int:
        """About how long the queue takes, by the rate of the last answers."""
        if len(self._answered) < 2:
            return 1
        rate = (len(self._answered) - 1) / max(1e-3, self._answered[-1] - self._answered[0])
        return min(60, max(1, math.ceil(self._num_queued / rate)))

    def _count_batch(self, name: str, facts: BatchFacts) -> None:
        self.metrics.batch_size.labels(name).observe(facts.size)
        self.metrics.windows.labels(name).inc(facts.size)
        self.metrics.stage_s.labels("model").observe(facts.model_s)
        for wait_s in facts.waits_s:
            self.metrics.stage_s.labels("wait").observe(wait_s)


def _row(
    predictor: Predictor, read: ReadWindow, probabilities_C: NDArray[np.float32], top_k: int
) -> Row:
    names = predictor.class_names
    best = np.argsort(-probabilities_C, kind="stable")[:top_k].tolist()
    row: Row = {
        "label": names[best[0]],
        "confidence": round(float(probabilities_C[best[0]]), 6),
        "top": {names[index]: round(float(probabilities_C[index]), 6) for index in best},
        "start_s": read.window.start_s,
        "end_s": read.window.end_s,
    }
    if read.num_damaged:
        row["warning"] = f"{read.num_damaged} of its decoded frames are damaged"
    return row
