"""Runs a pipeline in a separate process, to isolate its memory, threads and start-up.

Only one process works at a time; the others wait for requests.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

from benchmarks.pipeline import Pipeline, PipelineSpec, Setting
from dali_pipelines.errors import VideoError
from dali_pipelines.loaders.loader_config import Sample
from engine.errors import UserError

MEMORY_INTERVAL_S = 0.3
"""Seconds between two measurements of a process's memory."""
EXIT_TIMEOUT_S = 10


class PipelineError(Exception):
    """A pipeline can't be run; the message is the reason."""


class Worker:
    """A pipeline in a separate process.

    Args:
        spec: The pipeline.
        cores: If given, the process is pinned to the first `cores` cores.
    """

    def __init__(self, spec: PipelineSpec, *, cores: int | None = None) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, child_pipe = context.Pipe()
        self._process = context.Process(target=_serve, args=(child_pipe, spec, cores, time.time()))
        self._process.start()
        child_pipe.close()
        self.spec = spec
        self.peak_mib = 0.0

    def ask(
        self, command: str, *arguments: Any, on_clip: Callable[[], None] = lambda: None
    ) -> dict[str, Any]:
        """Run a method of `_Commands` in the process and return its result.

        Raises:
            PipelineError: The command failed, or the process has died.
        """
        try:
            self._pipe.send((command, arguments))
            while True:
                kind, value = self._pipe.recv()
                if kind == "clip":
                    on_clip()
                elif kind == "error":
                    raise PipelineError(value)
                else:
                    return value
        except (EOFError, OSError) as error:
            self._process.join()
            code = self._process.exitcode
            raise PipelineError(f"its process died (exit code {code})") from error

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Record the peak memory of the process and its children while the context is open."""
        done = threading.Event()

        def measure() -> None:
            while True:
                self.peak_mib = max(self.peak_mib, memory_mib(self._process.pid or 0))
                if done.wait(MEMORY_INTERVAL_S):
                    return

        thread = threading.Thread(target=measure)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._pipe.close()
        if kind is None:  # the closed pipe ends it
            self._process.join(EXIT_TIMEOUT_S)
        self._process.terminate()
        self._process.join(EXIT_TIMEOUT_S)
        if self._process.is_alive():
            self._process.kill()


def memory_mib(process: int) -> float:
    """Return the memory of a process and its children; shared pages count once."""
    total = 0.0
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) / 1024
        for task in Path(f"/proc/{process}/task").iterdir():
            for child in (task / "children").read_text().split():
                total += memory_mib(int(child))
    return total


def _serve(pipe: Connection, spec: PipelineSpec, cores: int | None, started: float) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    if cores is not None:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    if spec.kind != "ours":  # hide FFmpeg's messages, which other decoders print to stderr
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    commands = _Commands(pipe, spec, started)
    while True:
        try:
            command, arguments = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            answer = "done", getattr(commands, command)(*arguments)
        except UserError as error:
            answer = "error", str(error)
        except Exception as error:
            answer = "error", traceback.format_exception_only(error)[-1].strip().splitlines()[-1]
        with contextlib.suppress(OSError):
            pipe.send(answer)


class _Commands:
    """Commands of a worker, called by name."""

    def __init__(self, pipe: Connection, spec: PipelineSpec, started: float) -> None:
        self._pipe = pipe
        self._spec = spec
        self._started = started
        self._pipeline: Pipeline

    def open(self, row: Sample) -> dict[str, Any]:
        from benchmarks.pipelines import open_pipeline

        started = time.time()
        self._pipeline = open_pipeline(self._spec)
        opened = time.time()
        with contextlib.suppress(VideoError):  # other clips may be readable
            self._pipeline.one(row)
        return {
            "open_s": round(opened - started, 2),
            "first_label_s": round(time.time() - self._started, 2),
        }

    def label(self, rows: list[Sample], setting: Setting) -> dict[str, Any]:
        started = time.perf_counter()
        probabilities = {}
        for answer in self._pipeline.label(rows, setting):
            probabilities[answer.id] = answer.probabilities
            self._pipe.send(("clip", None))
        seconds = time.perf_counter() - started
        return {"seconds": seconds, "probabilities": probabilities, "note": self._pipeline.note}

    def latency(self, rows: list[Sample], seconds: float) -> dict[str, Any]:
        """Milliseconds from a file to its prediction, without prefetching."""
        times_ms = []
        end = time.perf_counter() + seconds
        for row in rows:
            started = time.perf_counter()
            with contextlib.suppress(VideoError):
                self._pipeline.one(row)
                times_ms.append(1e3 * (time.perf_counter() - started))
            if time.perf_counter() > end:
                break
        return {"ms": times_ms}

    def stages(
        self, rows: list[Sample], setting: Setting, repeats: int, seconds: float
    ) -> dict[str, Any]:
        """Clips per second of each stage, timed in turn; only our pipeline has stages."""
        from benchmarks.harness import interleaved

        stages = self._pipeline.stages(rows, setting)  # type: ignore[attr-defined]
        steady = {name: _for_a_while(stage, seconds) for name, stage in stages.items()}
        return interleaved(steady, repeats=repeats)

    def device(self) -> dict[str, Any]:
        import torch

        if not torch.cuda.is_available():
            return {"threads": torch.get_num_threads()}
        free, total = torch.cuda.mem_get_info()
        return {"threads": torch.get_num_threads(), "gpu_mib": round((total - free) / 2**20)}


def _for_a_while(stage: Callable[[], int], seconds: float) -> Callable[[], int]:
    """Repeat a stage for some seconds, to time short stages reliably."""

    def run() -> int:
        count, end = 0, time.perf_counter() + seconds
        while True:
            count += stage()
            if time.perf_counter() >= end:
                return count

    return run
