"""Downloads files ahead of their labelling, into a temporary folder of limited size.

A file is removed once it is labelled. The folder is removed at the end; if the process was killed,
the next run removes it.
"""

import fcntl
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from threading import Event, Lock
from typing import NamedTuple, Self

from dali_pipelines.loaders.prefetch import Task, ThreadPool
from engine.data.folders import VIDEO_SUFFIXES
from engine.errors import UserError
from engine.labelling import remote_files
from engine.labelling.discovery import Item
from engine.labelling.remote_files import Unfetched

NUM_AT_ONCE = 4
"""Files that are downloaded at a time."""
NUM_AHEAD = 8
"""Files that are downloaded or being downloaded, and not read yet."""
NUM_LOOKED_UP = 32
"""Files that are looked up before it is their turn to be downloaded."""
PREFIX = "engine-label-"


class Fetched(NamedTuple):
    """An item that can be read now, or couldn't be fetched."""

    item: Item
    path: Path | None
    """None if it couldn't be fetched."""
    reason: str = ""


class Downloads:
    """Fetches files from servers; close it to stop all downloads and remove the files.

    Args:
        max_bytes: Largest size of all files on the disk at a time. A larger file is fetched alone.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._stop = Event()
        self._folder: Path | None = None
        self._lock = Lock()
        self._sizes: dict[Path, int] = {}
        """Reserved bytes of each file on the disk."""
        self._num_files = 0
        self._pool = ThreadPool(NUM_AT_ONCE)
        self._look_ups = ThreadPool(NUM_AT_ONCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for pool in (self._pool, self._look_ups):
            pool.shut_down()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._guard.close()

    def ahead(
        self, items: Iterable[Item], wants: Callable[[Item], bool]
    ) -> Iterator[Fetched | None]:
        """Yield the items in order, as soon as each can be read; never waits.

        Args:
            items: Files on this machine and on servers.
            wants: Called for each item in order, once its size and time are known; the others are
                left out.

        Yields:
            The items, or None while the next one isn't there yet.

        Raises:
            UserError: The disk is full.
        """
        looking: deque[Task[Item]] = deque()
        fetching: deque[tuple[Path, Task[Fetched]]] = deque()
        remaining, has_ended = iter(items), False
        while True:
            while not has_ended and len(looking) < NUM_LOOKED_UP:
                item = next(remaining, None)
                has_ended = item is None
                if item is None:
                    break
                if not item.address and not looking and not fetching:
                    if wants(item):
                        yield Fetched(item, item.path)
                    continue
                looking.append(self._look_up(item))
            while looking and looking[0].done.done() and len(fetching) < NUM_AHEAD:
                item = looking[0].done.result()
                if not self._has_space(item):
                    break
                looking.popleft()
                if wants(item):
                    fetching.append(self._fetch(item))
            if fetching and fetching[0][1].done.done():
                yield self._result_of(*fetching.popleft())
            elif looking or fetching:
                yield None
            else:
                return

    def release(self, path: Path) -> None:
        """Remove a file that was labelled; other files than ours are left alone."""
        with self._lock:
            if self._sizes.pop(path, None) is not None:
                path.unlink(missing_ok=True)

    def _look_up(self, item: Item) -> Task[Item]:
        if item.is_there or not item.address:
            task = Task(lambda stop: item)
            task.run()
            return task

        def look_up(_: Event) -> Item:
            try:
                return remote_files.looked_up(item, stop=self._stop)
            except Unfetched:
                return item  # fetching it says why, unless it was labelled before

        task = Task(look_up)
        self._look_ups.submit(task)
        return task

    def _has_space(self, item: Item) -> bool:
        with self._lock:
            used = sum(self._sizes.values())
        return not item.address or not used or used + max(0, item.size) <= self._max_bytes

    def _fetch(self, item: Item) -> tuple[Path, Task[Fetched]]:
        if not item.address:
            task = Task(lambda stop: Fetched(item, item.path))
            task.run()
            return item.path, task
        suffix = PurePosixPath(item.name).suffix.lower()
        self._num_files += 1
        path = self._open_folder() / (
            f"{self._num_files}{suffix if suffix in VIDEO_SUFFIXES else ''}"
        )
        with self._lock:
            self._sizes[path] = max(0, item.size)

        def fetch(_: Event) -> Fetched:
            try:
                found = item if item.is_there else remote_files.looked_up(item, stop=self._stop)
                remote_files.fetch(found, path, stop=self._stop)
            except Unfetched as error:
                return Fetched(item, None, str(error))
            return Fetched(found, path)

        task = Task(fetch)
        self._pool.submit(task)
        return path, task

    def _result_of(self, path: Path, task: Task[Fetched]) -> Fetched:
        try:
            fetched = task.done.result()
        except OSError as error:
            raise UserError(
                f"{path.parent} can't be written to ({error.strerror}): free some space, or name "
                "a folder on another disk by the environment variable TMPDIR."
            ) from error
        if fetched.path is None:
            self.release(path)
        elif fetched.item.address:
            with self._lock:
                self._sizes[path] = path.stat().st_size
        return fetched

    def _open_folder(self) -> Path:
        """The folder of the files, created by the first call."""
        if self._folder is None:
            _remove_left_behind()
            self._folder = Path(tempfile.mkdtemp(prefix=PREFIX))
            self._guard = (self._folder / "lock").open("w")
            fcntl.flock(self._guard, fcntl.LOCK_EX)
        return self._folder


def _remove_left_behind() -> None:
    """Remove the folders of processes that were killed; those at work hold a lock."""
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*/lock"):
        with suppress(OSError), path.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path.parent, ignore_errors=True)
