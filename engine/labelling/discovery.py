"""Finds the videos to label: below a folder, in a list file, or on standard input.

A folder is walked in sorted order, one branch at a time, so memory stays small for large trees.
"""

import fnmatch
import os
import stat
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from dali_pipelines.decode.frame_folder import CODECS as IMAGE_CODECS
from engine.data.folders import VIDEO_SUFFIXES
from engine.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Item:
    name: str
    """Name in the results: the path relative to the folder, or the path as listed."""
    path: Path
    size: int
    """Size in bytes; -1 if the file doesn't exist, or is on a server and wasn't looked up."""
    mtime_ns: int
    address: str = field(default="", repr=False)
    """Where a file on a server is, perhaps with a password or signature: never to be shown. Its
    `path` is then only another form of the name."""

    @property
    def is_there(self) -> bool:
        return self.size >= 0


@dataclass(frozen=True, kw_only=True)
class FileFilter:
    """Selects videos by name patterns such as `*/take2/*.mp4`, and by shard."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    shard: tuple[int, int] = (0, 1)
    """(index, count): each name belongs to one shard, chosen by the checksum of the name."""

    def takes(self, name: str) -> bool:
        number, count = self.shard
        if count > 1 and zlib.crc32(os.fsencode(name)) % count != number:
            return False
        if self.include and not _matches(name, self.include):
            return False
        return not self.excludes(name)

    def excludes(self, name: str) -> bool:
        return _matches(name, self.exclude)


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def below(root: Path, wanted: FileFilter, skipped: dict[str, str] | None = None) -> Iterator[Item]:
    """Yield videos and folders of frames at any depth; cycles of links are followed once.

    Args:
        root: The folder to walk.
        wanted: Selects the videos to yield.
        skipped: Receives folders that can't be read and broken links, each with the reason. A
            broken link with the name of a video is yielded as an item instead.

    Raises:
        UserError: `root` is not a folder or can't be read.
    """
    if not root.is_dir():
        raise UserError(f"{root} is not a folder; name a folder of videos, or pass `list=True`.")
    unread: dict[str, str] = {}
    for name, path in _walk(root, "", frozenset(), unread):
        if wanted.takes(name):
            yield item_of(name, path)
    if skipped is not None:
        skipped |= {
            name: reason for name, reason in unread.items() if not wanted.excludes(f"{name}/")
        }


def _walk(
    folder: Path, prefix: str, above: frozenset[tuple[int, int]], skipped: dict[str, str]
) -> Iterator[tuple[str, Path]]:
    """Yield (name, path) pairs; `above` holds the parent folders, to stop at cycles of links."""
    try:
        status = folder.stat()
        with os.scandir(folder) as scanned:
            entries = sorted(
                (entry for entry in scanned if not _is_ignored(entry.name)), key=_sort_key
            )
    except FileNotFoundError:
        return  # removed during the walk
    except OSError as error:
        if not prefix:
            raise UserError(f"{folder} can't be read ({error.strerror}).") from error
        skipped[prefix.rstrip("/")] = str(error.strerror)
        return
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    folders = {entry.name for entry in entries if _check(entry.is_dir)}
    suffixes = {Path(entry.name).suffix.lower() for entry in entries if entry.name not in folders}
    if prefix and not folders and suffixes & IMAGE_CODECS.keys() and not suffixes & VIDEO_SUFFIXES:
        yield prefix.rstrip("/"), folder
        return
    for entry in entries:
        name, path = prefix + entry.name, folder / entry.name
        is_video = path.suffix.lower() in VIDEO_SUFFIXES
        if entry.name in folders:
            yield from _walk(path, f"{name}/", above | {here}, skipped)
        elif is_video and (_check(entry.is_file) or _is_broken_link(entry)):
            yield name, path
        elif _is_broken_link(entry):
            skipped[name] = "broken link"


def _is_ignored(name: str) -> bool:
    """Whether a name is hidden or belongs to the file system, readable only by root."""
    return name.startswith(".") or name == "lost+found"


def _sort_key(entry: "os.DirEntry[str]") -> bytes:
    return os.fsencode(entry.name)


def _check(predicate: Callable[[], bool]) -> bool:
    """Call `entry.is_dir` or `entry.is_file`; False for broken and circular links."""
    try:
        return predicate()
    except OSError:
        return False


def _is_broken_link(entry: "os.DirEntry[str]") -> bool:
    if not entry.is_symlink():
        return False
    try:
        entry.stat()
    except OSError:
        return True
    return False


def listed(lines: Iterable[str], wanted: FileFilter) -> Iterator[Item]:
    """Yield an item for each path in a list, one path per line; duplicates are not removed."""
    return (item_of(name, Path(name)) for name in names_in(lines) if wanted.takes(name))


def names_in(lines: Iterable[str]) -> Iterator[str]:
    """Yield the paths in a list, whether the files exist or not."""
    for number, line in enumerate(lines):
        name = line.rstrip("\r\n")
        if number == 0:
            name = name.removeprefix("\ufeff")  # byte order mark
        if name:
            yield name


def item_of(name: str, path: Path) -> Item:
    """Make an item. A path that is neither a file nor a folder gets size -1 and fails later."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return Item(name=name, path=path, size=-1, mtime_ns=0)
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        return Item(name=name, path=path, size=-1, mtime_ns=0)
    size, mtime_ns = status.st_size, status.st_mtime_ns
    if stat.S_ISDIR(status.st_mode):  # a folder of frames: each frame may be overwritten
        with suppress(OSError), os.scandir(path) as frames:
            for frame in frames:
                with suppress(OSError):
                    frame_status = frame.stat()
                    size += frame_status.st_size
                    mtime_ns = max(mtime_ns, frame_status.st_mtime_ns)
    return Item(name=name, path=path, size=size, mtime_ns=mtime_ns)
