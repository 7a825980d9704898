"""What a run labels: a folder, or the paths of a list.

Walked through more than once: to be counted, to be labelled, and again where it is watched.
"""

import dataclasses
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from engine.errors import UserError
from engine.labelling import discovery
from engine.labelling.discovery import FileFilter, Item

A_LIST = "a list"
"""What the root of a list is called, whose names are as they were listed."""
LIST_IN = "a list in "
"""Before the folder that its names are relative to, where some are."""


class Source:
    """Raises UserError where it isn't there."""

    def __init__(self, videos: Path, wanted: FileFilter, *, is_list: bool) -> None:
        self._videos = videos
        self._wanted = wanted
        self._is_list = is_list
        self._piped: list[str] | None = None
        self.skipped: dict[str, str] = {}
        """What the last walk couldn't look into, and why."""
        self.beside: Path | None = None
        """Another folder, that the names are relative to: outside of it, they are whole paths."""
        if not is_list:
            if videos.is_file():
                raise UserError(
                    f"{videos} is a file: name a folder, or pass --list if it lists paths."
                )
        elif str(videos) == "-":
            self._piped = os.fsdecode(sys.stdin.buffer.read()).split("\n")
        elif not videos.is_file():
            raise UserError(f"{videos} is no file: name a list of paths, or - for standard input.")

    @cached_property
    def root(self) -> str:
        """What the names are relative to, however the folder is spelled."""
        if not self._is_list:
            return str(self._videos.resolve())
        with self._lines() as lines:
            if all(Path(name).is_absolute() for name in discovery.names_in(lines)):
                return A_LIST
        return f"{LIST_IN}{Path.cwd()}"

    def is_away(self) -> bool:
        """Where a folder is gone, or has nothing in it any more, as a drive's has."""
        if self._is_list:
            return False
        try:
            return next(self._videos.iterdir(), None) is None
        except OSError:
            return True

    def items(self) -> Iterator[Item]:
        return self._items(self._wanted)

    def check(self, total: int, there: int) -> None:
        """Refuse what looks like a drive that is away, by how many items there are."""
        whole = dataclasses.replace(self._wanted, shard=(0, 1))  # a shard may have no file
        if there or any(item.is_there for item in self._items(whole)):
            return
        if total:
            raise UserError(
                f"none of the {total:,} files of {self.name} is there at the moment; check that "
                "the paths are right and their drive is connected. The results are left as they "
                "are."
            )
        hint = "" if self._is_list else "that its drive is connected, and "
        raise UserError(
            f"there are no videos in {self.name} to label; check {hint}--include and --exclude. "
            "The results are left as they are."
        )

    @property
    def name(self) -> str:
        return "standard input" if self._piped is not None else str(self._videos)

    def _items(self, wanted: FileFilter) -> Iterator[Item]:
        self.skipped.clear()
        for item in self._named_items(wanted):
            if self.beside is not None:
                whole = item.path.absolute()
                is_below = whole.is_relative_to(self.beside)
                name = whole.relative_to(self.beside) if is_below else whole
                item = dataclasses.replace(item, name=str(name))
            yield item

    def _named_items(self, wanted: FileFilter) -> Iterator[Item]:
        if not self._is_list:
            yield from discovery.below(self._videos, wanted, self.skipped)
        else:
            with self._lines() as lines:
                yield from discovery.listed(lines, wanted)

    @contextmanager
    def _lines(self) -> Iterator[Iterable[str]]:
        """Of the list."""
        if self._piped is not None:
            yield self._piped
        else:
            with self._videos.open("rb") as file:
                yield map(os.fsdecode, file)


def folder_of(root: str) -> Path:
    """To which names are relative that were given with this root."""
    return Path() if root == A_LIST else Path(root.removeprefix(LIST_IN))


def is_gone(root: str) -> bool:
    """Whether this folder was moved or removed; one that may not be looked at is still there."""
    try:
        folder_of(root).stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False
