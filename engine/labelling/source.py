"""The input of a labelling run: a folder, an address on a server, or a list of both.

It is iterated more than once: to count the files, to label them, and repeatedly with --watch.
"""

import dataclasses
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from engine.errors import UserError
from engine.labelling import addresses, discovery
from engine.labelling.discovery import FileFilter, Item

A_LIST = "a list"
"""Root of a list with absolute paths only; names are the paths as listed."""
LIST_IN = "a list in "
"""Prefix of the root of a list with relative paths; the folder they are relative to follows."""


class Source:
    """Videos to label; raises UserError if the folder or list doesn't exist."""

    def __init__(self, videos: str | Path, wanted: FileFilter, *, is_list: bool) -> None:
        self._address = ""
        if addresses.is_address(str(videos)):
            self._address = str(videos)
            if is_list:
                raise UserError(
                    f"{addresses.name_of(self._address)} is on a server: a list is a file on this "
                    "machine."
                )
        videos = Path(videos)
        self._videos = videos
        self._wanted = wanted
        self._is_list = is_list
        self._piped: list[str] | None = None
        self.skipped: dict[str, str] = {}
        """What the last iteration couldn't read, and why."""
        self.beside: Path | None = None
        """If set, names are relative to this folder; names of files outside are absolute paths."""
        if self._address:
            addresses.file_system(addresses.protocol_of(self._address))
        elif not is_list:
            if videos.is_file():
                raise UserError(
                    f"{videos} is a file: name a folder, or pass `list=True` if it lists paths."
                )
        elif str(videos) == "-":
            self._piped = os.fsdecode(sys.stdin.buffer.read()).split("\n")
        elif not videos.is_file():
            raise UserError(
                f"{videos} is not a file: name a list of paths, or - for standard input."
            )

    @cached_property
    def root(self) -> str:
        """The resolved folder that names are relative to, or `A_LIST`."""
        if self._address:
            return self.name
        if not self._is_list:
            return str(self._videos.resolve())
        with self._lines() as lines:
            if all(map(_stands_alone, discovery.names_in(lines))):
                return A_LIST
        return f"{LIST_IN}{Path.cwd()}"

    def is_away(self) -> bool:
        """Whether the folder is missing or empty, like the mount point of an unmounted drive."""
        if self._is_list or self._address:
            return False
        try:
            return next(self._videos.iterdir(), None) is None
        except OSError:
            return True

    def items(self) -> Iterator[Item]:
        """The files. Those on servers that a list names are not looked up."""
        return self._items(self._wanted)

    def check(self, total: int, num_existing: int) -> None:
        """Raise UserError if no file exists: probably a drive is not connected.

        Args:
            total: Number of items.
            num_existing: Number of items whose file exists.
        """
        all_shards = dataclasses.replace(self._wanted, shard=(0, 1))  # one shard may be empty
        if num_existing or any(may_be_there(item) for item in self._items(all_shards)):
            return
        if total:
            raise UserError(
                f"none of the {total:,} files of {self.name} exists at the moment; check that the "
                "paths are right and their drive is connected. The results were not changed."
            )
        hint = "" if self._is_list or self._address else "that its drive is connected, and "
        raise UserError(
            f"there are no videos in {self.name} to label; check {hint}`include` and `exclude`. "
            "The results were not changed."
        )

    @property
    def name(self) -> str:
        if self._address:
            return addresses.name_of(self._address).rstrip("/")
        return "standard input" if self._piped is not None else str(self._videos)

    def _items(self, wanted: FileFilter) -> Iterator[Item]:
        self.skipped.clear()
        for item in self._named_items(wanted):
            if self.beside is not None and not item.address:
                absolute = item.path.absolute()
                is_below = absolute.is_relative_to(self.beside)
                name = absolute.relative_to(self.beside) if is_below else absolute
                item = dataclasses.replace(item, name=str(name))
            yield item

    def _named_items(self, wanted: FileFilter) -> Iterator[Item]:
        from engine.labelling import remote_files

        if self._address:
            yield from remote_files.below(self._address, wanted)
        elif not self._is_list:
            yield from discovery.below(self._videos, wanted, self.skipped)
        else:
            with self._lines() as lines:
                yield from remote_files.listed(lines, wanted)

    @contextmanager
    def _lines(self) -> Iterator[Iterable[str]]:
        if self._piped is not None:
            yield self._piped
        else:
            with self._videos.open("rb") as file:
                yield map(os.fsdecode, file)


def may_be_there(item: Item) -> bool:
    """Whether a file exists, as far as is known without asking its server."""
    return item.is_there or bool(item.address)


def _stands_alone(name: str) -> bool:
    """Whether a listed path means the same in every folder."""
    return addresses.is_address(name) or Path(name).is_absolute()


def folder_of(root: str) -> Path:
    """The folder that names are relative to, for a root that `Source.root` returned."""
    if root == A_LIST or addresses.is_address(root):
        return Path()
    return Path(root.removeprefix(LIST_IN))


def is_gone(root: str) -> bool:
    """Whether the folder was moved or removed; an unreadable folder still exists."""
    if addresses.is_address(root):
        return False
    try:
        folder_of(root).stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False
