"""Which videos there are to label: below a folder, in a list, or on standard input.

A folder is walked in the order of its names, without ever holding more than one branch of it.
"""

import fnmatch
import os
import stat
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dali_pipelines.decode.frame_folder import CODECS as IMAGE_CODECS
from engine.data.folders import VIDEO_SUFFIXES
from engine.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Item:
    name: str
    """What it is called in the results: its path below the folder, or as it was listed."""
    path: Path
    size: int
    """-1 where it isn't there."""
    mtime_ns: int

    @property
    def is_there(self) -> bool:
        return self.size >= 0


@dataclass(frozen=True, kw_only=True)
class FileFilter:
    """Which of the videos: patterns go by the name, as in `*/take2/*.mp4`."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    shard: tuple[int, int] = (0, 1)
    """This one of so many; names are dealt by their checksum."""

    def takes(self, name: str) -> bool:
        number, count = self.shard
        if count > 1 and zlib.crc32(os.fsencode(name)) % count != number:
            return False
        if self.include and not any(fnmatch.fnmatchcase(name, each) for each in self.include):
            return False
        return not self.excludes(name)

    def excludes(self, name: str) -> bool:
        return any(fnmatch.fnmatchcase(name, each) for each in self.exclude)


def below(root: Path, wanted: FileFilter, skipped: dict[str, str] | None = None) -> Iterator[Item]:
    """Videos and folders of frames at any depth; a loop of links is walked once.

    Folders that can't be read, and links that lead nowhere, go into `skipped` with the reason. Such
    a link is an item where its name is that of a video.
    """
    if not root.is_dir():
        raise UserError(f"{root} is no folder; name a folder of videos, or pass --list.")
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
    """`above`: the folders that this one lies in, so that a link to one of them ends here."""
    try:
        status = folder.stat()
        with os.scandir(folder) as found:
            entries = sorted(
                (each for each in found if not _is_passed_over(each.name)), key=_sort_key
            )
    except FileNotFoundError:
        return  # gone meanwhile
    except OSError as error:
        if not prefix:
            raise UserError(f"{folder} can't be read ({error.strerror}).") from error
        skipped[prefix.rstrip("/")] = str(error.strerror)
        return
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    folders = {each.name for each in entries if _is(each.is_dir)}
    suffixes = {Path(each.name).suffix.lower() for each in entries if each.name not in folders}
    if prefix and not folders and suffixes & IMAGE_CODECS.keys() and not suffixes & VIDEO_SUFFIXES:
        yield prefix.rstrip("/"), folder
        return
    for entry in entries:
        name, path = prefix + entry.name, folder / entry.name
        is_video = path.suffix.lower() in VIDEO_SUFFIXES
        if entry.name in folders:
            yield from _walk(path, f"{name}/", above | {here}, skipped)
        elif is_video and (_is(entry.is_file) or _leads_nowhere(entry)):
            yield name, path
        elif _leads_nowhere(entry):
            skipped[name] = "the link leads nowhere"


def _is_passed_over(name: str) -> bool:
    """Hidden, or the file system's own, which the administrator alone may read."""
    return name.startswith(".") or name == "lost+found"


def _sort_key(entry: "os.DirEntry[str]") -> bytes:
    return os.fsencode(entry.name)


def _is(kind: Callable[[], bool]) -> bool:
    try:
        return kind()
    except OSError:  # the link leads nowhere, or round in a circle
        return False


def _leads_nowhere(entry: "os.DirEntry[str]") -> bool:
    if not entry.is_symlink():
        return False
    try:
        entry.stat()
    except OSError:
        return True
    return False


def listed(lines: Iterable[str], wanted: FileFilter) -> Iterator[Item]:
    """One path a line; what comes again is left out by whoever keeps them."""
    return (item_of(name, Path(name)) for name in names_in(lines) if wanted.takes(name))


def names_in(lines: Iterable[str]) -> Iterator[str]:
    """Those that a list names, whether they are there or not."""
    for number, line in enumerate(lines):
        name = line.rstrip("\r\n")
        if number == 0:
            name = name.removeprefix("\ufeff")  # as some editors begin a file
        if name:
            yield name


def item_of(name: str, path: Path) -> Item:
    """What isn't there, or is neither file nor folder, is an item all the same: it will fail."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return Item(name=name, path=path, size=-1, mtime_ns=0)
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        return Item(name=name, path=path, size=-1, mtime_ns=0)
    size, mtime_ns = status.st_size, status.st_mtime_ns
    if stat.S_ISDIR(status.st_mode):  # of frames, which may be written over one by one
        with suppress(OSError), os.scandir(path) as frames:
            for each in frames:
                with suppress(OSError):
                    of_frame = each.stat()
                    size += of_frame.st_size
                    mtime_ns = max(mtime_ns, of_frame.st_mtime_ns)
    return Item(name=name, path=path, size=size, mtime_ns=mtime_ns)
