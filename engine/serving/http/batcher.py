"""Dynamic batching: clips of different requests go through the model together.

Shape letters: B clips of a batch, C classes.
"""

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dali_pipelines.loaders.windows import ReadWindow
from engine.predictor import Predictor
from engine.window_predictor import WindowPredictor


class BatchFacts(NamedTuple):
    size: int
    model_s: float
    """Time of preprocessing and the model."""
    waits_s: list[float]
    """How long each clip had waited before."""


class _Waiting(NamedTuple):
    window: ReadWindow
    result: "Future[NDArray[np.float32]]"
    since: float


class Batcher:
    """Runs a model on decoded clips in a thread of its own.

    A batch is started when it is full, when its first clip has waited long enough, or when no other
    clip is on its way.

    Args:
        model: The model.
        max_batch: Clips in a batch.
        max_wait_s: How long the first clip waits for others.
        num_expected: Returns the number of clips that are decoded or wait.
        on_batch: Called after each batch.
    """

    def __init__(
        self,
        model: Predictor,
        *,
        max_batch: int,
        max_wait_s: float,
        num_expected: Callable[[], int],
        on_batch: Callable[[BatchFacts], None] = lambda facts: None,
    ) -> None:
        self._max_batch = max_batch
        self._max_wait_s = max_wait_s
        self._num_expected = num_expected
        self._on_batch = on_batch
        model.warm_up(max_batch)
        # A GPU may hold a CUDA graph of one size; on a CPU, padding would cost time.
        on_cpu = model.device.index is None
        self._predict = WindowPredictor(model, range(1 if on_cpu else max_batch, max_batch + 1))
        self._waiting: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="batcher", daemon=True)
        self._thread.start()

    def submit(self, window: ReadWindow) -> "Future[NDArray[np.float32]]":
        """Return the probabilities (C,) of a clip, once they are computed."""
        result: Future[NDArray[np.float32]] = Future()
        self._waiting.put(_Waiting(window, result, time.monotonic()))
        return result

    def close(self) -> None:
        """Finish what was submitted, and end the thread."""
        self._waiting.put(None)
        self._thread.join()

    def _work(self) -> None:
        is_open = True
        while is_open:
            batch, is_open = self._next_batch()
            if batch:
                self._run(batch)

    def _next_batch(self) -> tuple[list[_Waiting], bool]:
        """Wait for a batch; the second value is False after `close`."""
        batch: list[_Waiting] = []
        deadline = 0.0
        while len(batch) < self._max_batch:
            try:
                left_s = max(0.0, deadline - time.monotonic()) if batch else None
                if batch and self._num_expected() <= len(batch):
                    left_s = 0.0
                item = self._waiting.get(timeout=left_s)
            except queue.Empty:
                break
            if item is None:
                return batch, False
            if not batch:
                deadline = item.since + self._max_wait_s
            batch.append(item)
        return batch, True

    def _run(self, batch: list[_Waiting]) -> None:
        started = time.monotonic()
        try:
            windows = [item.window for item in batch]
            probabilities_BC = self._predict(
                [each.frames for each in windows], [each.view for each in windows]
            )
        except BaseException as error:
            for item in batch:
                item.result.set_exception(error)
            return
        ended = time.monotonic()
        for item, probabilities_C in zip(batch, probabilities_BC, strict=True):
            item.result.set_result(probabilities_C)
        waits_s = [started - item.since for item in batch]
        self._on_batch(BatchFacts(size=len(batch), model_s=ended - started, waits_s=waits_s))
