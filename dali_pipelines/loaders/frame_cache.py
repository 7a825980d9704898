"""Decoded frames on disk, so that later epochs need not decode video again.

One file a clip holds the frames that were wanted of it so far, their short side resized, as bytes
without compression: what comes back is exactly what was decoded, and reading it costs next to
nothing (benchmarks/README.md has what JPEG would cost and save). A file's name is made of all that
decides its pixels, so a changed video or another size never meets old frames.

Files appear by renaming, whole or not at all, so several processes can share a folder and any of
them may be killed; so can several users, as far as its permissions let them. Where a file can't be
read or written, frames are decoded instead, and that is said once. When the folder is full, what
earlier runs left behind goes first; then nothing more is kept: throwing out what this run will want
again would only turn all reading into misses.
"""

import contextlib
import errno
import hashlib
import os
import struct
import threading
import time
import uuid
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from dali_pipelines.decode.pixels import Frame
from dali_pipelines.errors import SpecError

SUFFIX = ".frames"
MAGIC = b"engine frames 1\n"
UNFINISHED = ".new-"
STALE_S = 3600
"""Age at which an unfinished file counts as left behind by a process that died."""


class FrameCache:
    """Frames by (video, short side). Any number of threads and processes may use one folder."""

    def __init__(
        self, folder: Path, *, max_gb: float, log: Callable[[str], None] = warnings.warn
    ) -> None:
        """`tell` hears, once, that the folder can't be used as it should."""
        if not max_gb > 0:
            raise SpecError(f"the cache needs some room: --cache-gb must be above 0, not {max_gb}")
        self.folder = folder
        self.num_hits = 0
        self._tell = log
        self._has_told = False
        self._is_sound = self._takes_more = True
        self._max_bytes = int(max_gb * 1e9)
        self._lock = threading.Lock()
        self._checked: dict[str, int] = {}
        """Name of a file → bit mask of those of its frames that this process has seen to be right.
        """
        self._opened = time.time() - 1  # the clock of files is coarser
        self._size = self._unscanned = 0
        self._old: list[tuple[int, str]] = []
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._scan()
        except OSError as error:
            raise SpecError(f"{folder} can't be made a cache ({error.strerror})") from error

    def get(self, video: Path, short: int, numbers: list[int]) -> list[Frame] | None:
        """The frames `numbers` in that order, or None unless all of them are there."""
        entry = self._entry(video, short)
        frames = None
        try:
            if self._is_sound:
                frames = self._read(entry, numbers)
        except OSError as error:
            self._leave_alone(entry, error)
        if frames is not None:
            with self._lock:
                self.num_hits += 1
        return frames

    def put(self, video: Path, short: int, numbers: list[int], frames: list[Frame]) -> None:
        """Keep these frames beside those already there; quietly not, where there is no room."""
        if not (self._is_sound and self._takes_more):
            return
        entry = self._entry(video, short)
        kept = dict(zip(numbers, frames, strict=True))
        try:
            others = [number for number in self._numbers(entry) if number not in kept]
            kept.update(zip(others, self._read(entry, others) or [], strict=False))
        except OSError as error:
            self._leave_alone(entry, error)
            return
        if not self._make_room(sum(frame.nbytes for frame in kept.values())):
            return
        try:
            written = _write(entry, dict(sorted(kept.items())))
        except OSError as error:
            self._takes_more = False
            self._say(f"the cache {self.folder} takes no more frames ({error.strerror})")
            return
        with self._lock:
            self._checked[entry.name] = sum(1 << number for number in kept)
            self._size += written
            self._unscanned += written

    def _entry(self, video: Path, short: int) -> Path:
        status = video.stat()
        facts = (str(video.resolve()), status.st_size, status.st_mtime_ns, short)
        digest = hashlib.sha256(repr(facts).encode(errors="surrogateescape")).hexdigest()
        return self.folder / f"{digest[:32]}{SUFFIX}"

    def _numbers(self, entry: Path) -> list[int]:
        try:
            with entry.open("rb") as file:
                return _read_header(file)[1].tolist()
        except (FileNotFoundError, ValueError, struct.error):
            return []

    def _read(self, entry: Path, numbers: list[int]) -> list[Frame] | None:
        try:
            with entry.open("rb") as file:
                shape, stored, checksums = _read_header(file)
                places = np.searchsorted(stored, numbers)
                if np.any(places >= len(stored)) or np.any(stored[places] != numbers):
                    return None
                begin, size = file.tell(), shape[0] * shape[1] * 3
                frames: list[Frame] = []
                for number, place in zip(numbers, places.tolist(), strict=True):
                    file.seek(begin + size * place)
                    frame = np.empty(size, np.uint8)
                    if file.readinto(frame.data) < size:
                        raise ValueError
                    self._check(entry.name, number, frame, int(checksums[place]))
                    frames.append(frame.reshape(*shape, 3))
        except FileNotFoundError:
            return None
        except (ValueError, struct.error):
            with contextlib.suppress(OSError):
                entry.unlink()
            return None
        return frames

    def _leave_alone(self, entry: Path, error: OSError) -> None:
        """It can't be read, which says nothing of what is in it."""
        if not isinstance(error, PermissionError):  # more than one file that is another user's
            self._is_sound = False
        self._say(f"{entry} can't be read ({error.strerror})")

    def _check(self, name: str, number: int, frame: Frame, checksum: int) -> None:
        """Once for each frame: it may be written and yet lost, if the machine went down."""
        if self._checked.get(name, 0) >> number & 1:
            return
        if zlib.crc32(frame.data) != checksum:
            raise ValueError
        with contextlib.suppress(OSError):
            os.utime(self.folder / name)  # in use: whoever makes room leaves it alone
        with self._lock:
            self._checked[name] = self._checked.get(name, 0) | 1 << number

    def _say(self, trouble: str) -> None:
        with self._lock:
            has_told, self._has_told = self._has_told, True
        if not has_told:
            self._tell(
                f"{trouble}: frames that aren't in the cache are decoded, which takes longer"
            )

    def _scan(self) -> None:
        """Count what is there, and list it with the longest unused first."""
        entries: list[tuple[float, int, str]] = []
        for item in os.scandir(self.folder):
            with contextlib.suppress(OSError):  # gone meanwhile, or another user's
                status = item.stat()
                if item.name.endswith(SUFFIX):
                    entries.append((status.st_mtime, status.st_size, item.name))
                elif item.name.startswith(UNFINISHED) and status.st_mtime < time.time() - STALE_S:
                    Path(item.path).unlink()
        self._size = sum(size for _, size, _ in entries)
        self._unscanned = 0
        self._old = [(size, name) for _, size, name in sorted(entries)]

    def _make_room(self, num_bytes: int) -> bool:
        with self._lock:
            if self._unscanned > self._max_bytes // 64:  # others may have written meanwhile
                with contextlib.suppress(OSError):
                    self._scan()
            while self._size + num_bytes > self._max_bytes and self._old:
                size, name = self._old.pop(0)
                path = self.folder / name
                with contextlib.suppress(OSError):
                    if path.stat().st_mtime < self._opened:
                        path.unlink()
                        self._size -= size
                        self._checked.pop(name, None)
            return self._size + num_bytes <= self._max_bytes


def _read_header(file: BinaryIO) -> tuple[tuple[int, int], NDArray[np.int64], NDArray[np.int64]]:
    """The frames' height and width, their numbers and their checksums; then come the frames."""
    if file.read(len(MAGIC)) != MAGIC:
        raise ValueError
    count, height, width = struct.unpack("<3q", file.read(24))
    size = os.fstat(file.fileno()).st_size
    if min(count, height, width) < 1 or size != file.tell() + count * (16 + height * width * 3):
        raise ValueError
    table = np.frombuffer(file.read(16 * count), np.int64).reshape(2, count)
    return (height, width), table[0], table[1]


def _write(entry: Path, frames: dict[int, Frame]) -> int:
    """`frames` by ascending number. Returns the bytes written."""
    height, width, _ = next(iter(frames.values())).shape
    checksums = [zlib.crc32(np.ascontiguousarray(frame).data) for frame in frames.values()]
    temporary = entry.with_name(f"{UNFINISHED}{uuid.uuid4().hex}")
    try:
        with temporary.open("xb") as file:  # with the user's own umask, unlike tempfile's
            file.write(MAGIC + struct.pack("<3q", len(frames), height, width))
            file.write(np.array([list(frames), checksums], np.int64).tobytes())
            for frame in frames.values():
                file.write(np.ascontiguousarray(frame).data)
            written = file.tell()
        temporary.replace(entry)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return 0  # the disk is full; what isn't kept is decoded again
        raise
    return written
