"""Disk cache of decoded frames, so that later epochs need not decode the videos again.

Each clip has one file with the frames that were requested so far, with the short side resized and
without compression: reading them is fast, and gives exactly the decoded pixels. The file name is a
hash of the video's path, size and time and of the frame size, so a changed video never gets old
frames. benchmarks/README.md compares it with JPEG.


Files are written atomically, by renaming, so several processes and users can share a folder, and
processes may be killed. If a file can't be read or written, the frames are decoded, and one warning
is logged. When the cache is full, files of earlier runs are deleted first; then no more frames are
added, because deleting frames that this run will need again would only cause cache misses.
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
"""Seconds after which an unfinished file counts as left by a dead process."""


class FrameCache:
    """Cache of frames by (video, short side). Threads and processes may share a folder.

    Args:
        folder: Folder of the cache; created if missing.
        max_gb: Largest size of the folder in gigabytes.
        log: Receives at most one warning, when the cache can't be read or written.

    Raises:
        SpecError: `max_gb` is not positive, or the folder can't be used.
    """

    def __init__(
        self, folder: Path, *, max_gb: float, log: Callable[[str], None] = warnings.warn
    ) -> None:
        if not max_gb > 0:
            raise SpecError(f"the cache needs space: `cache_gb` must be above 0, not {max_gb}")
        self.folder = folder
        self.num_hits = 0
        self._log = log
        self._has_warned = False
        self._is_readable = self._is_writable = True
        self._is_full = False
        self._max_bytes = int(max_gb * 1e9)
        self._lock = threading.Lock()
        self._checked: dict[str, int] = {}
        """File name → bit mask of the frames whose checksum this process has verified."""
        self._opened = time.time() - 1  # file times are less precise
        self._size = self._unscanned = 0
        self._old: list[tuple[int, str]] = []
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._scan()
        except OSError as error:
            raise SpecError(f"{folder} can't be used as a cache ({error.strerror})") from error

    @property
    def takes_more(self) -> bool:
        """Whether frames can still be added."""
        return self._is_readable and self._is_writable and not self._is_full

    def get(self, video: Path, short: int, numbers: list[int]) -> list[Frame] | None:
        """Return the frames `numbers` in this order, or None if any of them is missing."""
        entry = self._entry(video, short)
        frames = None
        try:
            if self._is_readable:
                frames = self._read(entry, numbers)
        except OSError as error:
            self._on_read_error(entry, error)
        if frames is not None:
            with self._lock:
                self.num_hits += 1
        return frames

    def put(self, video: Path, short: int, numbers: list[int], frames: list[Frame]) -> None:
        """Add frames to a video's file; does nothing if the cache is full or can't be written."""
        if not (self._is_readable and self._is_writable):
            return
        entry = self._entry(video, short)
        merged = dict(zip(numbers, frames, strict=True))
        try:
            old_numbers = [number for number in self._numbers(entry) if number not in merged]
            merged.update(zip(old_numbers, self._read(entry, old_numbers) or [], strict=False))
        except OSError as error:
            self._on_read_error(entry, error)
            return
        self._is_full = not self._free_space(sum(frame.nbytes for frame in merged.values()))
        if self._is_full:
            return
        try:
            written = _write(entry, dict(sorted(merged.items())))
        except OSError as error:
            self._is_writable = False
            self._warn_once(f"the cache {self.folder} takes no more frames ({error.strerror})")
            return
        with self._lock:
            self._checked[entry.name] = sum(1 << number for number in merged)
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
                indices = np.searchsorted(stored, numbers)
                if np.any(indices >= len(stored)) or np.any(stored[indices] != numbers):
                    return None
                begin, size = file.tell(), shape[0] * shape[1] * 3
                frames: list[Frame] = []
                for number, index in zip(numbers, indices.tolist(), strict=True):
                    file.seek(begin + size * index)
                    frame = np.empty(size, np.uint8)
                    if file.readinto(frame.data) < size:
                        raise ValueError
                    self._check(entry.name, number, frame, int(checksums[index]))
                    frames.append(frame.reshape(*shape, 3))
        except FileNotFoundError:
            return None
        except (ValueError, struct.error):
            with contextlib.suppress(OSError):
                entry.unlink()
            return None
        return frames

    def _on_read_error(self, entry: Path, error: OSError) -> None:
        """Handle a file that can't be read; it is kept, because its content may be intact."""
        if not isinstance(error, PermissionError):  # that may be one file of another user
            self._is_readable = False
        self._warn_once(f"{entry} can't be read ({error.strerror})")

    def _check(self, name: str, number: int, frame: Frame, checksum: int) -> None:
        """Verify a frame's checksum once: a crash of the machine may leave wrong data."""
        if self._checked.get(name, 0) >> number & 1:
            return
        if zlib.crc32(frame.data) != checksum:
            raise ValueError
        with contextlib.suppress(OSError):
            os.utime(self.folder / name)  # mark it as used, so that it isn't deleted
        with self._lock:
            self._checked[name] = self._checked.get(name, 0) | 1 << number

    def _warn_once(self, problem: str) -> None:
        with self._lock:
            has_warned, self._has_warned = self._has_warned, True
        if not has_warned:
            self._log(f"{problem}: frames that aren't in the cache are decoded, which takes longer")

    def _scan(self) -> None:
        """Measure the cache, and list its files, least recently used first."""
        entries: list[tuple[float, int, str]] = []
        for item in os.scandir(self.folder):
            with contextlib.suppress(OSError):  # deleted meanwhile, or another user's
                status = item.stat()
                if item.name.endswith(SUFFIX):
                    entries.append((status.st_mtime, status.st_size, item.name))
                elif item.name.startswith(UNFINISHED) and status.st_mtime < time.time() - STALE_S:
                    Path(item.path).unlink()
        self._size = sum(size for _, size, _ in entries)
        self._unscanned = 0
        self._old = [(size, name) for _, size, name in sorted(entries)]

    def _free_space(self, num_bytes: int) -> bool:
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
    """Read the frames' (height, width), numbers and checksums; the frames follow in the file."""
    if file.read(len(MAGIC)) != MAGIC:
        raise ValueError
    count, height, width = struct.unpack("<3q", file.read(24))
    size = os.fstat(file.fileno()).st_size
    if min(count, height, width) < 1 or size != file.tell() + count * (16 + height * width * 3):
        raise ValueError
    table = np.frombuffer(file.read(16 * count), np.int64).reshape(2, count)
    return (height, width), table[0], table[1]


def _write(entry: Path, frames: dict[int, Frame]) -> int:
    """Write a file with `frames`, sorted by number; returns the number of bytes."""
    height, width, _ = next(iter(frames.values())).shape
    checksums = [zlib.crc32(np.ascontiguousarray(frame).data) for frame in frames.values()]
    temporary = entry.with_name(f"{UNFINISHED}{uuid.uuid4().hex}")
    try:
        with temporary.open("xb") as file:  # respects the user's umask, unlike tempfile
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
            return 0  # the disk is full; these frames will be decoded again
        raise
    return written
