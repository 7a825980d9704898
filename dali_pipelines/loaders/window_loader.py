"""WindowLoader: batches of sliding windows from videos of any length, for labelling.

Several files are read in parallel, each by one thread and from start to end. Windows are returned
in the order of the files, and only those not yet returned are kept in memory.
"""

import queue
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, NamedTuple

from dali_pipelines.cores import num_cores
from dali_pipelines.errors import LoaderError, Stopped, VideoError
from dali_pipelines.loaders.clip_reader import pixel_kind, pixel_sources
from dali_pipelines.loaders.dali_graph import ClipGraph
from dali_pipelines.loaders.decode_processes import decode_processes
from dali_pipelines.loaders.loader_config import LoaderReport
from dali_pipelines.loaders.prefetch import Task, ThreadPool, prefetch, put_unless_stopped
from dali_pipelines.loaders.video_choice import VideoChoice
from dali_pipelines.loaders.window_parts import PartDecoder, read_parts
from dali_pipelines.loaders.windows import (
    ReadWindow,
    Window,
    WindowRange,
    plan_windows,
    read_windows,
    windows_of,
)
from dali_pipelines.spec import ClipSpec, Values

if TYPE_CHECKING:
    import torch

BATCHES_AHEAD = 2
TIMEOUT_S = 120.0
POLL_S = 0.1
_END: Any = object()


class WindowBatch(NamedTuple):
    """A batch of windows."""

    clips: "torch.Tensor"
    """(B, T, C, H, W)"""
    windows: list[Window]


class WindowLoader:
    """Loads windows of videos. Iterate once.

    Files that can't be read are listed in `report`; their windows after the error are missing.

    Args:
        paths: Video files and frame folders, of each all windows or a range of them. None says that
            the next file isn't there yet: what was read so far becomes a batch, and the loader asks
            again.
        spec: Preprocessing settings.
        window_s: Length of a window in seconds; None takes each video as one window.
        stride_s: Seconds from one window to the next; None means `window_s`.
        batch_size: Windows per batch.
        gpu: GPU index for the DALI graph; None runs on the CPU.
        num_threads: Decoding threads, or processes if they are many; None takes all cores.
        values: Data type of the clips.
        timeout_s: Seconds to wait for the next window of a file before it counts as failed.
        videos: Chooses files that DALI's video decoder reads; None reads all with PyAV, which
            reports damaged frames, as DALI's doesn't.
    """

    def __init__(
        self,
        paths: Iterable[Path | WindowRange | None],
        spec: ClipSpec,
        *,
        window_s: float | None = None,
        stride_s: float | None = None,
        batch_size: int = 8,
        gpu: int | None = None,
        num_threads: int | None = None,
        values: Values = "float32",
        timeout_s: float = TIMEOUT_S,
        videos: VideoChoice | None = None,
    ) -> None:
        self.report = LoaderReport()
        self._paths = paths
        self._spec = spec
        self._window_s = window_s
        self._stride_s = stride_s
        self._batch_size = batch_size
        self._num_threads = num_threads or num_cores()
        self._processes = decode_processes(self._num_threads)
        self._timeout_s = timeout_s
        self._for_gpu = gpu is not None
        self._videos = videos
        self._parts = PartDecoder(
            spec, max_parts=batch_size, num_threads=self._num_threads, gpu=gpu, values=values
        )
        self._graph = ClipGraph(
            pixel_kind(for_gpu=self._for_gpu),
            spec,
            max_views=batch_size,
            num_threads=self._num_threads,
            gpu=gpu,
            values=values,
        )

    def __iter__(self) -> Iterator[WindowBatch]:
        return self.batches()

    def batches(self) -> Generator[WindowBatch, None, None]:
        """Iterate over the batches. Close the generator to stop early."""
        return prefetch(self._batches, ahead=BATCHES_AHEAD)

    def _batches(self, stop: Event) -> Generator[WindowBatch, None, None]:
        pending: list[ReadWindow] = []
        with closing(self._windows(stop)) as windows:
            for window in windows:
                if window is not None:
                    pending.append(window)
                if window is None or len(pending) == self._batch_size:
                    yield from self._make_batch(pending)
                    pending = []
        yield from self._make_batch(pending)

    def _windows(self, stop: Event) -> Generator[ReadWindow | None, None, None]:
        """The windows of all files; None while the next file isn't there yet."""
        pool = ThreadPool(self._num_threads)
        files: deque[_OpenFile] = deque()
        paths = iter(self._paths)
        has_ended = False
        try:
            while not stop.is_set():
                while not has_ended and len(files) <= self._num_threads:
                    path = next(paths, _END)
                    has_ended = path is _END
                    if has_ended or path is None:
                        break
                    files.append(self._open(path))
                    pool.submit(files[-1].task)
                if not files:
                    if has_ended:
                        return
                    yield None
                    stop.wait(POLL_S)
                    continue
                file = files[0]
                while isinstance(item := self._next(file, pool, stop), ReadWindow):
                    yield item
                if stop.is_set():
                    return
                files.popleft()
                if isinstance(item, VideoError):
                    self.report.failures[file.path] = item.reason
                elif item is not None:
                    raise LoaderError(f"{file.path}: reading it failed ({item!r})") from item
        finally:
            for file in files:
                file.task.stop.set()
            pool.shut_down()

    def _open(self, path: Path | WindowRange) -> "_OpenFile":
        windows: queue.Queue[Any] = queue.Queue(self._batch_size)
        part = path if isinstance(path, WindowRange) else WindowRange(path)
        return _OpenFile(part.path, windows, Task(lambda stop: self._read(part, windows, stop)))

    def _next(self, file: "_OpenFile", pool: ThreadPool, stop: Event) -> Any:
        """Return the next window, None at the end of the file, or the error that stopped it."""
        deadline = time.monotonic() + self._timeout_s
        while not stop.is_set():
            try:
                return file.windows.get(timeout=0.1)
            except queue.Empty:
                if time.monotonic() > deadline:
                    pool.abandon(file.task)
                    return VideoError(file.path, f"it gave no frame for {self._timeout_s:g} s")
        return None

    def _read(self, part: WindowRange, results: "queue.Queue[Any]", stop: Event) -> None:
        """Put windows of a file into a queue, then None or the error that stopped it."""
        end: BaseException | None = None
        try:
            for window in self._windows_of(part, stop):
                if not put_unless_stopped(results, window, stop):
                    return
        except Stopped:
            return
        except OSError as error:
            end = VideoError(part.path, error.strerror or str(error))
        except BaseException as error:
            end = error
        try:
            put_unless_stopped(results, end, stop)
        finally:
            del end  # an exception refers to this frame

    def _windows_of(self, part: WindowRange, stop: Event) -> Iterator[ReadWindow]:
        path = part.path
        if self._videos is not None and not path.is_dir() and self._videos.takes(path):
            windows = plan_windows(path, window_s=self._window_s, stride_s=self._stride_s)
            wanted = windows[part.first : part.stop]
            return read_parts(wanted, self._spec, for_gpu=self._for_gpu, stop=stop)
        settings = (self._spec, self._window_s, self._stride_s, part.first, part.stop)
        if self._processes is not None:
            return self._processes.iterate(windows_of, path, *settings, stop=stop)
        return windows_of(path, *settings, stop=stop)

    def _make_batch(self, windows: list[ReadWindow]) -> Iterator[WindowBatch]:
        """The batch of these windows; nothing if none of them can be read after all."""
        import torch

        by_parts = iter(self._parts.clips([window for window in windows if not window.frames]))
        read: list[ReadWindow] = []
        clips: list[torch.Tensor | None] = []
        for window in windows:
            clip = None
            if not window.frames and (clip := next(by_parts)) is None:
                again = self._read_again(window)
                if again is None:
                    continue
                window = again
            read.append(window)
            clips.append(clip)
        pixels = [window for window in read if window.frames]
        if pixels:
            sources = pixel_sources([window.frames for window in pixels], for_gpu=self._for_gpu)
            clips_BTCHW = self._graph.run(sources, [window.view for window in pixels])
        if len(pixels) < len(read):
            others = iter(clips_BTCHW) if pixels else iter(())
            clips_BTCHW = torch.stack([next(others) if clip is None else clip for clip in clips])
        for window in read:
            self._count(window)
        if read:
            yield WindowBatch(clips=clips_BTCHW, windows=[window.window for window in read])

    def _read_again(self, window: ReadWindow) -> ReadWindow | None:
        """Read a window with PyAV, because DALI has rejected a part of its file."""
        path = window.window.path
        if path not in self.report.refused:
            self.report.refused[path] = self._parts.refused[path]
            assert self._videos is not None
            self._videos.refuse(path)
        try:
            return next(read_windows([window.window], self._spec))
        except VideoError as error:
            self.report.failures[path] = error.reason
            return None

    def _count(self, window: ReadWindow) -> None:
        path = window.window.path
        self.report.read_by["PyAV" if window.frames else "DALI's video decoder"] += 1
        if window.window.flaw:
            self.report.flaws[path] = window.window.flaw
        if window.window.num_streams > 1:
            self.report.num_streams[path] = window.window.num_streams
        if window.num_damaged:
            self.report.damaged_frames[path] += window.num_damaged


class _OpenFile(NamedTuple):
    """A file that a thread is reading, and the queue of its windows."""

    path: Path
    windows: "queue.Queue[Any]"
    task: Task[None]
