"""Which files the runs of a journal have written, known again by their content.

So nobody else's file is replaced, nor one of ours that somebody has changed since.
"""

import os
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.labelling.journal import Journal

PART = 1 << 20


class Claims:
    def __init__(self, journal: "Journal") -> None:
        self._journal = journal

    def add(self, paths: Iterable[Path]) -> None:
        """Before they are written: theirs is whatever content a run leaves that is killed."""
        with self._journal.transaction() as base:
            base.executemany(
                "INSERT OR REPLACE INTO outputs VALUES (?, NULL)", [(self._key(p),) for p in paths]
            )

    def settle(self, paths: Iterable[Path]) -> None:
        """After they are written: this content is ours."""
        with self._journal.transaction() as base:
            base.executemany(
                "INSERT OR REPLACE INTO outputs VALUES (?, ?)",
                [(self._key(path), _checksum(path)) for path in paths],
            )

    def drop(self, paths: Iterable[Path]) -> None:
        with self._journal.transaction() as base:
            base.executemany(
                "DELETE FROM outputs WHERE path = ?", [(self._key(path),) for path in paths]
            )

    def holds(self, path: Path) -> bool:
        """Whether what lies there is ours."""
        found = self._journal.rows("SELECT checksum FROM outputs WHERE path = ?", self._key(path))
        return any(known is None or known == _checksum(path) for (known,) in found)

    def paths(self) -> list[Path]:
        folder = self._journal.path.parent
        found = self._journal.rows("SELECT path FROM outputs ORDER BY path")
        return [folder / os.fsdecode(path) for (path,) in found]

    def _key(self, path: Path) -> bytes:
        """Relative to the journal, so that a folder of results may move; a link is not followed,
        since it is replaced itself."""
        folder = os.path.realpath(self._journal.path.parent)
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
