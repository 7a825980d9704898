"""Records which output files a journal's runs wrote, with a checksum of their content.

This prevents replacing files of other origin, and own outputs that were edited since.
"""

import os
import sqlite3
import zlib
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

CHUNK_BYTES = 1 << 20


class Claims:
    """Table of output paths and checksums in a journal."""

    def __init__(
        self, journal: Path, transaction: Callable[[], AbstractContextManager[sqlite3.Connection]]
    ) -> None:
        self._folder = journal.parent
        self._transaction = transaction

    def add(self, paths: Iterable[Path]) -> None:
        """Claim paths before writing them; any content counts as ours if the run is killed."""
        with self._transaction() as base:
            base.executemany(
                "INSERT OR REPLACE INTO outputs VALUES (?, NULL)", [(self._key(p),) for p in paths]
            )

    def settle(self, paths: Iterable[Path]) -> None:
        """Record the checksums of the files after writing them."""
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
        """Whether the file at `path` has content that a run of this journal wrote."""
        rows = self._rows("SELECT checksum FROM outputs WHERE path = ?", self._key(path))
        return any(known is None or known == _checksum(path) for (known,) in rows)

    def paths(self) -> list[Path]:
        rows = self._rows("SELECT path FROM outputs ORDER BY path")
        return [self._folder / os.fsdecode(path) for (path,) in rows]

    def _rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        with self._transaction() as base:
            return base.execute(query, values).fetchall()

    def _key(self, path: Path) -> bytes:
        """Path relative to the journal, so that a folder of results can be moved.

        A link is not followed, because writing replaces the link itself.
        """
        folder = os.path.realpath(self._folder)
        absolute = Path(os.path.realpath(path.parent)) / path.name
        return os.fsencode(os.path.relpath(absolute, folder))


def _checksum(path: Path) -> int:
    checksum = 0
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                checksum = zlib.crc32(chunk, checksum)
    except OSError:
        return -1
    return checksum
