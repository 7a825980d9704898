"""A way in a process of its own, so that its memory, threads and start-up are its alone.

Only one process works at a time; the others wait for what they are asked next.
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

LOOK_S = 0.3
"""Between two looks at a process's memory."""
PATIENCE_S = 10


class PipelineError(Exception):
    """A way that can't be run, and why."""


class Worker:
    def __init__(self, spec: PipelineSpec, *, cores: int | None = None) -> None:
        """`cores` pins it to the first so many."""
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, spec, cores, time.time()))
        self._process.start()
        theirs.close()
        self.spec = spec
        self.peak_mib = 0.0

    def ask(
        self, what: str, *arguments: Any, on_clip: Callable[[], None] = lambda: None
    ) -> dict[str, Any]:
        try:
            self._pipe.send((what, arguments))
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
            raise PipelineError(f"its process ended by itself (exit code {code})") from error

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """As long as it lasts, the memory of the process and its children is looked at."""
        done = threading.Event()

        def look() -> None:
            while True:
                self.peak_mib = max(self.peak_mib, memory_mib(self._process.pid or 0))
                if done.wait(LOOK_S):
                    return

        thread = threading.Thread(target=look)
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
        if kind is None:  # it sees that nobody asks any more, and ends in order
            self._process.join(PATIENCE_S)
        self._process.terminate()
        self._process.join(PATIENCE_S)
        if self._process.is_alive():
            self._process.kill()


def memory_mib(process: int) -> float:
    """What a process and all its children take, each page that they share counted once."""
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
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who asks decides when it ends
    if cores is not None:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    if spec.kind != "ours":  # others' decoders write FFmpeg's remarks on each odd file there
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    served = _Served(pipe, spec, started)
    while True:
        try:
            what, arguments = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            answer = "done", getattr(served, what)(*arguments)
        except UserError as error:
            answer = "error", str(error)
        except Exception as error:
            answer = "error", traceback.format_exception_only(error)[-1].strip().splitlines()[-1]
        with contextlib.suppress(OSError):
            pipe.send(answer)


class _Served:
    """What a worker can be asked, by name."""

    def __init__(self, pipe: Connection, spec: PipelineSpec, started: float) -> None:
        self._pipe = pipe
        self._spec = spec
        self._started = started
        self._pipeline: Pipeline

    def open(self, row: Sample) -> dict[str, Any]:
        from benchmarks.open_pipeline import open_pipeline

        began = time.time()
        self._pipeline = open_pipeline(self._spec)
        opened = time.time()
        with contextlib.suppress(VideoError):  # other clips may be within its reach
            self._pipeline.one(row)
        return {
            "open_s": round(opened - began, 2),
            "first_label_s": round(time.time() - self._started, 2),
        }

    def label(self, rows: list[Sample], setting: Setting) -> dict[str, Any]:
        started = time.perf_counter()
        found = {}
        for each in self._pipeline.label(rows, setting):
            found[each.id] = each.probabilities
            self._pipe.send(("clip", None))
        seconds = time.perf_counter() - started
        return {"seconds": seconds, "probabilities": found, "note": self._pipeline.note}

    def latency(self, rows: list[Sample], seconds: float) -> dict[str, Any]:
        """Milliseconds from one file to its answer, nothing running ahead."""
        took = []
        end = time.perf_counter() + seconds
        for row in rows:
            started = time.perf_counter()
            with contextlib.suppress(VideoError):
                self._pipeline.one(row)
                took.append(1e3 * (time.perf_counter() - started))
            if time.perf_counter() > end:
                break
        return {"ms": took}

    def stages(
        self, rows: list[Sample], setting: Setting, repeats: int, seconds: float
    ) -> dict[str, Any]:
        """Clips per second of each stage by itself, in turn; only our way has them."""
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
    """Short stages are run again and again, so that the clock has something to measure."""

    def run() -> int:
        count, end = 0, time.perf_counter() + seconds
        while True:
            count += stage()
            if time.perf_counter() >= end:
                return count

    return run
