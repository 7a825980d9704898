"""Which files the runs of a journal have written, known again by their content.

So nobody else's file is replaced, nor one of ours that somebody has changed since.
"""

import os
import sqlite3
import zlib
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

PART = 1 << 20


class Claims:
    def __init__(
        self, journal: Path, transaction: Callable[[], AbstractContextManager[sqlite3.Connection]]
    ) -> None:
        self._folder = journal.parent
        self._transaction = transaction

    def add(self, paths: Iterable[Path]) -> None:
        """Before they are written: theirs is whatever content a run leaves that is killed."""
        with self._transaction() as base:
            base.executemany(
                "INSERT OR REPLACE INTO outputs VALUES (?, NULL)", [(self._key(p),) for p in paths]
            )

    def settle(self, paths: Iterable[Path]) -> None:
        """After they are written: this content is ours."""
        with self._transaction() as base:
            base.executemany(
                "INSERT OR REPLACE INTO outputs VALUES (?, ?)",
                [(self._key(path), _checksum(path)) for path in paths],
            )

    def drop(self, paths: Iterable[Path]) -> None:
        with self._transaction() as base:
            base.executemany(
                "DELETE FROM outputs WHERE path = ?", [(self._key(path),) for path in paths]
            )

    def holds(self, path: Path) -> bool:
        """Whether what lies there is ours."""
        found = self._rows("SELECT checksum FROM outputs WHERE path = ?", self._key(path))
        return any(known is None or known == _checksum(path) for (known,) in found)

    def paths(self) -> list[Path]:
        found = self._rows("SELECT path FROM outputs ORDER BY path")
        return [self._folder / os.fsdecode(path) for (path,) in found]

    def _rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        with self._transaction() as base:
            return base.execute(query, values).fetchall()

    def _key(self, path: Path) -> bytes:
        """Relative to the journal, so that a folder of results may move; a link is not followed,
        since it is replaced itself."""
        folder = os.path.realpath(self._folder)
        whole = Path(os.path.realpath(path.parent)) / path.name
        return os.fsencode(os.path.relpath(whole, folder))


def _checksum(path: Path) -> int:
    found = 0
    try:
        with path.open("rb") as file:
            while part := file.read(PART):
                found = zlib.crc32(part, found)
    except OSError:
        return -1
    return found
