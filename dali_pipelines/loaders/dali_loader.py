"""DaliLoader: an index into batches of tensors, by threads that decode and DALI's graph behind.

Decoding runs ahead of whoever iterates, in as many threads as there are cores; one more thread puts
batches together and through the graph. On a GPU, DALI decodes the videos that its decoder takes,
and everything from there on stays on the card. This is the only bridge from DALI to torch.
"""

import dataclasses
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

from dali_pipelines.cores import num_cores
from dali_pipelines.decode import video_file
from dali_pipelines.decode.clip_facts import NVDEC_CODECS, suits_dali
from dali_pipelines.errors import LoaderError, Stopped, VideoError
from dali_pipelines.loaders.clip_reader import ClipReader, ReadClip
from dali_pipelines.loaders.frame_cache import FrameCache
from dali_pipelines.loaders.graph import INPUT_KINDS, ClipGraph, InputKind
from dali_pipelines.loaders.loader_config import Batch, ClipLoader, LoaderConfig, Sample, make_batch
from dali_pipelines.loaders.prefetch import Task, ThreadPool, prefetch

if TYPE_CHECKING:
    import torch

BATCHES_AHEAD = 2
"""Whose clips are being decoded beyond the one that is being put together, and as many finished."""
TIMEOUT_S = 120.0
DALI_ON_CPU = frozenset({"vp8", "vp9", "mjpeg"})

Decoder = Literal["auto", "pyav", "dali"]
"""auto: DALI's video decoder on a GPU for the files it takes, PyAV for the rest and on a CPU."""


class DaliLoader(ClipLoader):
    def __init__(
        self,
        rows: Sequence[Sample],
        config: LoaderConfig,
        *,
        gpu: int | None = None,
        num_threads: int | None = None,
        cache: FrameCache | None = None,
        decoder: Decoder = "auto",
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """`timeout_s`: so long is a clip waited for before it is given up."""
        super().__init__(rows, config)
        self.cache = cache
        self._timeout_s = timeout_s
        self._gpu = gpu
        self._num_threads = num_threads or num_cores()
        self._graphs: dict[InputKind, ClipGraph] = {}
        self._with_dali = decoder == "dali" or (decoder == "auto" and gpu is not None)
        self._taken: dict[Any, bool] = {}
        """What DALI's video decoder takes, by path."""

    def _load(self, batches: list[list[Sample]]) -> Iterator[Batch | None]:
        return prefetch(
            lambda stop: self._batches(batches, stop),
            ahead=BATCHES_AHEAD,
            is_stopped=lambda: self._is_stopped,
        )

    def _batches(
        self, batches: list[list[Sample]], stop: threading.Event
    ) -> Generator[Batch | None, None, None]:
        """Runs in a thread of its own, ahead of who asks for batches."""
        reader = ClipReader(
            config=self.config, cache=self.cache, takes_video=self._takes_video, stop=stop
        )
        pool = ThreadPool(self._num_threads)
        epoch = self._epoch
        pending: deque[list[tuple[Sample, Task[ReadClip | VideoError]]]] = deque()
        waiting = iter(batches)
        try:
            for _ in batches:
                while len(pending) <= BATCHES_AHEAD and (batch := next(waiting, None)) is not None:
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
        give_up = time.monotonic() + self._timeout_s
        while not stop.is_set():
            try:
                return task.done.result(0.1)
            except TimeoutError:
                if time.monotonic() > give_up:
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
            if chosen := [clip for clip in clips if clip.input_kind == input_kind]:
                done += self._through_graph(chosen, reader, epoch)
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
        self._count(delivered)
        return make_batch(clips_BTCHW, [clip.row for clip in delivered], self.config)

    def _through_graph(
        self, clips: list[ReadClip], reader: ClipReader, epoch: int
    ) -> "list[tuple[list[ReadClip], torch.Tensor]]":
        """Clips of one front; where DALI refuses them together, each by itself."""
        input_kind = clips[0].input_kind
        try:
            return [(clips, self._run_graph(input_kind, clips))]
        except RuntimeError as error:
            self._graphs.pop(input_kind, None)  # DALI says that it can't be used any more
            if input_kind == "pixels":
                raise
            if len(clips) > 1:
                return [
                    part for clip in clips for part in self._through_graph([clip], reader, epoch)
                ]
            path, reason = clips[0].row.path, _reason(error)
        if input_kind == "images":
            self.report.failures[path] = reason
            return []
        self._taken[path] = False
        self.report.refused[path] = reason
        again = _read(reader, clips[0].row, epoch)
        if isinstance(again, VideoError):
            self.report.failures[again.path] = again.reason
            return []
        return self._through_graph([again], reader, epoch)

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

    def _count(self, clips: list[ReadClip]) -> None:
        for clip in clips:
            self.report.read_by[clip.read_by] += 1
            if clip.num_damaged:
                self.report.damaged_frames[clip.row.path] += clip.num_damaged

    def _takes_video(self, row: Sample) -> bool:
        """From the index's codec, and from the file itself what the index doesn't hold."""
        if not self._with_dali:
            return False
        if row.path not in self._taken:
            codecs = DALI_ON_CPU if self._gpu is None else NVDEC_CODECS
            self._taken[row.path] = row.codec in codecs and suits_dali(video_file.probe(row.path))
        return self._taken[row.path]


def _in_order(asked: list[Sample], delivered: list[Sample]) -> list[int]:
    """Places in `delivered`, as `asked` has them. A row may come twice, and may be missing."""
    places: dict[Sample, list[int]] = {}
    for number, row in enumerate(delivered):
        places.setdefault(row, []).append(number)
    return [places[row].pop(0) for row in asked if places.get(row)]


def _task(reader: ClipReader, row: Sample, epoch: int) -> "Task[ReadClip | VideoError]":
    return Task(lambda stop: _read(dataclasses.replace(reader, stop=stop), row, epoch))


def _read(reader: ClipReader, row: Sample, epoch: int) -> ReadClip | VideoError:
    """What a thread does for one clip. A bad file is a finding; anything else ends the run."""
    try:
        return reader.read(row, epoch)
    except VideoError as error:
        return error
    except Stopped:
        raise
    except Exception as error:
        raise LoaderError(f"{row.path}: reading it failed ({error!r})") from error


def _reason(error: RuntimeError) -> str:
    """The line of DALI's report that says what went wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines[1:] if "rror" in line and "operator" not in line]
    return (told or lines)[0]
