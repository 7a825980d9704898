"""DaliLoader: loads batches of clips with decoding threads and the DALI graph.

Clips are prefetched by one decoding thread per core (or one process, if there are many); another
thread collects batches and runs the graph, on a GPU if there is one.
"""

import dataclasses
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Literal

from dali_pipelines.cores import num_cores
from dali_pipelines.errors import LoaderError, Stopped, VideoError
from dali_pipelines.loaders.clip_reader import ClipReader, ReadClip
from dali_pipelines.loaders.dali_graph import INPUT_KINDS, ClipGraph, InputKind, reason_of
from dali_pipelines.loaders.decode_processes import decode_processes
from dali_pipelines.loaders.frame_cache import FrameCache
from dali_pipelines.loaders.loader_config import Batch, ClipLoader, LoaderConfig, Sample, make_batch
from dali_pipelines.loaders.prefetch import Task, ThreadPool, prefetch
from dali_pipelines.loaders.video_choice import VideoChoice

if TYPE_CHECKING:
    import torch

BATCHES_AHEAD = 2
"""Batches to decode ahead of the current one, and finished batches to keep ready."""
TIMEOUT_S = 120.0

Decoder = Literal["pyav", "dali"]
"""dali: DALI's video decoder (NVDEC on a GPU) for the files it supports, PyAV for the others."""


class DaliLoader(ClipLoader):
    """Loads clips with the DALI graph, on a GPU or CPU.

    Args:
        rows: The samples.
        config: The settings.
        gpu: GPU index; None runs on the CPU.
        num_threads: Decoding threads, or processes if they are many; None takes one per core.
        cache: Cache for decoded frames.
        decoder: Decoder of video files.
        timeout_s: Seconds to wait for a clip before it counts as failed.
    """

    def __init__(
        self,
        rows: Sequence[Sample],
        config: LoaderConfig,
        *,
        gpu: int | None = None,
        num_threads: int | None = None,
        cache: FrameCache | None = None,
        decoder: Decoder = "pyav",
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        super().__init__(rows, config)
        self.cache = None if config.spec.fast_decode else cache  # it holds exact frames
        self._timeout_s = timeout_s
        self._gpu = gpu
        self._num_threads = num_threads or num_cores()
        self._processes = decode_processes(self._num_threads)
        self._graphs: dict[InputKind, ClipGraph] = {}
        self._use_dali_decoder = decoder == "dali"
        self._videos = VideoChoice(for_gpu=gpu is not None)

    def _load(self, batches: list[list[Sample]]) -> Iterator[Batch | None]:
        return prefetch(
            lambda stop: self._batches(batches, stop),
            ahead=BATCHES_AHEAD,
            is_stopped=lambda: self._is_stopped,
        )

    def _batches(
        self, batches: list[list[Sample]], stop: threading.Event
    ) -> Generator[Batch | None, None, None]:
        """Produce the batches; runs in the prefetch thread."""
        reader = ClipReader(
            config=self.config,
            cache=self.cache,
            takes_video=self._takes_video,
            for_gpu=self._gpu is not None,
            processes=self._processes,
            stop=stop,
        )
        pool = ThreadPool(self._num_threads)
        epoch = self._epoch
        pending: deque[list[tuple[Sample, Task[ReadClip | VideoError]]]] = deque()
        remaining = iter(batches)
        try:
            for _ in batches:
                while (
                    len(pending) <= BATCHES_AHEAD and (batch := next(remaining, None)) is not None
                ):
                    pending.append([(row, _task(reader, row, epoch)) for row in batch])
                    for _, task in pending[-1]:
                        pool.submit(task)
                read = [self._result(row, task, pool, stop) for row, task in pending[0]]
                pending.popleft()
                yield self._assemble(read, reader, epoch)
        finally:
            stop.set()
            for _, task in chain.from_iterable(pending):
                task.stop.set()
            pool.shut_down()

    def _result(
        self,
        row: Sample,
        task: "Task[ReadClip | VideoError]",
        pool: ThreadPool,
        stop: threading.Event,
    ) -> ReadClip | VideoError:
        deadline = time.monotonic() + self._timeout_s
        while not stop.is_set():
            try:
                return task.done.result(0.1)
            except TimeoutError:
                if time.monotonic() > deadline:
                    pool.abandon(task)
                    return VideoError(row.path, f"it gave no frames for {self._timeout_s:g} s")
        raise Stopped

    def _assemble(
        self, read: list[ReadClip | VideoError], reader: ClipReader, epoch: int
    ) -> Batch | None:
        import torch

        for item in read:
            if isinstance(item, VideoError):
                self.report.failures[item.path] = item.reason
        clips = [item for item in read if isinstance(item, ReadClip)]
        done: list[tuple[list[ReadClip], torch.Tensor]] = []
        for input_kind in INPUT_KINDS:
            if of_kind := [clip for clip in clips if clip.input_kind == input_kind]:
                done += self._run_or_split(of_kind, reader, epoch)
        if not done:
            return None
        delivered = [clip for group, _ in done for clip in group]
        if len(done) == 1:
            clips_BTCHW = done[0][1]
        else:
            clips_BTCHW = torch.cat([tensor for _, tensor in done])
            order = _in_order([clip.row for clip in clips], [clip.row for clip in delivered])
            views = torch.arange(len(clips_BTCHW)).view(len(delivered), -1)[order].flatten()
            clips_BTCHW = clips_BTCHW[views.to(clips_BTCHW.device)]
            delivered = [delivered[n] for n in order]
        self._count_clips(delivered)
        return make_batch(clips_BTCHW, [clip.row for clip in delivered], self.config)

    def _run_or_split(
        self, clips: list[ReadClip], reader: ClipReader, epoch: int
    ) -> "list[tuple[list[ReadClip], torch.Tensor]]":
        """Run clips with the same kind of input; if DALI fails, run each of them separately."""
        input_kind = clips[0].input_kind
        if input_kind == "video" and len(clips) == 1 and not self._takes_video(clips[0].row):
            return self._run_with_pyav(clips[0], reader, epoch)
        try:
            return [(clips, self._run_graph(input_kind, clips))]
        except RuntimeError as error:
            self._graphs.pop(input_kind, None)  # a DALI pipeline can't be used after an error
            if input_kind in ("pixels", "clips"):
                raise
            if len(clips) > 1:
                return [
                    part for clip in clips for part in self._run_or_split([clip], reader, epoch)
                ]
            path, reason = clips[0].row.path, reason_of(error)
        if input_kind == "images":
            self.report.failures[path] = reason
            return []
        self._videos.refuse(path)
        self.report.refused[path] = reason
        return self._run_with_pyav(clips[0], reader, epoch)

    def _run_with_pyav(
        self, clip: ReadClip, reader: ClipReader, epoch: int
    ) -> "list[tuple[list[ReadClip], torch.Tensor]]":
        """Read a clip again, after DALI's video decoder rejected it or others of its kind."""
        self._videos.leave_out(clip.row.path)
        retried = _read(reader, clip.row, epoch)
        if isinstance(retried, VideoError):
            self.report.failures[retried.path] = retried.reason
            return []
        return self._run_or_split([retried], reader, epoch)

    def _run_graph(self, input_kind: InputKind, clips: list[ReadClip]) -> "torch.Tensor":
        if input_kind not in self._graphs:
            self._graphs[input_kind] = ClipGraph(
                input_kind,
                self.config.spec,
                max_views=self.config.batch_size * self.config.num_views,
                num_threads=self._num_threads,
                gpu=self._gpu,
                values=self.config.values,
                color=self.config.augment is not None and self.config.augment.changes_color,
            )
        return self._graphs[input_kind].run(
            [source for clip in clips for source in clip.sources],
            [view for clip in clips for view in clip.views],
        )

    def _count_clips(self, clips: list[ReadClip]) -> None:
        for clip in clips:
            self.report.read_by[clip.read_by] += 1
            if clip.num_damaged:
                self.report.damaged_frames[clip.row.path] += clip.num_damaged

    def _takes_video(self, row: Sample) -> bool:
        return self._use_dali_decoder and self._videos.takes(row.path, row.codec)


def _in_order(requested: list[Sample], delivered: list[Sample]) -> list[int]:
    """Positions in `delivered` in the order of `requested`.

    A row may be requested twice, and may not have been delivered.
    """
    positions: dict[Sample, list[int]] = {}
    for number, row in enumerate(delivered):
        positions.setdefault(row, []).append(number)
    return [positions[row].pop(0) for row in requested if positions.get(row)]


def _task(reader: ClipReader, row: Sample, epoch: int) -> "Task[ReadClip | VideoError]":
    return Task(lambda stop: _read(dataclasses.replace(reader, stop=stop), row, epoch))


def _read(reader: ClipReader, row: Sample, epoch: int) -> ReadClip | VideoError:
    """Read one clip; the error of a bad file is returned, any other error ends the run."""
    try:
        return reader.read(row, epoch)
    except VideoError as error:
        return error
    except Stopped:
        raise
    except Exception as error:
        raise LoaderError(f"{row.path}: reading it failed ({error!r})") from error
